"""The loop of the coordinator: failures, deaths of workers, and interruptions."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from unittest.mock import Mock

import pytest
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState

from cifar_core.data.data_set import DataSet
from sweeps import coordinator
from sweeps.command_line import Interrupted
from sweeps.console import SweepConsole
from sweeps.coordinator import StoreLostError
from sweeps.executors.protocol import (
    CheckpointWriteFailed,
    Diverged,
    EvaluateJob,
    Event,
    Failed,
    RunsFailError,
    TrainJob,
)
from sweeps.stages.final import ChampionTest
from sweeps.store import Store, StoreError
from tests.sweeps.scripted import SPACE, TRAIN_IMAGES, ScriptedExecutor, Study, check_whole, died, pruning

FULL = StoreError("a test must be recorded in test_looks.jsonl before it, but: No space left on device")


def test_each_stage_shows_the_best_that_was_measured_by_then(sweep: Study) -> None:
    sweep.run()
    lines = sweep.log.getvalue().splitlines()
    shown = {stage: next(line for line in lines if f"] {stage}: " in line) for stage in ("confirm", "final", "test")}
    assert "best 33.0 % validation accuracy, trial 3, " in shown["confirm"]
    assert "best 53.0 % validation accuracy, trial 3, " in shown["final"]
    assert "best 53.0 % validation accuracy, trial 3, " in shown["test"]


class TestFailures:
    def test_a_failed_trial_does_not_end_the_sweep(self, sweep: Study) -> None:
        sweep.notes = {"trial-2": "step-000000004.safetensors: SHA-256 must be a, but got b"}
        broken = Failed("trial-1", "RuntimeError: broken", "Traceback: ...")
        sweep.fault = lambda key, starts: broken if key == "trial-1" else None
        summary = sweep.run(confirm=False)
        assert sweep.states() == {TrialState.COMPLETE: 3, TrialState.FAIL: 1}
        assert sweep.trials[1].user_attrs["reason"] == "RuntimeError: broken"
        failed = sweep.tracker.runs["trial-1"]
        assert (failed.state, failed.reason) == ("failed", "RuntimeError: broken")
        assert failed.files["error.txt"] == b"Traceback: ..."
        assert summary.trials == {"complete": 3, "failed": 1}
        assert "trial 1 failed: RuntimeError: broken" in sweep.log.getvalue()
        assert "trial 2: step-000000004.safetensors: SHA-256 must be a, but got b" in sweep.log.getvalue()
        assert sweep.starts["trial-1"] == 1, "an error in the run itself would only come again"
        assert sweep.run(confirm=False).nothing_left, "a failed trial is one of the total"

    def test_a_broken_worker_does_not_use_up_the_search(self, sweep: Study) -> None:
        """As where a driver was updated under a running sweep: whatever begins fails at once."""
        broken = Failed("", "RuntimeError: no GPU", "...")
        sweep.refuses = lambda key: replace(broken, key=key) if key not in ("trial-0", "trial-1") else None
        said = (
            r"^runs must train, but [56] in a row failed before their first step, the last with: RuntimeError: no GPU; "
        )
        with pytest.raises(RunsFailError, match=said + "mend that, and the same command resumes the sweep$"):
            sweep.run(trials=20)
        failed = sweep.states()[TrialState.FAIL]
        assert failed in (5, 6), "two run side by side"
        assert sweep.tracker.study.state == "interrupted"
        sweep.refuses = lambda key: None
        summary = sweep.run(trials=20)
        assert summary.trials == {"complete": 20 - failed, "failed": failed}

    def test_workers_that_do_not_start_leave_the_running_trials_to_be_resumed(
        self, sweep: Study, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        events, calls = ScriptedExecutor.events, itertools.count()

        def none_starts(executor: ScriptedExecutor, timeout: float) -> list[Event]:
            call = next(calls)
            if call == 2:  # the run of a worker that dies waits for the next one
                executor._late = 1
                return [died("trial-1")]
            if call == 3:
                raise RunsFailError("workers must start, but 6 in a row died: exit code 1")
            return events(executor, timeout)

        monkeypatch.setattr(ScriptedExecutor, "events", none_starts)
        with pytest.raises(RunsFailError, match=r"^workers must start"):
            sweep.run(confirm=False)
        assert [run.state for run in sweep.tracker.runs.values()] == ["interrupted"] * 2
        assert sweep.run(confirm=False).trials == {"complete": 4}

    def test_recipes_that_need_too_much_memory_do_not_end_the_sweep(self, sweep: Study) -> None:
        large = Failed("", "a batch of 512 images did not fit", "", out_of_memory=True)
        sweep.refuses = lambda key: replace(large, key=key) if key != "trial-9" else None
        assert sweep.run(trials=10, confirm=False).trials == {"complete": 1, "failed": 9}

    def test_the_study_keeps_the_file_of_its_space(self, sweep: Study) -> None:
        sweep.run(confirm=False)
        assert sweep.tracker.study.files["space.toml"] == SPACE.text.encode()
        assert sweep.tracker.study.params["space_hash"] == SPACE.hash

    def test_the_study_keeps_the_facts_about_its_data(self, sweep: Study) -> None:
        sweep.run(confirm=False)
        assert DataSet.from_dict(json.loads(sweep.tracker.study.files["data.json"])) == sweep.plan.data_set

    def test_a_run_whose_worker_died_is_started_again(self, sweep: Study) -> None:
        sweep.fault = lambda key, starts: died(key) if key in ("trial-1", "confirm-3-0") and starts < 2 else None
        sweep.run()
        check_whole(sweep)
        assert (sweep.starts["trial-1"], sweep.starts["confirm-3-0"]) == (3, 3)
        assert sweep.tracker.runs["trial-1"].tags["attempt"] == "3"
        assert sweep.tracker.runs["trial-0"].tags["attempt"] == "1"
        assert "trial 1: worker died: killed by SIGKILL; it resumes from its last checkpoint" in sweep.log.getvalue()

    def test_workers_that_come_later_and_leave_no_checkpoints(self, sweep: Study) -> None:
        """As on a cluster without a shared folder, which has no worker at first."""
        sweep.fault = lambda key, starts: died(key) if key == "trial-1" and not starts else None
        sweep.late, sweep.keeps_checkpoints, sweep.node = 3, False, "node-7"
        sweep.run()
        check_whole(sweep)
        assert all(isinstance(job, EvaluateJob) or job.checkpoints is None for job in sweep.jobs)
        assert "trial 1: worker died: killed by SIGKILL; it starts again\n" in sweep.log.getvalue()
        assert "0 running, 2 workers wait for resources" in sweep.log.getvalue()
        assert {run.tags["node"] for run in sweep.tracker.runs.values()} == {"node-7"}
        assert sweep.tracker.study.tags["waiting"] == "0"

    def test_after_three_deaths_it_has_failed(self, sweep: Study) -> None:
        sweep.fault = lambda key, starts: died(key) if key == "trial-1" else None
        sweep.run(confirm=False)
        assert sweep.starts["trial-1"] == 3
        assert sweep.states() == {TrialState.COMPLETE: 3, TrialState.FAIL: 1}
        assert sweep.trials[1].user_attrs["reason"] == "worker died: killed by SIGKILL"

    def test_a_run_that_gets_further_each_time_has_as_many_deaths_as_it_takes(self, sweep: Study) -> None:
        """Each attempt dies at the next validation, as on a machine that is taken away every hour."""
        sweep.dies_at = lambda key, starts: starts + 1 if key == "trial-1" and starts < 3 else None
        sweep.run(confirm=False)
        assert sweep.starts["trial-1"] == 4
        assert sweep.states() == {TrialState.COMPLETE: 4}

    def test_so_has_one_that_is_never_validated(self, sweep: Study) -> None:
        sweep.dies_at = lambda key, starts: starts + 1 if key == "final-3-0" and starts < 3 else None
        sweep.run()
        check_whole(sweep)
        assert sweep.starts["final-3-0"] == 4

    def test_the_validations_of_a_run_that_starts_again_are_counted_once(
        self, sweep: Study, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shown = dict[str, int]()
        monkeypatch.setattr(
            SweepConsole, "update", lambda self, view: shown.update({r.key: len(r.accuracies) for r in view.running})
        )
        sweep.keeps_checkpoints = False
        sweep.fault = lambda key, starts: died(key) if key == "trial-1" and starts < 2 else None
        sweep.run(confirm=False)
        assert shown["trial-1"] == shown["trial-0"] > 0

    def test_a_run_that_dies_again_before_it_is_judged_got_no_further(
        self, sweep: Study, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        train = ScriptedExecutor._train

        def dying(executor: ScriptedExecutor, job: TrainJob) -> Iterator[Event]:
            yield from itertools.islice(train(executor, job), 1 + sweep.starts[job.key])
            yield died(job.key)

        monkeypatch.setattr(ScriptedExecutor, "_train", dying)
        assert sweep.run(trials=1, confirm=False).trials == {"failed": 1}
        assert sweep.starts == {"trial-0": 3}

    @pytest.mark.parametrize("resumed", [0, 10])
    def test_the_compute_of_a_process_is_that_since_it_resumed(
        self, sweep: Study, monkeypatch: pytest.MonkeyPatch, resumed: int
    ) -> None:
        train = ScriptedExecutor._train
        monkeypatch.setattr(
            ScriptedExecutor, "_train", lambda executor, job: itertools.islice(train(executor, job), resumed, None)
        )
        sweep.run(trials=1, confirm=False)
        [job], [trial] = sweep.jobs, sweep.trials
        share = 1 - resumed * job.recipe.batch_size / TRAIN_IMAGES  # a point is a step here
        assert sweep.progress.spent == pytest.approx(share * trial.user_attrs["flops"], rel=0.01)

    def test_a_disk_that_is_full_fails_no_trial(self, sweep: Study) -> None:
        full = CheckpointWriteFailed("trial-1", "a checkpoint must be writable, but got: No space left on device")
        sweep.fault = lambda key, starts: full if key == "trial-1" and starts == 0 else None
        with pytest.raises(StoreLostError, match=r"^a checkpoint must be writable, but got: No space left on device$"):
            sweep.run()
        assert TrialState.FAIL not in sweep.states()
        sweep.run()
        check_whole(sweep)

    def test_a_damaged_network_is_trained_again_before_the_test(
        self, sweep: Study, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as context:
            context.setattr(Store, "record_test_set_evaluation", Mock(side_effect=FULL))
            with pytest.raises(StoreLostError):
                sweep.run()
        sweep.store.weights("a study", "final-3-0").write_bytes(b"damaged")
        sweep.run()
        check_whole(sweep)
        assert (sweep.starts["final-3-0"], sweep.starts["final-3-1"]) == (2, 1)

    def test_a_test_that_cannot_be_recorded_does_not_begin(self, sweep: Study, monkeypatch: pytest.MonkeyPatch) -> None:
        with monkeypatch.context() as context:
            context.setattr(Store, "record_test_set_evaluation", Mock(side_effect=FULL))
            with pytest.raises(StoreLostError, match=f"^{FULL}$"):
                sweep.run()
        assert not [key for key in sweep.starts if key.startswith("test")]
        sweep.run()
        check_whole(sweep)

    def test_a_storage_that_takes_no_more(self, sweep: Study, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: object, **__: object) -> None:
            raise StorageInternalError("invalid data in the commit, say") from OSError("disk is full\n(a long story)")

        checkpoints = sweep.store.checkpoints("a study", "trial-0")
        checkpoints.mkdir(parents=True)
        with monkeypatch.context() as context:
            context.setattr(sweep.study, "tell", full)
            with pytest.raises(StoreLostError, match=r"^disk is full$"):
                sweep.run()
        assert checkpoints.exists(), "a trial whose end is not on record can resume"
        sweep.run()
        check_whole(sweep)

    @pytest.mark.parametrize(
        ("stage", "complete", "message"),
        [
            ("trial", 0, "no trial was completed, so there is nothing to confirm"),
            ("confirm", 4, "no confirmation run was completed, so there is no champion"),
        ],
    )
    def test_without_a_complete_run_there_is_no_champion(
        self, sweep: Study, stage: str, complete: int, message: str
    ) -> None:
        sweep.fault = lambda key, starts: Diverged(key, "loss was nan") if key.startswith(stage) else None
        summary = sweep.run()
        assert (summary.trials["complete"], summary.champion, summary.test_accuracy) == (complete, None, None)
        assert message in sweep.log.getvalue()
        assert sweep.recorded_tests() == []


class TestInterruption:
    @pytest.mark.parametrize("polls", [1, 2, 50, 80, 120, 150])
    def test_stop_and_go_on(self, sweep: Study, polls: int) -> None:
        assert sweep.stopped_after(polls)
        assert sweep.tracker.study.state == "interrupted"
        unfinished = [run for run in sweep.tracker.runs.values() if run.state != "complete"]
        assert len(unfinished) <= 2
        assert {(run.state, run.reason) for run in unfinished} <= {("interrupted", "the sweep was stopped")}
        assert (sweep.study.user_attrs["seconds"] > 0) == bool(sweep.starts), "what starts no run costs nothing"
        sweep.study.set_user_attr("seconds", 1000.0)
        sweep.run()
        check_whole(sweep)
        assert sweep.study.user_attrs["seconds"] > 1000, "the wall time of all processes"

    def test_the_time_of_a_process_that_is_killed_counts(self, sweep: Study, monkeypatch: pytest.MonkeyPatch) -> None:
        def killed(*_: object) -> None:
            raise KeyboardInterrupt

        sweep.study.set_user_attr("seconds", 1000.0)
        with monkeypatch.context() as context:
            context.setattr(coordinator.Coordinator, "_summarise_search", killed)
            with pytest.raises(KeyboardInterrupt):
                sweep.run()
        assert 1000 < (before := sweep.study.user_attrs["seconds"]) < 1100
        sweep.run()
        assert before < sweep.study.user_attrs["seconds"] < 1100, "each counted once"

    def test_a_champion_that_was_tested_but_not_registered(self, sweep: Study, monkeypatch: pytest.MonkeyPatch) -> None:
        with monkeypatch.context() as context:
            context.setattr(ChampionTest, "register", Mock(side_effect=KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                sweep.run()
        assert len(sweep.tested) == 2
        assert not any(run.version for run in sweep.tracker.runs.values())
        sweep.run()
        check_whole(sweep)

    def test_a_picture_of_training_images_is_drawn_once_runs_train(self, sweep: Study) -> None:
        sweep.run(trials=2, confirm=False)
        assert sweep.tracker.study.files["pictures/samples.png"] == b"samples"
        sweep.tracker.study.files.clear()
        assert sweep.run(trials=2, confirm=False).nothing_left
        assert "pictures/samples.png" not in sweep.tracker.study.files

    def test_settings_that_may_change_have_the_value_of_the_last_command(self, sweep: Study) -> None:
        sweep.run(trials=2, confirm=False)
        sweep.run(trials=3, confirm=False, sampler="tpe")
        assert (sweep.tracker.study.tags["trials"], sweep.tracker.study.tags["sampler"]) == ("3", "tpe")

    def test_a_command_that_trains_nothing_changes_no_setting_on_record(self, sweep: Study) -> None:
        sweep.run(trials=2, confirm=False)
        before = dict(sweep.tracker.study.tags)
        sweep.run(trials=2, confirm=False, sampler="tpe")
        assert sweep.tracker.study.tags == before

    def test_a_command_that_only_tests_changes_none_either(self, sweep: Study) -> None:
        sweep.run(trials=2)
        before = sweep.tracker.study.tags["sampler"]
        [key, *_] = [key for key in sweep.tracker.runs if key.startswith("final")]
        del sweep.tracker._known[key].metrics["test/accuracy"]
        assert sweep.run(trials=2, sampler="tpe").test_accuracy is not None
        assert sweep.tracker.study.tags["sampler"] == before != "tpe"

    def test_a_storage_that_is_away_at_a_stop_is_one_line(self, sweep: Study, monkeypatch: pytest.MonkeyPatch) -> None:
        def away(*_: object) -> None:
            raise StorageInternalError("say") from OSError("the server has gone away")

        monkeypatch.setattr(coordinator.Coordinator, "_close", away)
        assert sweep.stopped_after(50)
        assert "\nthe server has gone away\n" in sweep.log.getvalue()

    def test_a_stop_before_the_first_trial_starts_none(self, sweep: Study) -> None:
        assert sweep.stopped_after(1)
        assert (sweep.jobs, sweep.trials) == ([], [])

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
        assert list(sweep.store.checkpoint_folder("a study").iterdir()) == [], "ended runs have none"

    def test_checkpoints_that_a_crash_left_of_ended_runs_are_cleared(self, sweep: Study) -> None:
        sweep.run()
        for key in ("trial-0", "confirm-3-0"):
            sweep.store.checkpoints("a study", key).mkdir(parents=True)
        sweep.run()
        assert list(sweep.store.checkpoint_folder("a study").iterdir()) == []

    @pytest.mark.parametrize("polls", [10, 30])
    def test_resumed_trials_are_pruned_as_well(self, sweep: Study, polls: int) -> None:
        pruning(sweep)
        while sweep.stopped_after(polls, trials=8, confirm=False):
            polls += 1
        assert len(sweep.trials) == 8
        assert set(sweep.states()) == {TrialState.COMPLETE, TrialState.PRUNED}
        assert all({"flops", "spent_flops"} <= set(trial.user_attrs) for trial in sweep.trials)

    def test_a_trial_that_is_to_be_pruned_as_it_pauses_is_pruned_once_it_has(self, sweep: Study) -> None:
        pruning(sweep).run(trials=5, confirm=False)
        sweep.on_their_way = 1
        with pytest.raises(Interrupted):
            sweep.run(stop=lambda: sweep.starts["trial-5"] > 0, trials=8, confirm=False)
        trial, run = sweep.trials[5], sweep.tracker.runs["trial-5"]
        assert (trial.state, run.state) == (TrialState.PRUNED, "pruned")
        assert trial.user_attrs["spent_flops"] == 0.25 * trial.user_attrs["flops"]
        assert run.reason.startswith("74.0 %, needed 78.3 %: pruned at 25 % of its steps")
        sweep.run(trials=8, confirm=False)
        assert (len(sweep.trials), sweep.starts["trial-5"]) == (8, 1)

    @pytest.mark.parametrize(
        "ending", [None, Failed("trial-5", "no", ""), CheckpointWriteFailed("trial-5", "no space"), died("trial-5")]
    )
    def test_so_it_is_however_it_ends_and_if_it_takes_too_long(
        self, sweep: Study, monkeypatch: pytest.MonkeyPatch, ending: Event | None
    ) -> None:
        pruning(sweep).run(trials=5, confirm=False)
        monkeypatch.setattr(coordinator, "_PAUSE_SECONDS", 0.05)
        sweep.on_their_way, sweep.paused = 1, lambda key: ending
        with pytest.raises(Interrupted):
            sweep.run(stop=lambda: sweep.starts["trial-5"] > 0, trials=6, confirm=False)
        trial, run = sweep.trials[5], sweep.tracker.runs["trial-5"]
        assert (trial.state, run.state) == (TrialState.PRUNED, "pruned")
        assert run.reason.startswith("74.0 %, needed 78.3 %: pruned at 25 % of its steps")

    def test_a_run_that_was_to_be_started_again_is_not_left_running(self, sweep: Study) -> None:
        """As when the whole process group is asked to end: workers die, and then the coordinator is to stop."""
        deaths = itertools.count()
        sweep.fault = lambda key, starts: died(key) if starts == 0 and next(deaths) < 2 else None
        with pytest.raises(Interrupted):
            sweep.run(stop=lambda: "it resumes from its last" in sweep.log.getvalue())
        assert {run.state for run in sweep.tracker.runs.values()} == {"interrupted"}
        sweep.run()
        check_whole(sweep)
