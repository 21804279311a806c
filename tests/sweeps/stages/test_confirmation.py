"""The confirmation of the best recipes, the final, and the test of the champion."""

from __future__ import annotations

import re
from dataclasses import replace
from statistics import NormalDist

import pytest
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from cifar_core.budget import step_flops
from cifar_core.recipe import Recipe
from cifar_core.training import total_steps
from sweeps.command_line import Interrupted
from sweeps.executors.protocol import Diverged, EvaluateJob, Failed, RunsFailError, TrainJob
from sweeps.stages.confirmation import Gain
from sweeps.studies.pruners import PRUNERS
from sweeps.studies.study import BASELINE, Beginning
from sweeps.tracking.artifacts import PREDICTIONS
from tests.sweeps.scripted import SPACE, TRAIN_IMAGES, VAL_IMAGES, Study, check_whole, died, even, no_fault

ALL_IMAGES = TRAIN_IMAGES + VAL_IMAGES


class TestConfirmation:
    @pytest.mark.slow
    def test_the_best_are_trained_again_with_more_and_other_seeds(self, sweep: Study) -> None:
        sweep.run()
        trials = {trial.number: Recipe.from_dict(trial.user_attrs["recipe"]) for trial in sweep.trials}
        jobs = {job.key: job for job in sweep.jobs if job.key.startswith("confirm") and isinstance(job, TrainJob)}
        assert list(jobs) == [f"confirm-{trial}-{seed}" for seed in (0, 1) for trial in (0, 3, 2)], "first seeds first"
        seeds = {job.recipe.seed for job in sweep.jobs if isinstance(job, TrainJob)}
        assert len(seeds) == 4 + len(jobs) + 2, "those of the finals differ too"
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

    def test_without_a_known_good_recipe_the_first_is_confirmed_and_does_not_stay(self, sweep: Study) -> None:
        summary = sweep.run()
        assert sweep.tracker.runs["confirm-0-0"].tags["baseline"] == "first"
        assert summary.gain is not None
        assert summary.gain.mean == pytest.approx(0.03)
        assert summary.gain.low < 0
        assert summary.champion is not None
        assert (summary.champion.source, summary.champion.baseline) == (3, None)

    def test_its_time_left_includes_that_of_finals_of_its_networks(self, sweep: Study) -> None:
        with pytest.raises(Interrupted):
            sweep.run(stop=lambda: "confirm-0-0" in sweep.tracker.runs)
        stage, plan = sweep.progress.stage, sweep.plan
        assert stage.name == "confirm"
        planned = plan.confirm_flops() / plan.preset.confirmations
        assert stage.flops_each < planned / 2, "the plan is by another network"
        assert stage.flops_after == pytest.approx(plan.final_flops() * stage.flops_each / planned)

    def test_complete_search_runs_leave_weights_if_asked_to(self, sweep: Study) -> None:
        sweep.fault = lambda key, starts: Diverged(key, "loss was nan") if key == "trial-1" else None
        sweep.run(confirm=False, keep_weights=True)
        kept = {path.stem for path in (sweep.root / "weights" / "a=20study").glob("*.safetensors")}
        assert kept == {"trial-0", "trial-2", "trial-3"}
        for job in sweep.jobs:
            assert job.weights == sweep.store.weights("a study", job.key)

    def test_the_champion_is_best_on_average_in_the_confirmation(self, sweep: Study) -> None:
        accuracy = {"confirm-3-0": 0.90, "confirm-3-1": 0.70, "confirm-2-0": 0.80, "confirm-2-1": 0.84}
        accuracy |= {"final-2-0": 0.80, "final-2-1": 0.84}
        sweep.script = lambda key: accuracy.get(key, even(key))
        summary = sweep.run()
        assert summary.champion is not None
        assert summary.champion.source == 2
        assert list(summary.champion.accuracies) == ["confirm-2-0", "confirm-2-1"]
        assert summary.champion.accuracy == pytest.approx(0.82)
        assert summary.test_accuracy == pytest.approx(0.81)
        assert sweep.tested == ["final-2-0", "final-2-1"]

    def test_a_champion_may_lack_a_run(self, sweep: Study) -> None:
        sweep.fault = lambda key, starts: Failed(key, "broken", "") if key == "confirm-3-0" else None
        summary = sweep.run()
        assert summary.champion is not None
        assert list(summary.champion.accuracies) == ["confirm-3-1"]
        assert sweep.tested == ["final-3-0", "final-3-1"]
        assert sweep.run().nothing_left, "a run that has failed is not repeated once the choice is made"

    def test_a_recipe_of_which_a_run_diverged_is_not_chosen_over_one_that_trained_each_time(self, sweep: Study) -> None:
        accuracy = {"confirm-3-1": 0.90, "confirm-2-0": 0.84, "confirm-2-1": 0.84}
        sweep.script = lambda key: accuracy.get(key, even(key))
        sweep.fault = lambda key, starts: Diverged(key, "loss was nan") if key == "confirm-3-0" else None
        summary = sweep.run()
        assert summary.champion is not None
        assert (summary.champion.source, summary.champion.accuracy) == (2, 0.84)
        assert summary.gain is not None
        assert summary.gain.mean == pytest.approx(0.84 - 0.5, abs=0.01), "over the recipe that can be chosen"

    def test_where_each_recipe_diverged_once_the_best_of_them_is_chosen(self, sweep: Study) -> None:
        sweep.fault = lambda key, starts: Diverged(key, "nan") if re.match(r"confirm-\d-0", key) else None
        summary = sweep.run()
        assert summary.champion is not None
        assert list(summary.champion.accuracies) == ["confirm-3-1"]

    @pytest.mark.parametrize("stage", ["confirm", "final"])
    def test_what_failed_is_tried_again_by_the_next_command(self, sweep: Study, stage: str) -> None:
        sweep.fault = lambda key, starts: Failed(key, "broken", "") if key.startswith(stage) else None
        assert sweep.run().test_accuracy is None
        failed = {key for key, run in sweep.tracker.runs.items() if run.state == "failed"}
        assert failed
        sweep.fault = no_fault
        assert sweep.run().test_accuracy is not None
        assert {job.key for job in sweep.jobs} >= failed
        check_whole(sweep)

    @pytest.mark.parametrize("stage", ["confirm", "final"])
    def test_what_diverged_is_not_tried_again(self, sweep: Study, stage: str) -> None:
        sweep.fault = lambda key, starts: Diverged(key, "loss was nan") if key.startswith(stage) else None
        sweep.run()
        assert {run.state for key, run in sweep.tracker.runs.items() if key.startswith(stage)} == {"pruned"}
        sweep.run()
        assert [job for job in sweep.jobs if isinstance(job, TrainJob)] == []

    def test_the_decay_of_an_enqueued_recipe_is_that_of_its_own_length(self, sweep: Study) -> None:
        recipe = Recipe(model="five_conv", width=0.125, batch_size=16, epochs=20.0, weight_decay=1e-3)
        sweep.study.enqueue_trial(SPACE.nearest(recipe), user_attrs={"enqueued_recipe": recipe.to_dict()})
        sweep.run(trials=1)
        runs = {job.key: job.recipe for job in sweep.jobs}
        assert runs["trial-0"].weight_decay == 1e-3, "trained as it is"
        assert runs["confirm-0-0"].weight_decay == pytest.approx(1e-3 * 20 / 2)
        assert runs["final-0-0"].weight_decay == pytest.approx(1e-3 * 20 * (TRAIN_IMAGES / ALL_IMAGES) / 4)

    @pytest.mark.parametrize("key", ["confirm-3-0", "final-3-0"])
    def test_lost_weights_are_made_again(self, sweep: Study, key: str) -> None:
        sweep.run()
        sweep.store.weights("a study", key).unlink()
        assert not sweep.run().nothing_left
        assert [job.key for job in sweep.jobs] == [key]
        check_whole(sweep)

    def test_more_trials_later_make_a_new_confirmation(self, sweep: Study) -> None:
        sweep.run()
        summary = sweep.run(trials=5)
        assert [job.key for job in sweep.jobs if isinstance(job, TrainJob)] == [
            "trial-4",
            "confirm-4-0",
            "confirm-4-1",
            "final-4-0",
            "final-4-1",
        ]
        assert summary.champion is not None
        assert summary.champion.source == 4
        assert sweep.tested == ["final-3-0", "final-3-1", "final-4-0", "final-4-1"]
        assert len(sweep.recorded_tests()) == 4

    def test_more_trials_later_do_not_lose_a_better_champion(self, sweep: Study) -> None:
        sweep.script = lambda key: even(key) + (0.3 if key.startswith("confirm-3") else 0.0)
        sweep.run()
        summary = sweep.run(trials=6)  # whose two best in the search are new
        assert [job.key for job in sweep.jobs if job.key.startswith("confirm")] == [
            f"confirm-{trial}-{seed}" for seed in (0, 1) for trial in (5, 4)
        ]
        assert summary.champion is not None
        assert summary.champion.source == 3
        assert not [job.key for job in sweep.jobs if job.key.startswith("final")]
        compute = {name: summary.metrics[f"study/{name}_flops"] for name in ("confirm", "final")}
        runs = sweep.tracker.runs
        assert compute == {
            name: sum(run.metrics["cost/training_flops"] for key, run in runs.items() if key.startswith(name))
            for name in compute
        }


class TestBaseline:
    @pytest.fixture
    def sweep(self, sweep: Study) -> Study:
        """Trial 0 is the starting recipe, and the worst."""
        point = SPACE.nearest(Recipe(optimizer="sgd", batch_size=8, width=0.25))
        sweep.study.enqueue_trial(point, user_attrs={BASELINE: Beginning.KNOWN_GOOD})
        return sweep

    def test_it_is_confirmed_beside_the_best(self, sweep: Study) -> None:
        summary = sweep.run()
        confirmed = [job.key for job in sweep.jobs if job.key.startswith("confirm")]
        assert confirmed == [f"confirm-{trial}-{seed}" for seed in (0, 1) for trial in (0, 3, 2)]
        assert sweep.tracker.runs["confirm-0-0"].tags["baseline"] == "true"
        assert "baseline" not in sweep.tracker.runs["confirm-3-0"].tags
        gain = summary.gain
        assert gain is not None
        assert gain.mean == pytest.approx(0.03)
        # On 64 images with two accuracies near one half, the standard error is some 0.09; it is the best of two.
        assert gain.mean - gain.low == gain.high - gain.mean == pytest.approx(2.24 * 0.0883, rel=0.02)
        assert sweep.tracker.study.metrics["study/search_gain"] == gain.mean
        assert summary.champion is not None
        assert summary.champion.baseline, "a lead within chance is not followed"

    def test_a_lead_beyond_chance_is_followed(self, sweep: Study) -> None:
        sweep.script = lambda key: even(key) + (0.3 if key.startswith("confirm-3") else 0.0)
        summary = sweep.run()
        assert summary.gain is not None
        assert summary.gain.low > 0
        assert summary.champion is not None
        assert (summary.champion.source, summary.champion.baseline) == (3, None)

    def test_both_answer_the_same_images(self, sweep: Study) -> None:
        """A lead that two independent samples of images would explain can be beyond chance on the same images."""
        right = {f"confirm-{trial}-{seed}": count for trial, count in ((0, 36), (3, 48), (2, 40)) for seed in (0, 1)}
        for key, count in right.items():
            rows = [f"{image},cat,{'cat' if image < count else 'dog'}" for image in range(64)]
            sweep.files[key] = {PREDICTIONS: "\n".join(["index,true,predicted", *rows]).encode()}
        sweep.script = lambda key: right[key] / 64 if key in right else even(key)
        gain = sweep.run().gain
        assert gain is not None
        assert gain.mean == pytest.approx(12 / 64)
        # One is right on 12 images more: with half an image more on either side, a mean of 12 / 66 (Agresti & Min).
        centre, of_images, of_seeds = 12 / 66, (13 / 66 - (12 / 66) ** 2) / 66, 2 * 0.0015**2 / 2
        half = NormalDist().inv_cdf(1 - 0.05 / 2 / 2) * (of_images + of_seeds) ** 0.5
        assert (gain.low, gain.high) == pytest.approx((centre - half, centre + half))
        assert sweep.run().gain == gain, "a later process has the predictions from MLflow"

    def test_a_decision_stands_until_other_runs_are_complete(self, sweep: Study) -> None:
        sweep.script = lambda key: even(key) + (0.3 if key.startswith("confirm-3") else 0.0)
        assert sweep.run().champion.source == 3  # type: ignore[union-attr]
        for key in [key for key in sweep.tracker.runs if key.startswith("confirm-0")]:
            sweep.tracker._known[key].metrics["val/accuracy"] = 0.99  # another rule would choose otherwise
        assert sweep.run().champion.source == 3  # type: ignore[union-attr]
        assert len(sweep.recorded_tests()) == 2
        assert sweep.run(trials=5).champion.source == 0  # type: ignore[union-attr]

    @pytest.mark.parametrize("content", [b"", b"\xff\0\n", b"index,true\n0,cat", b"index,true,predicted\n0,cat,cat"])
    def test_damaged_predictions_count_as_missing(self, sweep: Study, content: bytes) -> None:
        sweep.files = {f"confirm-{trial}-{seed}": {PREDICTIONS: content} for trial in (0, 2, 3) for seed in (0, 1)}
        gain = sweep.run().gain
        assert gain is not None
        assert gain.high - gain.mean == pytest.approx(2.24 * 0.0883, rel=0.02)

    def test_it_is_confirmed_although_it_was_pruned(self, sweep: Study) -> None:
        sweep.plan = replace(sweep.plan, pruner="halving")
        sweep.study.pruner = PRUNERS["median"]()
        sweep.script = lambda key: 0.1 if key == "trial-0" else even(key)
        sweep.run(trials=4)
        assert "confirm-0-0" in sweep.tracker.runs

    def test_it_can_be_the_champion(self, sweep: Study) -> None:
        sweep.script = lambda key: even(key) + (0.1 if key.startswith("confirm-0") else 0.0)
        summary = sweep.run()
        assert summary.champion is not None
        assert (summary.champion.source, summary.champion.baseline) == (0, Beginning.KNOWN_GOOD)
        assert summary.gain is not None
        assert summary.gain.mean == pytest.approx(-0.07)

    def test_without_one_there_is_no_gain(self, sweep: Study) -> None:
        sweep.fault = lambda key, starts: Failed(key, "broken", "") if key.startswith("confirm-0") else None
        assert sweep.run().gain is None


class TestFinal:
    def test_it_trains_on_all_images_with_all_threads(self, sweep: Study) -> None:
        sweep.plan = replace(sweep.plan, preset=replace(sweep.plan.preset, finals=1), threads=3, cores=6)
        sweep.run()
        [job] = [job for job in sweep.jobs if job.key.startswith("final") and isinstance(job, TrainJob)]
        assert job.recipe.val_fraction == 0
        assert not job.schedule.validations
        assert job.threads == 6
        tags = {"stage": "final", "champion": "true", "source_trial": "3", "threads": "6"}
        assert sweep.tracker.runs["final-3-0"].tags.items() >= tags.items()
        costs = sweep.tracker.runs["final-3-0"].metrics
        flops = step_flops(job.recipe, sweep.plan.data_set) * total_steps(job.recipe, ALL_IMAGES)
        assert (costs["cost/epochs"], costs["cost/training_flops"]) == (4, flops)
        [confirmed] = [job.recipe for job in sweep.jobs if job.key == "confirm-3-0"]
        longer = 4 / (2 * TRAIN_IMAGES / ALL_IMAGES)  # counted in images, as a pass over all of them is longer
        assert job.recipe.weight_decay == pytest.approx(confirmed.weight_decay / longer)
        [test] = [job for job in sweep.jobs if isinstance(job, EvaluateJob)]
        assert test.recipe == job.recipe

    @pytest.mark.parametrize(("runs", "together", "threads"), [(1, 1, 6), (2, 2, 3), (3, 1, 6), (4, 2, 3)])
    def test_long_runs_leave_no_core_idle(self, sweep: Study, runs: int, together: int, threads: int) -> None:
        preset = replace(sweep.plan.preset, recipes=1, seeds=1, finals=runs)
        sweep.plan = replace(sweep.plan, preset=preset, threads=3, cores=6)
        sweep.run()
        jobs = [job for job in sweep.jobs if job.key.startswith("final") and isinstance(job, TrainJob)]
        assert [job.threads for job in jobs] == [threads] * runs
        assert sweep.together["final"] == together

    def test_a_run_that_is_tried_again_keeps_its_threads(self, sweep: Study) -> None:
        def broken(key: str, starts: int) -> Failed | None:
            return Failed(key, "broken", "") if key.startswith("confirm") and not starts else None

        sweep.fault = broken
        sweep.run(workers=1, threads=6, cores=6)
        sweep.run(workers=2, threads=3, cores=6)
        jobs = [job for job in sweep.jobs if isinstance(job, TrainJob)]
        assert [job.threads for job in jobs] == [6] * 6 + [3] * 2, "six confirmations again, and two finals anew"

    def test_many_workers_on_few_cores_do_not_share_them_in_long_runs(self, sweep: Study) -> None:
        preset = replace(sweep.plan.preset, recipes=1, seeds=1, finals=3)
        sweep.plan = replace(sweep.plan, preset=preset, workers=8, threads=1, cores=2)
        sweep.run()
        jobs = [job for job in sweep.jobs if job.key.startswith("final") and isinstance(job, TrainJob)]
        assert ([job.threads for job in jobs], sweep.together["final"]) == ([2] * 3, 1)

    def test_one_that_fails_leaves_the_test_set_closed(self, sweep: Study) -> None:
        sweep.fault = lambda key, starts: Failed(key, "broken", "") if key.startswith("final") else None
        summary = sweep.run()
        assert summary.champion is not None
        assert summary.test_accuracy is None
        assert not (sweep.root / "test_looks.jsonl").exists()
        assert "no final run was completed, so there is nothing to test" in sweep.log.getvalue()


class TestTestSet:
    def test_only_the_champion_has_test_figures_and_a_model(self, sweep: Study) -> None:
        sweep.run()
        champions = ["final-3-0", "final-3-1"]
        assert [(line["study"], line["key"]) for line in sweep.recorded_tests()] == [("a study", k) for k in champions]
        assert {key for key, run in sweep.tracker.runs.items() if "test/accuracy" in run.metrics} == set(champions)
        models = {key: run.models for key, run in sweep.tracker.runs.items() if run.models}
        assert models == {key: [sweep.store.weights("a study", key)] for key in champions}, "each is logged once"
        for key in champions:
            first, costs = sweep.tracker.runs[key].tags[MLFLOW_RUN_NOTE].split("\n\n")
            assert first.startswith("Champion: ")
            assert costs.startswith("Trained for ")

    def test_without_confirmation_it_stays_closed(self, sweep: Study) -> None:
        summary = sweep.run(confirm=False)
        assert (summary.champion, summary.test_accuracy) == (None, None)
        assert {job.key.split("-")[0] for job in sweep.jobs} == {"trial"}
        assert not (sweep.root / "test_looks.jsonl").exists()
        assert not (sweep.root / "weights").exists(), "search runs leave none"
        sweep.run()
        check_whole(sweep)

    def test_a_later_command_without_confirmation_keeps_what_is_on_record(self, sweep: Study) -> None:
        before = sweep.run()
        recorded = dict(sweep.tracker.study.metrics)
        note = sweep.tracker.study.tags[MLFLOW_RUN_NOTE]
        after = sweep.run(trials=5, confirm=False)
        assert [job.key for job in sweep.jobs] == ["trial-4"]
        assert (after.champion, after.test_accuracy) == (before.champion, before.test_accuracy)
        kept = [name for name in recorded if name.startswith(("study/confirm", "study/final", "study/search_gain"))]
        assert len(kept) == 7
        assert {name: sweep.tracker.study.metrics[name] for name in kept} == {name: recorded[name] for name in kept}
        assert sweep.tracker.study.metrics["study/search_flops"] > recorded["study/search_flops"]
        assert sweep.tracker.study.tags[MLFLOW_RUN_NOTE] == note
        assert len(sweep.recorded_tests()) == 2

    def test_it_chooses_no_champion_while_a_confirmation_is_under_way(self, sweep: Study) -> None:
        before = sweep.run()
        note = sweep.tracker.study.tags[MLFLOW_RUN_NOTE]
        with pytest.raises(Interrupted):
            sweep.run(stop=lambda: sweep.tracker.state("confirm-5-0") == "complete", trials=6)
        after = sweep.run(trials=6, confirm=False)
        assert before.champion is not None
        assert after.champion is not None
        assert after.champion.source == before.champion.source == sweep.study.user_attrs["decision"]["champion"]
        assert sweep.tracker.study.tags[MLFLOW_RUN_NOTE].splitlines()[0] == note.splitlines()[0]

    def test_a_worker_that_dies_in_a_test_may_have_looked(self, sweep: Study) -> None:
        sweep.fault = lambda key, starts: died(key) if key == "test-final-3-0" and starts == 0 else None
        sweep.run()
        assert sorted(sweep.tested) == ["final-3-0", "final-3-1"]
        recorded = sorted(str(line["key"]) for line in sweep.recorded_tests())
        assert recorded == ["final-3-0", "final-3-0", "final-3-1"]

    def test_a_test_that_fails_is_one_line_and_done_again(self, sweep: Study) -> None:
        sweep.fault = lambda key, starts: Failed(key, "DataError: no file", "...") if key.startswith("test") else None
        said = "^a final network must be tested, but the test of final-3-0 failed: DataError: no file; mend that, and "
        with pytest.raises(RunsFailError, match=said):
            sweep.run()
        assert sweep.tracker.study.state == "interrupted"
        failed = sweep.tracker.runs["final-3-0"]
        assert (failed.state, failed.files["error.txt"]) == ("complete", b"...")
        assert [line["key"] for line in sweep.recorded_tests()] == ["final-3-0", "final-3-1"]
        sweep.fault = no_fault
        sweep.run()
        assert sweep.tested == ["final-3-0", "final-3-1"]


@pytest.mark.parametrize(
    ("gain", "said"),
    [
        (
            Gain(0.0123, 0.001, 0.0236, Beginning.KNOWN_GOOD),
            "added +1.23 points to its starting recipe (95 % interval +0.10 to +2.36)",
        ),
        (
            Gain(0.0031, -0.0052, 0.0114, Beginning.KNOWN_GOOD),
            "added +0.31 points to its starting recipe (95 % interval -0.52 to +1.14), within chance: "
            "the starting recipe stays",
        ),
        (
            Gain(-0.0066, -0.0167, 0.0035, Beginning.KNOWN_GOOD),
            "lost 0.66 points against its starting recipe (95 % interval -1.67 to +0.35), within chance: "
            "the starting recipe stays",
        ),
        (
            Gain(-0.0128, -0.0224, -0.0032, Beginning.KNOWN_GOOD),
            "found nothing better than its starting recipe: "
            "its own best is 1.28 points below it (95 % interval 0.32 to 2.24)",
        ),
        (
            Gain(0.0031, -0.0052, 0.0114, Beginning.FIRST),
            "added +0.31 points to its first recipe (95 % interval -0.52 to +1.14), within chance",
        ),
    ],
)
def test_the_gain_is_said_in_a_sentence(gain: Gain, said: str) -> None:
    assert gain.describe() == f"The search {said}"
