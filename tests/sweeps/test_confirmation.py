"""The confirmation of the best recipes, and the test of the champion."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cifar_core.recipe import Recipe
from sweeps.executors.protocol import Diverged, Failed, TrainJob
from tests.sweeps.scripted import Study, check_whole, died, even, no_fault


class TestConfirmation:
    @pytest.mark.slow
    def test_the_best_are_trained_again_with_more_and_other_seeds(self, sweep: Study) -> None:
        sweep.run()
        trials = {trial.number: Recipe.from_dict(trial.user_attrs["recipe"]) for trial in sweep.trials}
        jobs = {job.key: job for job in sweep.jobs if job.key.startswith("confirm") and isinstance(job, TrainJob)}
        assert list(jobs) == ["confirm-3-0", "confirm-2-0", "confirm-3-1", "confirm-2-1"], "first seeds first"
        seeds = {job.recipe.seed for job in jobs.values()} | {recipe.seed for recipe in trials.values()}
        assert len(seeds) == 8
        for key, job in jobs.items():
            _, number, seed = key.split("-")
            source = trials[int(number)]
            assert job.recipe.weight_decay == pytest.approx(source.weight_decay / 2), "the run is twice as long"
            same = replace(source, epochs=2.0, seed=job.recipe.seed)
            assert replace(job.recipe, weight_decay=source.weight_decay) == same
            assert job.weights == sweep.root / "weights" / "a=20study" / f"{key}.safetensors"
            assert job.weights.exists()
            tags = {"stage": "confirm", "source_trial": number, "seed": seed}
            assert sweep.tracker.runs[key].tags.items() >= tags.items()

    def test_complete_search_runs_leave_weights_if_asked_to(self, sweep: Study) -> None:
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
        assert list(summary.champion.accuracies) == ["confirm-2-0", "confirm-2-1"]
        assert summary.champion.accuracy == pytest.approx(0.82)
        assert summary.test_accuracy == pytest.approx(0.81)
        assert sweep.tested == ["confirm-2-0", "confirm-2-1"]

    def test_a_champion_may_lack_a_run(self, sweep: Study) -> None:
        sweep.fault = lambda key, starts: Failed(key, "broken", "") if key == "confirm-3-0" else None
        summary = sweep.run()
        assert summary.champion is not None
        assert list(summary.champion.accuracies) == ["confirm-3-1"]
        assert sweep.tested == ["confirm-3-1"]
        assert sweep.run().nothing_left, "a run that has failed is not repeated"

    def test_lost_weights_are_made_again(self, sweep: Study) -> None:
        sweep.run()
        sweep.store.weights("a study", "confirm-3-0").unlink()
        assert not sweep.run().nothing_left
        assert [job.key for job in sweep.jobs] == ["confirm-3-0"]
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
    def test_only_the_champion_has_test_figures_and_a_model(self, sweep: Study) -> None:
        sweep.run()
        champions = ["confirm-3-0", "confirm-3-1"]
        assert [(line["study"], line["key"]) for line in sweep.recorded_tests()] == [("a study", k) for k in champions]
        assert {key for key, run in sweep.tracker.runs.items() if "test/accuracy" in run.metrics} == set(champions)
        models = {key: run.model for key, run in sweep.tracker.runs.items() if run.model is not None}
        assert models == {key: sweep.store.weights("a study", key) for key in champions}

    def test_without_confirmation_it_stays_closed(self, sweep: Study) -> None:
        summary = sweep.run(confirm=False)
        assert (summary.champion, summary.test_accuracy) == (None, None)
        assert {job.key.split("-")[0] for job in sweep.jobs} == {"trial"}
        assert not (sweep.root / "test_looks.jsonl").exists()
        assert not (sweep.root / "weights").exists(), "search runs leave none"
        sweep.run()
        check_whole(sweep)

    def test_a_worker_that_dies_in_a_test_may_have_looked(self, sweep: Study) -> None:
        sweep.fault = lambda key, starts: died(key) if key == "test-confirm-3-0" and starts == 0 else None
        sweep.run()
        assert sorted(sweep.tested) == ["confirm-3-0", "confirm-3-1"]
        recorded = sorted(str(line["key"]) for line in sweep.recorded_tests())
        assert recorded == ["confirm-3-0", "confirm-3-0", "confirm-3-1"]

    def test_a_test_that_fails_is_an_error(self, sweep: Study) -> None:
        sweep.fault = lambda key, starts: Failed(key, "DataError: no file", "...") if key.startswith("test") else None
        with pytest.raises(RuntimeError, match="test of confirm-3-0 failed: DataError: no file"):
            sweep.run()
        assert [line["key"] for line in sweep.recorded_tests()] == ["confirm-3-0", "confirm-3-1"]
        sweep.fault = no_fault
        sweep.run()
        assert sweep.tested == ["confirm-3-0", "confirm-3-1"]
