"""Pruners: where they judge, how many trials pass, and among which."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from sweeps.planning.presets import EIGHTHS, PRESETS
from sweeps.studies.pruners import PRUNERS, Bar, Halving, MedianOfModel

JUDGED = (2, 4, 6)  # eighths of a trial's budget after which it may still be pruned


def study_with(pruner: str) -> optuna.Study:
    return optuna.create_study(direction="maximize", pruner=PRUNERS[pruner]())


def run(
    study: optuna.Study, values: Sequence[float], model: str | None = "airbench", *, recipe: str | None = None
) -> int | None:
    """Run a trial with these accuracies, and return the eighth of its steps at which it was pruned, if it was.

    Args:
        recipe: model of its recipe, if another.
    """
    if model is not None:
        study.enqueue_trial({"model": model})
    trial = study.ask()
    if model is not None:
        trial.suggest_categorical("model", ["airbench", "five_conv"])
    if recipe is not None:
        trial.set_user_attr("recipe", {"model": recipe})
    for eighth, value in zip(JUDGED, values, strict=True):
        trial.report(value, eighth)
        if trial.should_prune():
            study.tell(trial, state=TrialState.PRUNED)
            return eighth
    study.tell(trial, values[-1])
    return None


def bar_of(study: optuna.Study, eighth: int) -> Bar | None:
    """Return the accuracy that the pruner of the study asked of the last trial."""
    assert isinstance(study.pruner, Halving | MedianOfModel)
    return study.pruner.bar(study, study.trials[-1], eighth)


def test_halving_judges_at_a_quarter_only() -> None:
    study = study_with("halving")
    assert [run(study, (0.5, 0.6, 0.7)) for _ in range(9)] == [None] * 9
    assert run(study, (0.4, 0.6, 0.7)) == 2
    assert run(study, (0.6, 0.1, 0.1)) is None


def test_halving_lets_the_best_pass_however_many_they_are() -> None:
    study = study_with("halving")
    assert [run(study, (k / 100, k / 100, k / 100)) for k in range(30)] == [None] * 30, "each was the best so far"
    assert [run(study, (-k / 100, 0, 0)) for k in range(30)] == [2] * 30


def test_halving_lets_a_quarter_pass() -> None:
    study = study_with("halving")
    values = np.random.default_rng(0).permutation(200) / 200
    passed = [value for value in values if run(study, (value,) * 3) is None]
    assert 0.2 < len(passed) / len(values) < 0.25, "a quarter of those so far, rounded down"
    assert max(values) in passed


def test_halving_judges_a_trial_whose_quarter_was_lost_by_its_next_value() -> None:
    study = study_with("halving")
    for _ in range(8):
        run(study, (0.8,) * 3)
    for value, ends in ((0.7, True), (0.9, False)):
        study.enqueue_trial({"model": "airbench"})
        trial = study.ask()
        trial.suggest_categorical("model", ["airbench", "five_conv"])
        trial.report(value, 4)
        assert trial.should_prune() == ends


@pytest.mark.parametrize("earlier", ["none", "median", "hyperband"])
def test_halving_compares_with_trials_that_another_pruner_judged(earlier: str) -> None:
    study = study_with(earlier)
    for k in range(8):
        run(study, (0.8 + k / 100,) * 3)
    study.pruner = PRUNERS["halving"]()
    assert run(study, (0.8, 0.9, 0.9)) == 2
    assert run(study, (0.9, 0.9, 0.9)) is None


@pytest.mark.parametrize("pruner", ["halving", "median"])
def test_trials_compete_with_those_of_their_own_network(pruner: str) -> None:
    study = study_with(pruner)
    assert [run(study, (0.8, 0.8, 0.8)) for _ in range(8)] == [None] * 8
    assert run(study, (0.3, 0.3, 0.3), "five_conv") is None, "the first of its network, so it trains to the end"
    assert run(study, (0.5, 0.5, 0.5), "airbench") == 2
    assert run(study, (0.4, 0.4, 0.4), "five_conv") is None


def test_a_network_that_the_space_lacks_competes_with_its_own_kind() -> None:
    study = study_with("halving")
    assert [run(study, (0.8, 0.8, 0.8)) for _ in range(8)] == [None] * 8
    assert run(study, (0.3, 0.3, 0.3), recipe="three_conv") is None
    assert run(study, (0.2, 0.2, 0.2), recipe="three_conv") == 2
    found = bar_of(study, 2)
    assert found is not None
    assert found.place == "the best 1 of 2 three_conv trials"


@pytest.mark.parametrize(("pruner", "pruned"), [("median", [None] * 4 + [2, 2]), ("none", [None] * 6)])
def test_a_median_waits_for_four_trials_and_none_never_prunes(pruner: str, pruned: list[int | None]) -> None:
    study = study_with(pruner)
    assert [run(study, (-k, -k, -k)) for k in range(6)] == pruned


def test_a_median_judges_a_trial_by_its_best_value() -> None:
    study = study_with("median")
    for k in range(4):
        run(study, (0.4 + k / 10, 0.5 + k / 10, 0.6 + k / 10))
    assert run(study, (0.7, 0.1, 0.1)) == 6, "0.7 beats medians of 0.55 and 0.65, not that of 0.75"


@pytest.mark.parametrize("pruner", PRUNERS)
def test_any_pruner_can_be_asked(pruner: str) -> None:
    study = study_with(pruner)
    assert {run(study, (-k, -k, -k)) for k in range(6)} <= {None, *JUDGED}


def test_trials_report_where_pruners_judge() -> None:
    assert tuple(fraction * EIGHTHS for fraction in PRESETS["quick"].trial_validations()) == (*JUDGED, EIGHTHS)


@pytest.mark.parametrize("pruner", ["halving", "median"])
def test_the_bar_is_what_decides(pruner: str) -> None:
    study = study_with(pruner)
    pruned, below = [], []
    for value in np.random.default_rng(0).permutation(40) / 40:
        eighth = run(study, (value,) * 3)
        asked = bar_of(study, eighth or JUDGED[-1])
        assert asked is not None
        pruned.append(eighth is not None)
        below.append(asked.accuracy > value)
    assert pruned[4:] == below[4:]  # a median waits for four trials
    assert set(pruned) == {False, True}


def test_the_bar_names_its_rivals() -> None:
    study = study_with("halving")
    run(study, (0.9, 0.9, 0.9), model="five_conv")
    for k in range(8):
        run(study, (k / 10, 0.9, 0.9))
    assert bar_of(study, 2) == Bar(0.6, "the best 2 of 8 airbench trials")
    study = study_with("median")
    for value in (0.125, 0.25, 0.5, 0.75):
        run(study, (value,) * 3)
    asked = bar_of(study, 4)
    assert asked == Bar(0.375, "the median of 4 complete airbench trials")
    study = study_with("halving")
    run(study, (0.5, 0.5, 0.5), model=None)
    assert bar_of(study, 2) == Bar(0.5, "the best 1 of 1 trials")
