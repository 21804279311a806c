"""A sweep over a scripted executor, for tests of the coordinator and of its stages."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.samplers import RandomSampler
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from cifar_core.budget import Budget
from cifar_core.checkpoint import load_weights, save_state
from cifar_core.data import Splits
from cifar_core.training import TrainState, total_steps
from sweeps.command_line import Interrupted
from sweeps.console import SweepConsole
from sweeps.coordinator import Coordinator, Summary
from sweeps.executors.protocol import EvaluateJob, Event, Failed, Finished, Job, Log, Paused, Progressed, TrainJob
from sweeps.planning.plan import Plan
from sweeps.planning.presets import Preset
from sweeps.planning.search_space import Parameter
from sweeps.planning.space_file import SPACES
from sweeps.progress import SweepProgress
from sweeps.stages.stage import Sweep
from sweeps.store import Store
from sweeps.studies.pruners import PRUNERS
from sweeps.studies.storage import OneWriterStorage
from tests.sweeps.executors.support import waits
from tests.sweeps.small_data import CPU, small_splits
from tests.sweeps.support import MemoryTracker, outcome, point

TRAIN_IMAGES, VAL_IMAGES = 256, 64
SPACE = replace(
    SPACES["fast"],
    name="tiny",
    description="for tests",
    holds=(),
    parameters={
        **{name: replace(parameter, start=None) for name, parameter in SPACES["fast"].parameters.items()},
        "model": Parameter(CategoricalDistribution(("fast_resnet",))),
        "optimizer": Parameter(CategoricalDistribution(("sgd",))),
        "batch_size": Parameter(CategoricalDistribution((8,))),
        "width": Parameter(FloatDistribution(0.25, 0.5, step=0.25)),
    },
)
PRESET = Preset(
    "tiny",
    "for tests",
    trial=Budget(flops=None, max_epochs=1),
    rung_images=64,
    trial_images=128,
    confirm=Budget(flops=None, max_epochs=2),
    recipes=2,
    seeds=2,
    final=Budget(flops=None, max_epochs=4),
    finals=2,
)

# The final validation accuracy of a run, by its key.
Script = Callable[[str], float]
# What happens to a run in place of its last point, by its key and how often it was started before.
Fault = Callable[[str, int], Event | None]


def even(key: str) -> float:
    """Trials get better with their number; confirmation does not change their order, and seeds hardly differ."""
    stage, number, *seed = key.split("-")
    more = {"trial": 0.0, "confirm": 0.2, "final": 0.3}[stage]
    return more + 0.3 + int(number) / 100 + (int(seed[0]) / 1000 if seed else 0.0)


def no_fault(key: str, starts: int) -> None:
    return None


def died(key: str) -> Failed:
    return Failed(key, "worker died: killed by SIGKILL", "", worker_died=True)


class ScriptedExecutor:
    """Two workers that train in no time: points come one at a time, and validations wait for an answer."""

    def __init__(self, sweep: Study) -> None:
        self.sweep = sweep
        self.jobs: list[Job] = []
        self.tested: list[str] = []
        self._left: dict[str, deque[Event]] = {}
        self._waiting: set[str] = set()
        self._late = sweep.late
        self._pausing = False

    @property
    def free(self) -> int:
        return 0 if self._late else 2 - len(self._left)

    @property
    def pending_workers(self) -> int:
        return self._late

    def start(self, job: Job) -> str | None:
        assert self.free
        assert job.key not in self._left, "a run must not be started twice at the same time"
        self.jobs.append(job)
        stage = job.key.split("-")[0]
        self.sweep.together[stage] = max(self.sweep.together[stage], len(self._left) + 1)
        self._left[job.key] = deque(self._train(job) if isinstance(job, TrainJob) else self._test(job))
        self.sweep.starts[job.key] += isinstance(job, TrainJob)
        return self.sweep.node

    def events(self, timeout: float) -> list[Event]:
        happened = []
        self._late = max(0, self._late - 1)
        for key in [key for key, left in self._left.items() if left and key not in self._waiting]:
            event = self._left[key].popleft()
            happened.append(event)
            if isinstance(event, Log):
                continue
            if not isinstance(event, Progressed):
                del self._left[key]
            elif waits(event) and event.point.fraction < 1 and not self._pausing:
                self._waiting.add(key)
        return happened

    def reply(self, key: str, *, go_on: bool) -> None:
        assert not self._pausing, "a run that pauses waits for no answer"
        self._waiting.discard(key)
        if not go_on:
            del self._left[key]

    def pause(self) -> None:
        self._pausing = True
        for key, left in self._left.items():
            ending = self.sweep.paused(key)
            self._left[key] = deque(list(filter(waits, left))[: self.sweep.on_their_way])
            self._left[key] += [ending] if ending is not None else []
        self._waiting.clear()

    def close(self) -> None:
        self._left.clear()

    def _images(self, job: TrainJob) -> int:
        return TRAIN_IMAGES + (VAL_IMAGES if job.recipe.val_fraction == 0 else 0)

    def _train(self, job: TrainJob) -> Iterator[Event]:
        accuracy, steps = self.sweep.script(job.key), total_steps(job.recipe, self._images(job))

        def step_at(fraction: float) -> int:
            return max(1, round(fraction * steps))

        validated = {step_at(fraction) for fraction in job.schedule.validations}
        shown = {step_at(fraction) for fraction in job.schedule.losses}
        fault = self.sweep.fault(job.key, self.sweep.starts[job.key])
        last = self.sweep.dies_at(job.key, self.sweep.starts[job.key])
        if (refusal := self.sweep.refuses(job.key)) is not None:
            yield refusal
            return
        if job.key in self.sweep.notes:
            yield Log(job.key, self.sweep.notes[job.key])
        for step in sorted(validated | shown):
            if fault is not None and step == steps:
                yield fault
                return
            if last is not None and step > sorted(validated or shown)[last - 1]:
                yield died(job.key)
                return
            reached = accuracy * (step / steps) ** 0.1 if step in validated else None
            epoch = step * job.recipe.batch_size / self._images(job)
            yield Progressed(job.key, point(step, reached, steps=steps, epoch=epoch), {"system/load": 50.0})
        if job.weights is not None:
            save_state(TrainState.create(job.recipe, small_splits(16, 8), CPU), job.weights)
        yield Finished(job.key, outcome(accuracy, self.sweep.files.get(job.key, {})) if validated else None)

    def _test(self, job: EvaluateJob) -> Iterator[Event]:
        fault = self.sweep.fault(f"test-{job.key}", self.sweep.starts[f"test-{job.key}"])
        self.sweep.starts[f"test-{job.key}"] += 1
        if fault is not None:
            yield replace(fault, key=job.key)
            return
        load_weights(job.recipe, job.weights)
        self.tested.append(job.key)
        yield Finished(job.key, outcome(self.sweep.script(job.key) - 0.01))


@dataclass
class Study:
    """A study, a tracker and a store that last; each `run` is a new process over them."""

    root: Path
    data: Splits
    plan: Plan
    script: Script = even
    fault: Fault = no_fault
    dies_at: Callable[[str, int], int | None] = lambda key, starts: None  # last validation, or point if it has none
    refuses: Callable[[str], Event | None] = lambda key: None  # what happens to a run in place of its first point
    notes: dict[str, str] = field(default_factory=dict)
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)  # artifacts of a run at its end, by its key
    late: int = 0  # calls for events before there is a worker
    on_their_way: int = 0  # validations of each run that arrive after a pause
    paused: Callable[[str], Event | None] = Paused  # how a run ends by its key; None: not in time
    keeps_checkpoints: bool = True
    node: str | None = None
    tracker: MemoryTracker = field(default_factory=MemoryTracker)
    log: io.StringIO = field(default_factory=io.StringIO)
    starts: Counter[str] = field(default_factory=Counter)
    tested: list[str] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)  # of the last run
    progress: SweepProgress = field(default_factory=SweepProgress)  # likewise
    together: Counter[str] = field(default_factory=Counter)  # most jobs at the same time, by stage

    def __post_init__(self) -> None:
        sizes = replace(self.plan.data_set, train_images=len(self.data.train), val_images=len(self.data.val))
        self.plan = replace(self.plan, data_set=sizes)
        self.store = Store.locate(self.root)
        self.root.mkdir()
        self.storage = OneWriterStorage(InMemoryStorage())
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
                    tracker=self.tracker,
                    store=self.store,
                    console=console,
                    tags={"git_commit": "abc"},
                    keeps_checkpoints=self.keeps_checkpoints,
                )
                self.progress = sweep.progress
                self.tracker.open()
                return Coordinator(sweep, executor, lambda: b"samples", stop).run()
        finally:
            self.jobs = executor.jobs
            self.tested += executor.tested

    def stopped_after(self, polls: int, **changes: object) -> bool:
        """Run until stop was asked for `polls` times; true if the sweep was interrupted by that."""
        asked = itertools.count(1)
        with contextlib.suppress(Interrupted):
            self.run(stop=lambda: next(asked) >= polls, **changes)
            return False
        return True

    @property
    def trials(self) -> list[FrozenTrial]:
        return self.study.get_trials()

    def states(self) -> dict[TrialState, int]:
        return dict(Counter(trial.state for trial in self.trials))

    def recorded_tests(self) -> list[dict[str, object]]:
        path = self.root / "test_looks.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def pruning(sweep: Study) -> Study:
    """The same sweep with successive halving; trial 0 is the best, so that many of the others are pruned."""
    sweep.plan = replace(sweep.plan, pruner="halving")
    sweep.study.pruner = PRUNERS["halving"]()
    sweep.script = lambda key: 0.9 - int(key.split("-")[1]) / 100
    return sweep


def check_whole(sweep: Study, trials: int = 4) -> None:
    """The sweep is at its end as if nothing had ever happened to it."""
    assert sweep.states() == {TrialState.COMPLETE: trials}
    best = [f"confirm-{trial}-{seed}" for trial in {0, trials - 1, trials - 2} for seed in (0, 1)]
    finals = [f"final-{trials - 1}-{seed}" for seed in (0, 1)]
    assert set(sweep.tracker.runs) == {f"trial-{number}" for number in range(trials)} | {*best, *finals}
    for key, run in sweep.tracker.runs.items():
        assert (run.state, run.reason) == ("complete", ""), key
        assert run.steps == sorted(set(run.steps)), f"{key} has doubled points"
        assert len(run.steps) >= 20
        assert run.metrics["cost/epochs"] == {"trial": 1, "confirm": 2, "final": 4}[key.split("-")[0]]
    assert sweep.tested == finals, "only the champion's final runs meet the test set, and each only once"
    assert [line["key"] for line in sweep.recorded_tests()] == finals
    assert [key for key, run in sweep.tracker.runs.items() if run.version] == finals[:1], "the registered champion"
    assert sweep.tracker.study.state == "finished"
