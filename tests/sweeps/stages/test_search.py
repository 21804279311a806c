"""The search: trials in Optuna and MLflow, enqueued recipes, budgets and pruning."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from unittest.mock import Mock

import pytest
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState

from cifar_core.budget import Budget, step_flops
from cifar_core.data.data_set import CIFAR10
from cifar_core.models import parameter_count
from cifar_core.recipe import Recipe
from sweeps.command_line import Interrupted
from sweeps.executors.protocol import Diverged, Event, Progressed, TrainJob
from sweeps.planning.limits import Limits
from sweeps.planning.search_space import Parameter
from sweeps.studies.study import BASELINE, Beginning
from tests.sweeps.scripted import PRESET, SPACE, TRAIN_IMAGES, ScriptedExecutor, Study, check_whole, even, pruning


class TestSearch:
    def test_a_whole_sweep(self, sweep: Study) -> None:
        summary = sweep.run()
        check_whole(sweep)
        assert summary.trials == {"complete": 4}
        assert (summary.nothing_left, summary.metrics["study/saved_fraction"]) == (False, 0)
        assert sweep.tracker.study.metrics["study/best_val_accuracy"] == even("trial-3")
        assert re.search(r"best 33\.0 ?% validation accuracy, trial 3, fast_resnet", sweep.log.getvalue())
        assert [trial.value for trial in sweep.trials] == [even(f"trial-{number}") for number in range(4)]
        for number, trial in enumerate(sweep.trials):
            run = sweep.tracker.runs[f"trial-{number}"]
            recipe = Recipe.from_dict(trial.user_attrs["recipe"])
            assert recipe.epochs == 1
            assert run.params.items() >= {name: str(value) for name, value in recipe.to_dict().items()}.items()
            reached = f"{100 * even(f'trial-{number}'):.1f} %"
            crown = ", champion" if number == 3 else ""
            assert run.tags["mlflow.runName"] == f"#{number} fast_resnet sgd bs 8 {reached}{crown}"
            assert run.tags["mlflow.note.content"].startswith(f"{reached} validation accuracy\n\nTrained for ")
            own = {"state": "complete", "key": f"trial-{number}", "stage": "search", "study": "a study"}
            own |= {"trial": str(number), "attempt": "1", "git_commit": "abc", "threads": "1"}
            rerun = f"python experiments/reproduce.py 'run:a study/trial-{number}' --store {sweep.store.root}"
            own |= {"rerun": rerun}
            assert {tag: text for tag, text in run.tags.items() if not tag.startswith(("mlflow.", "figures."))} == own
            assert Recipe.from_toml(run.files["recipe.toml"].decode()) == recipe
            assert sorted(trial.intermediate_values) == [2, 4, 6, 8]
            assert (run.metrics["cost/epochs"], run.metrics["system/load"]) == (1, 50)
            assert str(run.metrics["cost/training_flops"]) == run.params["trial_flops"]
            assert run.metrics["cost/validation_share"] == pytest.approx(0.1)

    def test_the_same_again_does_nothing(self, sweep: Study) -> None:
        first = sweep.run()
        assert sweep.run() == replace(first, nothing_left=True)
        assert sweep.jobs == []
        check_whole(sweep)

    def test_trials_is_a_total(self, sweep: Study) -> None:
        sweep.run(trials=3, confirm=False)
        assert sweep.run(trials=2, confirm=False).nothing_left
        sweep.run(trials=5, confirm=False)
        assert len(sweep.jobs) == 2
        assert sweep.states() == {TrialState.COMPLETE: 5}

    @pytest.mark.parametrize(("cores", "kept"), [(4, 2), (1, 1)])
    def test_a_trial_that_resumes_keeps_its_threads_while_there_are_cores(
        self, sweep: Study, cores: int, kept: int
    ) -> None:
        assert sweep.stopped_after(5, trials=2, threads=2, cores=4, confirm=False)
        sweep.run(trials=4, threads=1, cores=cores, confirm=False)
        threads = {"trial-0": kept, "trial-1": kept, "trial-2": 1, "trial-3": 1}
        assert {job.key: job.threads for job in sweep.jobs} == threads
        assert {key: int(run.tags["threads"]) for key, run in sweep.tracker.runs.items()} == threads

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
        assert "trial 0, five_conv" in sweep.log.getvalue(), "the one that was trained, not the nearest in the space"

    def test_a_trial_that_the_budget_cannot_pay_for_is_narrowed(self, sweep: Study) -> None:
        recipe = Recipe(model="five_conv", width=0.5, batch_size=16)
        budget = Budget(flops=1.5 * step_flops(recipe, CIFAR10), max_epochs=1)
        sweep.plan = replace(sweep.plan, preset=replace(PRESET, trial=budget))
        sweep.study.enqueue_trial(SPACE.nearest(recipe), user_attrs={"enqueued_recipe": recipe.to_dict()})
        sweep.run(trials=1, confirm=False)
        narrow = replace(recipe, width=0.25)
        assert sweep.jobs[0].recipe == budget.apply(narrow, TRAIN_IMAGES, CIFAR10)
        assert Recipe.from_dict(sweep.trials[0].user_attrs["recipe"]) == sweep.jobs[0].recipe
        rule = "as a trial takes at least two steps, and a batch has at most the training images"
        line = f"trial 0: five_conv at width 0.25, {rule}"
        assert line in sweep.log.getvalue().splitlines()

    def test_a_run_of_few_steps_reports_the_planned_parts_of_its_budget(self, sweep: Study) -> None:
        recipe = Recipe(model="five_conv", width=0.125, batch_size=TRAIN_IMAGES // 3)
        sweep.study.enqueue_trial(SPACE.nearest(recipe), user_attrs={"enqueued_recipe": recipe.to_dict()})
        sweep.run(trials=1, confirm=False)
        assert list(sweep.trials[0].intermediate_values) == [2, 4, 8], "steps 1, 2 and 3 of 3"

    def test_no_further_trials_once_patience_is_over(self, sweep: Study) -> None:
        sweep.script = lambda key: 0.9 if key == "trial-1" else 0.5
        assert sweep.run(trials=20, patience=3, confirm=False).trials["complete"] in (5, 6), "two run side by side"
        said = r"no further trials: [34] trials in a row did not beat the best; 1[45] of 20 are left out"
        assert re.search(said, sweep.log.getvalue())
        assert sweep.run(trials=20, patience=10, confirm=False).trials["complete"] in (12, 13), "it resumes"

    def test_no_further_trials_after_the_time_is_over(self, sweep: Study) -> None:
        summary = sweep.run(timeout=1e-9)
        assert (summary.metrics["study/saved_fraction"], summary.nothing_left) == (0, False)
        assert "no further trials: the time of --timeout (1e-09 s) is over; 4 of 4 are left out" in sweep.log.getvalue()
        assert sweep.trials == []
        assert sweep.run(timeout=3600.0).trials["complete"] == 4

    def test_the_time_is_that_of_all_processes(self, sweep: Study) -> None:
        assert sweep.stopped_after(5, trials=1, confirm=False)
        assert 0 < sweep.study.user_attrs["search_seconds"] < 100, "also where no trial has ended"
        sweep.run(trials=1, confirm=False)
        assert sweep.stopped_after(10, trials=3, confirm=False)
        sweep.study.set_user_attr("search_seconds", 5000.0)
        assert sweep.run(trials=9, timeout=3600.0).trials["complete"] == 3, "those that had begun"
        assert "no further trials: the time of --timeout (3600 s) is over; 6 of 9 are left out" in sweep.log.getvalue()


@pytest.mark.parametrize(
    ("reason", "resumes"), [("0.9 %, needed 78.3 %", 0.0), (None, 0.0), ("0.9 %, needed 78.3 %", 0.25)]
)
def test_a_trial_that_was_to_be_pruned_when_the_process_died_is_pruned_by_the_next(
    sweep: Study, monkeypatch: pytest.MonkeyPatch, reason: str | None, resumes: float
) -> None:
    pruning(sweep)
    sweep.run(trials=5, confirm=False)
    train = ScriptedExecutor._train

    def resumed(executor: ScriptedExecutor, job: TrainJob) -> Iterator[Event]:
        return (e for e in train(executor, job) if not isinstance(e, Progressed) or e.point.fraction > resumes)

    monkeypatch.setattr(ScriptedExecutor, "_train", resumed)
    left = sweep.study.ask()
    SPACE.suggest(left, Recipe())
    left.report(0.01, 2)
    assert left.should_prune()
    if reason is not None:  # else the process dies before it writes it, and here before it ends the trial
        left.set_user_attr("reason", reason)
    sweep.run(trials=6, confirm=False)
    assert sweep.trials[5].state == TrialState.PRUNED
    assert sweep.tracker.runs["trial-5"].reason.startswith(reason or "74.0 %, needed ")


class TestLimits:
    def test_without_any_network_within_them_every_trial_is_refused(self, sweep: Study) -> None:
        two = {**SPACE.parameters, "model": Parameter(CategoricalDistribution(("fast_resnet", "five_conv")))}
        space = replace(SPACE, parameters=two)
        summary = sweep.run(trials=5, confirm=False, space=space, limits=Limits(parameters=1))
        assert summary.trials == {"pruned": 5}
        assert summary.metrics["study/saved_fraction"] == 0, "no pruner has saved what was never to be trained"

    def test_a_network_beyond_them_is_not_trained(self, sweep: Study) -> None:
        allowed = parameter_count("fast_resnet", 0.25)
        summary = sweep.run(trials=12, limits=Limits(parameters=allowed))
        check = {trial.params["width"]: trial for trial in sweep.trials}
        assert set(check) == {0.25, 0.5}
        wide = [trial.number for trial in sweep.trials if trial.params["width"] == 0.5]
        assert summary.trials == {"complete": 12 - len(wide), "pruned": len(wide)}
        trained = {job.recipe.width for job in sweep.jobs if isinstance(job, TrainJob)}
        assert trained == {0.25}, "nor is it confirmed"
        has = f"fast_resnet has {parameter_count('fast_resnet', 0.5):,} weights where {allowed:,} are allowed"
        run = sweep.tracker.runs[f"trial-{wide[0]}"]
        assert (run.state, run.reason) == ("pruned", f"not trained, {has}")
        assert f"trial {wide[0]}: not trained, {has}" in sweep.log.getvalue().splitlines()
        assert check[0.5].user_attrs["spent_flops"] == 0
        assert check[0.5].constraints["parameters"] > 0, "so that Optuna's samplers learn it"
        assert check[0.25].constraints == {"parameters": 0}

    def test_a_trial_beyond_them_that_a_crash_left_is_not_trained_either(self, sweep: Study) -> None:
        sweep.study.enqueue_trial({"width": 0.5})
        trial = sweep.study.ask()
        trial.set_constraint("parameters", 0.5)
        summary = sweep.run(trials=1, confirm=False, limits=Limits(parameters=1000))
        assert summary.trials == {"pruned": 1}
        assert sweep.jobs == []
        reason = sweep.tracker.runs["trial-0"].reason
        assert reason == "not trained, fast_resnet has 1,500 weights where 1,000 are allowed"

    def test_a_stop_is_heard_while_every_trial_is_beyond_them(self, sweep: Study) -> None:
        with pytest.raises(Interrupted):
            sweep.run(stop=lambda: bool(sweep.trials), trials=10_000, limits=Limits(parameters=1))
        assert len(sweep.trials) < 10_000
        assert {run.state for run in sweep.tracker.runs.values()} == {"pruned"}

    def test_a_starting_recipe_beyond_them_is_not_confirmed(self, sweep: Study) -> None:
        sweep.study.enqueue_trial({"width": 0.5}, user_attrs={BASELINE: Beginning.KNOWN_GOOD})
        summary = sweep.run(trials=6, limits=Limits(parameters=parameter_count("fast_resnet", 0.25)))
        assert summary.gain is None
        assert "confirm-0-0" not in sweep.tracker.runs

    def test_without_any_network_within_them_there_is_no_champion(self, sweep: Study) -> None:
        summary = sweep.run(trials=3, limits=Limits(parameters=1))
        assert (summary.champion, summary.trials) == (None, {"pruned": 3})


class TestPruning:
    def test_pruned_trials_say_where_and_why_and_what_was_saved(self, sweep: Study) -> None:
        summary = pruning(sweep).run(trials=8, confirm=False)
        pruned = sweep.states()[TrialState.PRUNED]
        assert summary.trials == {"complete": 8 - pruned, "pruned": pruned}
        assert pruned >= 4
        full = spent = 0.0
        for trial in sweep.trials:
            run = sweep.tracker.runs[f"trial-{trial.number}"]
            fraction, accuracy = run.metrics["cost/epochs"], 100 * run.metrics["val/accuracy"]
            full += trial.user_attrs["flops"]
            spent += fraction * trial.user_attrs["flops"]
            assert run.metrics["cost/training_flops"] == trial.user_attrs["spent_flops"]
            assert trial.user_attrs["spent_flops"] == fraction * trial.user_attrs["flops"]
            if trial.state == TrialState.PRUNED:
                assert fraction == 0.25
                assert run.state == "pruned"
                assert run.reason.startswith(f"{accuracy:.1f} %, needed ")
                assert ": pruned at 25 % of its steps, below the best " in run.reason
                assert trial.user_attrs["reason"] == run.reason == run.tags["mlflow.note.content"].partition("\n")[0]
                assert f"trial {trial.number}: {run.reason}\n" in sweep.log.getvalue()
        saved = summary.metrics["study/saved_fraction"]
        assert summary.metrics["study/full_flops"] == pytest.approx(full)
        assert saved == pytest.approx(1 - spent / full)
        assert 0.4 < saved < 1
        assert sweep.tracker.study.metrics.items() >= summary.metrics.items()

    def test_a_trial_that_reached_its_end_has_no_reason_to_be_pruned(self, sweep: Study) -> None:
        sweep.study.pruner = Mock(prune=lambda study, trial: 8 in trial.intermediate_values)
        sweep.run(trials=1, confirm=False)
        [trial] = sweep.trials
        assert trial.state == TrialState.COMPLETE
        assert "reason" not in trial.user_attrs

    def test_a_diverged_trial_is_pruned_so_that_the_sampler_learns_of_it(self, sweep: Study) -> None:
        reason = "training loss was nan at step 4"
        sweep.fault = lambda key, starts: Diverged(key, reason) if key == "trial-1" else None
        summary = sweep.run(confirm=False)
        assert sweep.trials[1].state == TrialState.PRUNED
        assert sweep.trials[1].user_attrs["reason"] == reason
        assert (sweep.tracker.runs["trial-1"].state, sweep.tracker.runs["trial-1"].reason) == ("pruned", reason)
        assert summary.trials == {"complete": 3, "pruned": 1}
        assert summary.metrics["study/saved_fraction"] == 0, "no pruner has saved what would not have trained on"
