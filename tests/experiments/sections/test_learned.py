from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from experiments.reading.studies import Reader
from experiments.sections.learned import FEW_TRIALS, best_so_far, front_of, importances_of, slices_of, varied

if TYPE_CHECKING:
    from tests.experiments.conftest import Fake


def test_only_complete_trials_can_be_the_best() -> None:
    trials = pd.DataFrame(
        {
            "trial": [3.0, 0.0, 1.0, 2.0],
            "metrics.val/accuracy": [0.7, 0.9, 0.5, math.nan],
            "state": ["complete", "pruned", "complete", "failed"],
            "params.model": ["a", "b", None, "a"],
            "run_id": ["r3", "r0", "r1", "r2"],
        }
    )
    frame = best_so_far(trials)
    assert frame["trial"].tolist() == [0, 1, 3]
    assert math.isnan(frame["best"].iloc[0])
    assert frame["best"].tolist()[1:] == [0.5, 0.7]
    assert frame["model"].tolist() == ["b", "unknown", "a"]


def table(trials: int = 60) -> pd.DataFrame:
    """Trials whose accuracy follows the rate and little else."""
    draw = np.random.default_rng(0)
    rate, width = draw.uniform(0.25, 4, trials), draw.uniform(0.75, 1, trials)
    accuracy = 0.9 - 0.1 * np.abs(np.log(rate)) + 0.001 * width
    models = draw.choice(["a", "b"], trials)
    return pd.DataFrame(
        {"trial": range(trials), "accuracy": accuracy, "mix_alpha": rate, "width": width, "model": models}
    )


def test_the_parameter_that_decides_is_the_most_important_and_shares_add_up() -> None:
    found = importances_of(table())
    assert found.shares[0][0] == "mix_alpha"
    assert sum(share for _, share in found.shares) == pytest.approx(1)
    assert found.trials == 60
    assert found == importances_of(table())


def test_only_what_is_beyond_chance_is_called_so() -> None:
    assert importances_of(table(200)).sure == ("mix_alpha",)
    noise = table(200).assign(accuracy=np.random.default_rng(1).uniform(size=200))
    assert importances_of(noise).sure == ()
    by_model = table(200)
    by_model["accuracy"] = by_model["accuracy"] + 0.5 * (by_model["model"] == "a")
    assert "model" in importances_of(by_model).sure


@pytest.mark.parametrize(
    ("trials", "words"),
    [
        (table(FEW_TRIALS - 1), "9 complete trials: fewer than the 10"),
        (table(1), "1 complete trial: fewer"),
        (table().assign(accuracy=0.5), "do not differ"),
        (table()[["trial", "accuracy"]], "do not differ"),
    ],
)
def test_why_there_are_no_importances_is_said(trials: pd.DataFrame, words: str) -> None:
    found = importances_of(trials)
    assert found.shares == ()
    assert words in found.missing
    assert slices_of(trials, found) == ()


def test_slices_are_of_the_most_important_parameters_in_order() -> None:
    found = importances_of(table())
    parts = slices_of(table(), found)
    assert [part.parameter for part in parts] == [name for name, _ in found.shares[:4]]
    rate = next(part for part in parts if part.parameter == "mix_alpha")
    assert rate.log
    assert rate.numeric
    assert not next(part for part in parts if part.parameter == "model").numeric


def test_only_what_differs_among_complete_trials_was_varied(store: Fake) -> None:
    search = Reader(store.place).read("demo").search
    assert list(varied(search)) == ["trial", "accuracy", "model"]
    by_rate = search.assign(**{"params.learning_rate": [str(2.0**n) for n in range(len(search))]})
    trials = varied(by_rate)
    # SGD's usual rate is 0.5 at batch size 256, so 0.5 * sqrt(2) at 512.
    assert trials["learning_rate / usual"].tolist() == pytest.approx(
        [1 / (0.5 * math.sqrt(2)), 8 / (0.5 * math.sqrt(2))]
    )


def test_the_front_holds_what_nothing_beats_with_less_compute(store: Fake) -> None:
    study = Reader(store.place).read("demo")
    found = front_of(study)
    assert sorted(found.runs["stage"].value_counts().to_dict().items()) == [("confirm", 2), ("search", 2)]
    assert [pytest.approx(point) for point in found.best] == [(9e13, 0.929)]
    cheap = study.search.assign(**{"metrics.cost/training_flops": 1e13})
    assert [flops for flops, _ in front_of(replace(study, search=cheap)).best] == [1e13, 9e13]
