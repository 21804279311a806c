"""The coordinator over a scripted executor: the records in Optuna and MLflow, whatever happens to a run."""

from __future__ import annotations

import io
import itertools
import json
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import optuna
import pytest
from optuna.exceptions import StorageInternalError
from optuna.samplers import RandomSampler
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from cifar_core.budget import Budget, step_flops
from cifar_core.checkpoint import load_weights, save_state
from cifar_core.data import Splits
from cifar_core.recipe import Recipe
from cifar_core.training import TrainState, total_steps
from sweeps import coordinator
from sweeps.console import SweepConsole
from sweeps.coordinator import Coordinator, Interrupted, StoreLostError, Summary
from sweeps.executors.protocol import (
    CheckpointWriteFailed,
    Diverged,
    EvaluateJob,
    Event,
    Failed,
    Finished,
    Job,
    Log,
    Paused,
    Progressed,
    TrainJob,
)
from sweeps.planning.plan import Plan
from sweeps.planning.presets import Preset
from sweeps.planning.search_space import SPACES
from sweeps.stage import Sweep
from sweeps.store import Store
from sweeps.study import PRUNERS
from tests.sweeps.small_data import CPU, small_splits
from tests.sweeps.support import MemoryRun, MemoryTracker, outcome, plan, point

TRAIN_IMAGES = 256
SPACE = replace(SPACES["fast"], optimizers=("sgd",), widths=(0.25, 0.5), batch_sizes=(8,), starts=())
PRESET = Preset(
    "tiny", trial=Budget(flops=None, max_epochs=1), confirm=Budget(flops=None, max_epochs=2), recipes=2, seeds=2
)
ENDED_BY_STOP = "the sweep was stopped"

# The final validation accuracy of a run, by its key.
Script = Callable[[str], float]
# What happens to a run in place of its last point, by its key and how often it was started before.
Fault = Callable[[str, int], Event | None]


def even(key: str) -> float:
    """Trials get better with their number; confirmation does not change their order, and seeds hardly differ."""
    stage, number, *seed = key.split("-")
    return 0.3 + int(number) / 100 + (0.2 + int(seed[0]) / 1000 if stage == "confirm" else 0.0)


def no_fault(key: str, starts: int) -> None:
    return None


def died(key: str) -> Failed:
    return Failed(key, "worker died: killed by SIGKILL", "", worker_died=True)


class ScriptedExecutor:
    """Two workers that train in no time: points come one at a time, and validations wait for an answer."""

    def __init__(self, sweep: Study) -> None:
        self.script, self.fault, self.starts = sweep.script, sweep.fault, sweep.starts
        self.dies_at, self.notes = sweep.dies_at, sweep.notes
        self.jobs: list[Job] = []
        self.tested: list[str] = []
        self._left: dict[str, deque[Event]] = {}
        self._waiting: set[str] = set()

    @property
    def free(self) -> int:
        return 2 - len(self._left)

    def start(self, job: Job) -> None:
        assert self.free
        assert job.key not in self._left, "a run must not be started twice at the same time"
        self.jobs.append(job)
        self._left[job.key] = deque(self._train(job) if isinstance(job, TrainJob) else self._test(job))
        self.starts[job.key] += isinstance(job, TrainJob)

    def events(self, timeout: float) -> list[Event]:
        happened = []
        for key in [key for key in self._left if key not in self._waiting]:
            event = self._left[key].popleft()
            happened.append(event)
            if isinstance(event, Log):
                continue
            if not isinstance(event, Progressed):
                del self._left[key]
            elif event.point.val_accuracy is not None and event.point.fraction < 1:
                self._waiting.add(key)
        return happened

    def reply(self, key: str, *, go_on: bool) -> None:
        self._waiting.discard(key)
        if not go_on:
            del self._left[key]

    def pause(self) -> None:
        for key in self._left:
            self._left[key] = deque([Paused(key)])
        self._waiting.clear()

    def close(self) -> None:
        self._left.clear()

    def _train(self, job: TrainJob) -> Iterator[Event]:
        accuracy, steps = self.script(job.key), total_steps(job.recipe, TRAIN_IMAGES)

        def step_at(fraction: float) -> int:
            return max(1, round(fraction * steps))

        validated = {step_at(fraction) for fraction in job.schedule.validations}
        shown = {step_at(fraction) for fraction in job.schedule.losses}
        fault = self.fault(job.key, self.starts[job.key])
        last = self.dies_at(job.key, self.starts[job.key])
        if job.key in self.notes:
            yield Log(job.key, self.notes[job.key])
        for step in sorted(validated | shown):
            if fault is not None and step == steps:
                yield fault
                return
            if last is not None and step > sorted(validated)[last - 1]:
                yield died(job.key)
                return
            reached = accuracy * (step / steps) ** 0.1 if step in validated else None
            epoch = step * job.recipe.batch_size / TRAIN_IMAGES
            yield Progressed(job.key, point(step, reached, steps=steps, epoch=epoch))
        if job.weights is not None:
            save_state(TrainState.create(job.recipe, small_splits(16, 8), CPU), job.weights)
        yield Finished(job.key, outcome(accuracy, images=64))

    def _test(self, job: EvaluateJob) -> Iterator[Event]:
        fault = self.fault(f"test-{job.key}", self.starts[f"test-{job.key}"])
        self.starts[f"test-{job.key}"] += 1
        if fault is not None:
            yield replace(fault, key=job.key)
            return
        load_weights(job.recipe, job.weights)
        self.tested.append(job.key)
        yield Finished(job.key, outcome(self.script(job.key) - 0.01, images=10_000))


@dataclass
class Study:
    """A study, a tracker and a store that last; each `run` is a new process over them."""

    root: Path
    data: Splits
    plan: Plan
    script: Script = even
    fault: Fault = no_fault
    dies_at: Callable[[str, int], int | None] = lambda key, starts: None  # number of the last validation
    notes: dict[str, str] = field(default_factory=dict)
    tracker: MemoryTracker = field(default_factory=MemoryTracker)
    log: io.StringIO = field(default_factory=io.StringIO)
    starts: Counter[str] = field(default_factory=Counter)
    tested: list[str] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)  # of the last run

    def __post_init__(self) -> None:
        self.store = Store.locate(self.root)
        self.root.mkdir()
        self.storage = InMemoryStorage()
        self.study = optuna.create_study(
            storage=self.storage,
            direction="maximize",
            sampler=RandomSampler(seed=0),
            pruner=PRUNERS[self.plan.pruner](),
        )

    def run(self, stop: Callable[[], bool] = lambda: False, **changes: object) -> Summary:
        executor = ScriptedExecutor(self)
        plan = replace(self.plan, **changes)  # type: ignore[arg-type]
        try:
            with SweepConsole(file=self.log) as console:
                sweep = Sweep(
                    plan=plan,
                    study=self.study,
                    storage=self.storage,
                    train_images=len(self.data.train),
                    val_images=len(self.data.val),
                    tracker=self.tracker,
                    store=self.store,
                    console=console,
                    tags={"git_commit": "abc"},
                )
                return Coordinator(sweep, executor, b"samples", stop).run()
        finally:
            self.jobs = executor.jobs
            self.tested += executor.tested

    def stopped_after(self, polls: int, **changes: object) -> bool:
        """Run until stop was asked for `polls` times; true if the sweep was interrupted by that."""
        asked = itertools.count(1)
        try:
            self.run(stop=lambda: next(asked) >= polls, **changes)
        except Interrupted:
            return True
        return False

    @property
    def trials(self) -> list[FrozenTrial]:
        return self.study.get_trials()

    def states(self) -> dict[TrialState, int]:
        return dict(Counter(trial.state for trial in self.trials))

    def runs(self, stage: str) -> dict[str, MemoryRun]:
        return {key: run for key, run in self.tracker.runs.items() if run.tags["stage"] == stage}

    def recorded_tests(self) -> list[dict[str, object]]:
        path = self.root / "test_looks.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture(scope="module")
def data() -> Splits:
    return small_splits(TRAIN_IMAGES, 64)


@pytest.fixture
def sweep(tmp_path: Path, data: Splits) -> Study:
    small = plan(study="a study", trials=4, space_name="tiny", space=SPACE, preset_name="tiny", preset=PRESET)
    return Study(tmp_path / "store", data, small)


def pruning(sweep: Study) -> Study:
    """The same sweep with successive halving; trial 0 is the best, so that many of the others are pruned."""
    sweep.plan = replace(sweep.plan, pruner="halving")
    sweep.study.pruner = PRUNERS["halving"]()
    sweep.script = lambda key: 0.9 - int(key.split("-")[1]) / 100
    return sweep


def check_whole(sweep: Study, trials: int = 4) -> None:
    """The sweep is at its end as if nothing had ever happened to it."""
    assert sweep.states() == {TrialState.COMPLETE: trials}
    best = [f"confirm-{trial}-{seed}" for trial in (trials - 1, trials - 2) for seed in (0, 1)]
    assert set(sweep.tracker.runs) == {f"trial-{number}" for number in range(trials)} | set(best)
    for key, run in sweep.tracker.runs.items():
        assert (run.state, run.reason) == ("complete", ""), key
        assert run.steps == sorted(set(run.steps)), f"{key} has doubled points"
        assert len(run.steps) >= 20
        assert run.metrics["cost/epochs"] == (1 if key.startswith("trial") else 2)
    assert sweep.tested == best[:2], "only the champion's runs meet the test set, and each only once"
    assert [line["key"] for line in sweep.recorded_tests()] == best[:2]
    assert sweep.tracker.study.state == "finished"


class TestSearch:
    def test_a_whole_sweep(self, sweep: Study) -> None:
        summary = sweep.run()
        check_whole(sweep)
        assert (summary.complete, summary.pruned, summary.failed) == (4, 0, 0)
        assert not summary.nothing_left
        assert [trial.value for trial in sweep.trials] == [even(f"trial-{number}") for number in range(4)]
        for number, trial in enumerate(sweep.trials):
            run = sweep.tracker.runs[f"trial-{number}"]
            recipe = Recipe.from_dict(trial.user_attrs["recipe"])
            assert recipe.epochs == 1
            assert run.params.items() >= {name: str(value) for name, value in recipe.to_dict().items()}.items()
            assert run.tags == {
                "state": "complete",
                "key": f"trial-{number}",
                "stage": "search",
                "study": "a study",
                "trial": str(number),
                "attempt": "1",
                "git_commit": "abc",
            }
            assert Recipe.from_toml(run.files["recipe.toml"].decode()) == recipe
            assert sorted(trial.intermediate_values) == [1, 2, 4, 6, 8]
            assert run.metrics["cost/epochs"] == 1
            assert str(run.metrics["cost/training_flops"]) == run.params["trial_flops"]
            assert run.metrics["cost/validation_share"] == pytest.approx(0.1)

    def test_trials_have_different_seeds(self, sweep: Study) -> None:
        sweep.run(confirm=False)
        assert len({job.recipe.seed for job in sweep.jobs}) == 4

    def test_the_same_again_does_nothing(self, sweep: Study) -> None:
        first = sweep.run()
        again = sweep.run()
        assert sweep.jobs == []
        assert again.nothing_left
        assert again.champion == first.champion
        assert again.test_accuracy == first.test_accuracy
        assert again.saved == first.saved
        check_whole(sweep)

    def test_trials_is_a_total(self, sweep: Study) -> None:
        sweep.run(trials=3, confirm=False)
        assert sweep.run(trials=2, confirm=False).nothing_left
        sweep.run(trials=5, confirm=False)
        assert len(sweep.jobs) == 2
        assert sweep.states() == {TrialState.COMPLETE: 5}

    def test_the_best_so_far_is_told(self, sweep: Study) -> None:
        sweep.run()
        assert sweep.tracker.study.metrics["study/best_val_accuracy"] == even("trial-3")
        assert re.search(r"best 33\.0 ?% validation accuracy, trial 3, fast_resnet", sweep.log.getvalue())

    def test_the_best_of_an_earlier_process_is_told_until_a_better_one_comes(self, sweep: Study) -> None:
        sweep.run(trials=3, confirm=False)
        sweep.script = lambda key: 0.1
        sweep.log.truncate(0)
        sweep.run(trials=5, confirm=False)
        assert sweep.tracker.study.metrics["study/best_val_accuracy"] == even("trial-2")
        assert re.search(r"best 32\.0 ?% validation accuracy, trial 2, fast_resnet", sweep.log.getvalue())

    def test_an_enqueued_recipe_is_trained_as_it_is(self, sweep: Study) -> None:
        recipe = Recipe(model="five_conv", width=0.125, batch_size=16, learning_rate=0.1 + 0.2, cutout=9)
        sweep.study.enqueue_trial(SPACE.nearest(recipe), user_attrs={"enqueued_recipe": recipe.to_dict()})
        sweep.run(trials=1, confirm=False)
        assert sweep.jobs[0].recipe == replace(recipe, epochs=1.0)
        assert "trial 0, five_conv" in sweep.log.getvalue(), (
            "the network that was trained, not the nearest in the space"
        )

    def test_a_trial_that_the_budget_cannot_pay_for_is_narrowed(self, sweep: Study) -> None:
        recipe = Recipe(model="five_conv", width=0.5, batch_size=16)
        budget = Budget(flops=1.5 * step_flops(recipe), max_epochs=1)
        sweep.plan = replace(sweep.plan, preset=replace(PRESET, trial=budget))
        sweep.study.enqueue_trial(SPACE.nearest(recipe), user_attrs={"enqueued_recipe": recipe.to_dict()})
        sweep.run(trials=1, confirm=False)
        narrow = replace(recipe, width=0.25)
        assert sweep.jobs[0].recipe == budget.apply(narrow, TRAIN_IMAGES)
        assert Recipe.from_dict(sweep.trials[0].user_attrs["recipe"]) == sweep.jobs[0].recipe
        line = "trial 0: five_conv at width 0.25, because the budget covers fewer than two training steps at 0.5"
        assert line in sweep.log.getvalue().splitlines()

    def test_no_further_trials_after_the_time_is_over(self, sweep: Study) -> None:
        sweep.run(timeout=1e-9)
        assert "no further trials after 1e-09 s" in sweep.log.getvalue()
        assert sweep.trials == []
        summary = sweep.run(timeout=3600.0)
        assert summary.complete == 4


class TestPruning:
    def test_pruned_trials_say_where_and_why(self, sweep: Study) -> None:
        summary = pruning(sweep).run(trials=8, confirm=False)
        pruned = [trial for trial in sweep.trials if trial.state == TrialState.PRUNED]
        assert (summary.complete, summary.pruned) == (8 - len(pruned), len(pruned))
        assert len(pruned) >= 4
        for trial in pruned:
            run = sweep.tracker.runs[f"trial-{trial.number}"]
            assert run.state == "pruned"
            assert run.reason == trial.user_attrs["reason"]
            fraction, accuracy = run.metrics["cost/epochs"], run.metrics["val/accuracy"]
            assert fraction in (0.125, 0.5)
            assert run.reason == (
                f"pruned by halving at {100 * fraction:.0f} % of its budget with {100 * accuracy:.1f} % "
                f"validation accuracy"
            )
            assert trial.user_attrs["spent_flops"] == fraction * trial.user_attrs["flops"]
            assert run.metrics["cost/training_flops"] == trial.user_attrs["spent_flops"]

    def test_what_was_saved(self, sweep: Study) -> None:
        summary = pruning(sweep).run(trials=8, confirm=False)
        full = sum(trial.user_attrs["flops"] for trial in sweep.trials)
        spent = sum(
            trial.user_attrs["flops"] * sweep.tracker.runs[f"trial-{trial.number}"].metrics["cost/epochs"]
            for trial in sweep.trials
        )
        assert summary.full_flops == pytest.approx(full)
        assert summary.saved == pytest.approx(1 - spent / full)
        assert 0.4 < summary.saved < 1
        assert sweep.tracker.study.metrics["study/saved_fraction"] == summary.saved

    def test_nothing_is_saved_where_nothing_is_pruned(self, sweep: Study) -> None:
        assert sweep.run(confirm=False).saved == 0
        assert Summary().saved == 0

    def test_a_diverged_trial_is_pruned_so_that_the_sampler_learns_of_it(self, sweep: Study) -> None:
        reason = "training loss was nan at step 4"
        sweep.fault = lambda key, starts: Diverged(key, reason) if key == "trial-1" else None
        summary = sweep.run(confirm=False)
        assert sweep.trials[1].state == TrialState.PRUNED
        assert sweep.trials[1].user_attrs["reason"] == reason
        assert (sweep.tracker.runs["trial-1"].state, sweep.tracker.runs["trial-1"].reason) == ("pruned", reason)
        assert (summary.complete, summary.pruned) == (3, 1)


class TestFailures:
    def test_a_failed_trial_does_not_end_the_sweep(self, sweep: Study) -> None:
        sweep.fault = lambda key, starts: Failed(key, "RuntimeError: broken", "...") if key == "trial-1" else None
        summary = sweep.run(confirm=False)
        assert sweep.states() == {TrialState.COMPLETE: 3, TrialState.FAIL: 1}
        assert sweep.trials[1].user_attrs["reason"] == "RuntimeError: broken"
        assert sweep.tracker.runs["trial-1"].state == "failed"
        assert sweep.tracker.runs["trial-1"].reason == "RuntimeError: broken"
        assert (summary.complete, summary.failed) == (3, 1)
        assert "trial 1 failed: RuntimeError: broken" in sweep.log.getvalue()
        assert sweep.starts["trial-1"] == 1, "an error in the run itself would only come again"
        assert sweep.run(confirm=False).nothing_left, "a failed trial is one of the total"

    def test_a_run_whose_worker_died_is_started_again(self, sweep: Study) -> None:
        sweep.fault = lambda key, starts: died(key) if key in ("trial-1", "confirm-3-0") and starts < 2 else None
        sweep.run()
        check_whole(sweep)
        assert (sweep.starts["trial-1"], sweep.starts["confirm-3-0"]) == (3, 3)
        assert sweep.tracker.runs["trial-1"].tags["attempt"] == "3"
        assert sweep.tracker.runs["trial-0"].tags["attempt"] == "1"
        assert "trial 1: worker died: killed by SIGKILL; it resumes from its last checkpoint" in sweep.log.getvalue()

    def test_after_three_deaths_it_has_failed(self, sweep: Study) -> None:
        sweep.fault = lambda key, starts: died(key) if key == "trial-1" else None
        sweep.run(confirm=False)
        assert sweep.starts["trial-1"] == 3
        assert sweep.trials[1].state == TrialState.FAIL
        assert sweep.trials[1].user_attrs["reason"] == "worker died: killed by SIGKILL"
        assert sweep.states()[TrialState.COMPLETE] == 3

    def test_a_run_that_gets_further_each_time_has_as_many_deaths_as_it_takes(self, sweep: Study) -> None:
        """Each attempt dies at the next validation, as on a machine that is taken away every hour."""
        sweep.dies_at = lambda key, starts: starts + 1 if key == "trial-1" and starts < 4 else None
        sweep.run(confirm=False)
        assert sweep.starts["trial-1"] == 5
        assert sweep.states() == {TrialState.COMPLETE: 4}

    def test_a_disk_that_is_full_fails_no_trial(self, sweep: Study) -> None:
        full = CheckpointWriteFailed("trial-1", "a checkpoint must be writable, but got: No space left on device")
        sweep.fault = lambda key, starts: full if key == "trial-1" and starts == 0 else None
        with pytest.raises(StoreLostError, match=r"^a checkpoint must be writable, but got: No space left on device$"):
            sweep.run()
        assert TrialState.FAIL not in sweep.states()
        sweep.run()
        check_whole(sweep)

    def test_a_storage_that_takes_no_more(self, sweep: Study, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: object, **__: object) -> None:
            raise StorageInternalError("invalid data in the commit, say") from OSError("disk is full\n(a long story)")

        with monkeypatch.context() as context:
            context.setattr(sweep.study, "tell", full)
            with pytest.raises(StoreLostError, match=r"^disk is full$"):
                sweep.run()
        sweep.run()
        check_whole(sweep)

    def test_what_a_worker_notes_is_said(self, sweep: Study) -> None:
        sweep.notes = {"trial-2": "step-000000004.safetensors: SHA-256 must be a, but got b"}
        sweep.run(confirm=False)
        assert "trial 2: step-000000004.safetensors: SHA-256 must be a, but got b" in sweep.log.getvalue()

    def test_without_a_complete_trial_there_is_no_champion(self, sweep: Study) -> None:
        sweep.fault = lambda key, starts: Failed(key, "RuntimeError: broken", "...")
        summary = sweep.run()
        assert (summary.failed, summary.champion, summary.test_accuracy) == (4, None, None)
        assert "no trial was completed, so there is nothing to confirm" in sweep.log.getvalue()
        assert sweep.recorded_tests() == []

    def test_without_a_complete_confirmation_there_is_no_champion(self, sweep: Study) -> None:
        sweep.fault = lambda key, starts: Diverged(key, "loss was nan") if key.startswith("confirm") else None
        summary = sweep.run()
        assert (summary.complete, summary.champion) == (4, None)
        assert "no confirmation run was completed, so there is no champion" in sweep.log.getvalue()
        assert sweep.recorded_tests() == []


class TestInterruption:
    @pytest.mark.parametrize("polls", [1, 2, 50, 80, 120, 150])
    def test_stop_and_go_on(self, sweep: Study, polls: int) -> None:
        assert sweep.stopped_after(polls)
        assert sweep.tracker.study.state == "interrupted"
        unfinished = {key for key, run in sweep.tracker.runs.items() if run.state != "complete"}
        assert len(unfinished) <= 2
        for key in unfinished:
            assert (sweep.tracker.runs[key].state, sweep.tracker.runs[key].reason) == ("interrupted", ENDED_BY_STOP)
        sweep.run()
        check_whole(sweep)

    def test_stop_again_and_again(self, sweep: Study) -> None:
        interruptions = 0
        while sweep.stopped_after(60):
            interruptions += 1
            assert interruptions < 20
        assert interruptions >= 3
        check_whole(sweep)

    def test_a_run_that_does_not_keep_its_state_in_time_is_not_waited_for(
        self, sweep: Study, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(coordinator, "_PAUSE_SECONDS", 0.1)
        monkeypatch.setattr(ScriptedExecutor, "pause", lambda executor: executor._waiting.update(executor._left))
        started = time.monotonic()
        assert sweep.stopped_after(5)
        assert time.monotonic() - started < 10
        monkeypatch.undo()
        sweep.run()
        check_whole(sweep)

    def test_a_run_that_is_gone_on_with_is_told_what_is_on_record(self, sweep: Study) -> None:
        assert sweep.stopped_after(10)
        for key in ("trial-0", "trial-1"):
            sweep.store.checkpoints("a study", key).mkdir(parents=True)
        known = {key: run.steps[-1] for key, run in sweep.tracker.runs.items()}
        sweep.run(confirm=False)
        told = {job.key: job.recorded for job in sweep.jobs if isinstance(job, TrainJob)}
        assert told == {**known, "trial-2": None, "trial-3": None}

    def test_checkpoints_that_a_crash_left_of_ended_runs_are_cleared(self, sweep: Study) -> None:
        sweep.run()
        for key in ("trial-0", "confirm-3-0"):
            sweep.store.checkpoints("a study", key).mkdir(parents=True)
        sweep.run()
        assert list(sweep.store.checkpoints("a study", "x").parent.iterdir()) == []

    @pytest.mark.parametrize("polls", [10, 30])
    def test_resumed_trials_are_pruned_as_well(self, sweep: Study, polls: int) -> None:
        pruning(sweep)
        while sweep.stopped_after(polls, trials=8, confirm=False):
            polls += 1
        assert len(sweep.trials) == 8
        assert set(sweep.states()) == {TrialState.COMPLETE, TrialState.PRUNED}
        assert all({"flops", "spent_flops"} <= set(trial.user_attrs) for trial in sweep.trials)

    def test_a_run_that_was_to_be_started_again_is_not_left_running(self, sweep: Study) -> None:
        """As when the whole process group is asked to end: workers die, and then the coordinator is to stop."""
        deaths = itertools.count()

        def everybody_dies(key: str, starts: int) -> Event | None:
            return died(key) if starts == 0 and next(deaths) < 2 else None

        sweep.fault = everybody_dies
        with pytest.raises(Interrupted):
            sweep.run(stop=lambda: "it resumes from its last" in sweep.log.getvalue())
        assert {run.state for run in sweep.tracker.runs.values()} == {"interrupted"}
        sweep.run()
        check_whole(sweep)

    def test_wall_time_of_all_processes_is_added_up(self, sweep: Study) -> None:
        assert sweep.stopped_after(20)
        first = sweep.study.user_attrs["seconds"]
        assert first > 0
        sweep.run()
        assert sweep.study.user_attrs["seconds"] > first


class TestConfirmation:
    def test_the_best_are_trained_again_with_more_and_other_seeds(self, sweep: Study) -> None:
        sweep.run()
        trials = {trial.number: Recipe.from_dict(trial.user_attrs["recipe"]) for trial in sweep.trials}
        jobs = {job.key: job for job in sweep.jobs if job.key.startswith("confirm") and isinstance(job, TrainJob)}
        assert list(jobs) == ["confirm-3-0", "confirm-2-0", "confirm-3-1", "confirm-2-1"], "first seeds first"
        seeds = {job.recipe.seed for job in jobs.values()} | {recipe.seed for recipe in trials.values()}
        assert len(seeds) == 8
        for key, job in jobs.items():
            source = trials[int(key.split("-")[1])]
            decay = pytest.approx(source.weight_decay / 2)  # as the run is twice as long
            assert job.recipe.weight_decay == decay
            assert replace(job.recipe, weight_decay=source.weight_decay) == replace(
                source, epochs=2.0, seed=job.recipe.seed
            )
            assert job.weights == sweep.root / "weights" / "a=20study" / f"{key}.safetensors"
            assert job.weights.exists()
            tags = sweep.tracker.runs[key].tags
            assert tags["stage"] == "confirm"
            assert tags["source_trial"] == key.split("-")[1]
            assert tags["seed"] == key.split("-")[2]

    def test_search_runs_leave_no_weights(self, sweep: Study) -> None:
        sweep.run(confirm=False)
        assert not (sweep.root / "weights").exists()

    def test_but_all_complete_ones_do_where_that_was_asked_for(self, sweep: Study) -> None:
        sweep.fault = lambda key, starts: Diverged(key, "loss was nan") if key == "trial-1" else None
        sweep.run(confirm=False, keep_weights=True)
        kept = {path.stem for path in (sweep.root / "weights" / "a=20study").glob("*.safetensors")}
        assert kept == {"trial-0", "trial-2", "trial-3"}
        for job in sweep.jobs:
            assert job.weights == sweep.store.weights("a study", job.key)

    def test_the_champion_is_best_on_average_in_the_confirmation(self, sweep: Study) -> None:
        accuracy = {"confirm-3-0": 0.90, "confirm-3-1": 0.70, "confirm-2-0": 0.80, "confirm-2-1": 0.84}
        sweep.script = lambda key: accuracy.get(key, even(key))
        summary = sweep.run()
        assert summary.champion is not None
        assert summary.champion.source == 2
        assert summary.champion.keys == ("confirm-2-0", "confirm-2-1")
        assert summary.champion.accuracy == pytest.approx(0.82)
        assert summary.test_accuracy == pytest.approx(0.81)
        assert sweep.tested == ["confirm-2-0", "confirm-2-1"]

    def test_a_champion_may_lack_a_run(self, sweep: Study) -> None:
        sweep.fault = lambda key, starts: Failed(key, "broken", "") if key == "confirm-3-0" else None
        summary = sweep.run()
        assert summary.champion is not None
        assert summary.champion.keys == ("confirm-3-1",)
        assert sweep.tested == ["confirm-3-1"]

    def test_lost_weights_are_made_again(self, sweep: Study) -> None:
        sweep.run()
        sweep.store.weights("a study", "confirm-3-0").unlink()
        summary = sweep.run()
        assert [job.key for job in sweep.jobs] == ["confirm-3-0"]
        assert not summary.nothing_left
        check_whole(sweep)

    def test_more_trials_later_make_a_new_confirmation(self, sweep: Study) -> None:
        sweep.run()
        summary = sweep.run(trials=5)
        assert [job.key for job in sweep.jobs if isinstance(job, TrainJob)] == ["trial-4", "confirm-4-0", "confirm-4-1"]
        assert summary.champion is not None
        assert summary.champion.source == 4
        assert sweep.tested == ["confirm-3-0", "confirm-3-1", "confirm-4-0", "confirm-4-1"]
        assert len(sweep.recorded_tests()) == 4


class TestTestSet:
    def test_evaluations_are_recorded(self, sweep: Study) -> None:
        sweep.run()
        recorded = [(line["study"], line["key"]) for line in sweep.recorded_tests()]
        assert recorded == [("a study", f"confirm-3-{seed}") for seed in (0, 1)]

    def test_only_the_champion_has_test_figures_and_a_model(self, sweep: Study) -> None:
        sweep.run()
        tested = {key for key, run in sweep.tracker.runs.items() if "test/accuracy" in run.metrics}
        kept = {key for key, run in sweep.tracker.runs.items() if run.model is not None}
        assert tested == kept == {"confirm-3-0", "confirm-3-1"}
        for key in kept:
            assert sweep.tracker.runs[key].model == sweep.store.weights("a study", key)

    def test_without_confirmation_it_stays_closed(self, sweep: Study) -> None:
        summary = sweep.run(confirm=False)
        assert (summary.champion, summary.test_accuracy) == (None, None)
        assert {job.key.split("-")[0] for job in sweep.jobs} == {"trial"}
        assert not (sweep.root / "test_looks.jsonl").exists()
        sweep.run()
        check_whole(sweep)

    def test_a_worker_that_dies_in_a_test_may_have_looked(self, sweep: Study) -> None:
        sweep.fault = lambda key, starts: died(key) if key == "test-confirm-3-0" and starts == 0 else None
        sweep.run()
        assert sorted(sweep.tested) == ["confirm-3-0", "confirm-3-1"]
        assert sorted(str(line["key"]) for line in sweep.recorded_tests()) == [
            "confirm-3-0",
            "confirm-3-0",
            "confirm-3-1",
        ]

    def test_a_test_that_fails_is_an_error(self, sweep: Study) -> None:
        sweep.fault = lambda key, starts: Failed(key, "DataError: no file", "...") if key.startswith("test") else None
        with pytest.raises(RuntimeError, match="test of confirm-3-0 failed: DataError: no file"):
            sweep.run()
        assert [line["key"] for line in sweep.recorded_tests()] == ["confirm-3-0", "confirm-3-1"]
        sweep.fault = no_fault
        sweep.run()
        assert sweep.tested == ["confirm-3-0", "confirm-3-1"]
