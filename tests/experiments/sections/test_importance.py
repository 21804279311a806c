from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from optuna.distributions import FloatDistribution

from experiments.decision.facts import Facts
from experiments.pages.blocks import Missing
from experiments.sections import importance
from experiments.sections.importance import importances_of, search_parameters, section, varied
from experiments.stats import FEW_TRIALS
from sweeps.planning.search_space import SearchSpace
from tests.experiments.support import figures, with_study


def table(trials: int = 60) -> pd.DataFrame:
    """Trials whose accuracy follows the strength of mixing and little else."""
    draw = np.random.default_rng(0)
    mix_alpha, width = draw.uniform(0.25, 4, trials), draw.uniform(0.75, 1, trials)
    accuracy = 0.9 - 0.1 * np.abs(np.log(mix_alpha)) + 0.001 * width
    models = draw.choice(["a", "b"], trials)
    return pd.DataFrame(
        {"trial": range(trials), "accuracy": accuracy, "mix_alpha": mix_alpha, "width": width, "model": models}
    )


@pytest.fixture
def many(demo: Facts) -> Facts:
    """`demo` with 60 complete trials that have the parameters of `table`."""
    trials = table()
    search = pd.concat([demo.study.search.query("state == 'complete'").head(1)] * len(trials), ignore_index=True)
    params = {f"params.{name}": trials[name].map(str) for name in ("mix_alpha", "width", "model")}
    search = search.assign(**params, **{"trial": trials["trial"], "metrics.val/accuracy": trials["accuracy"]})
    return with_study(demo, search=search)


def test_the_parameter_that_decides_is_the_most_important_and_shares_add_up() -> None:
    found = importances_of(table())
    assert found.shares[0][0] == "mix_alpha"
    assert sum(share for _, share in found.shares) == pytest.approx(1)
    assert found.trials == 60
    assert found == importances_of(table())


def test_only_what_is_beyond_chance_is_called_so() -> None:
    assert importances_of(table(200)).significant == ("mix_alpha",)
    noise = table(200).assign(accuracy=np.random.default_rng(1).uniform(size=200))
    assert importances_of(noise).significant == ()
    by_model = table(200)
    by_model["accuracy"] = by_model["accuracy"] + 0.5 * (by_model["model"] == "a")
    assert "model" in importances_of(by_model).significant


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


def test_a_study_with_few_trials_has_a_number_but_no_figure(demo: Facts) -> None:
    made = section(demo)
    missing = "Which parameters mattered cannot be said: 2 complete trials: fewer than the 10 that it takes to say what"
    assert made.blocks == (Missing(f"{missing} mattered."),)
    assert [(number.name, number.value) for number in made.numbers] == [("importance.trials", 2)]


def test_trials_are_drawn_by_the_most_important_parameters_in_order(many: Facts) -> None:
    made = section(many)
    bars, slices = figures(made).values()
    shares = {number.name: number.value for number in made.numbers}
    names = [name.removeprefix("importance.") for name in shares if name != "importance.trials"]
    first = shares["importance.mix_alpha"]
    assert isinstance(first, float)
    assert list(bars.figure.data[0].y) == names[::-1]
    assert bars.caption.text.startswith(f"mix_alpha has the largest part, {100 * first:.0f} %")
    assert [trace.name for trace in slices.figure.data] == names
    axes = {trace.name: slices.figure.layout[trace.xaxis.replace("x", "xaxis")].type for trace in slices.figure.data}
    assert axes == {"mix_alpha": "log", "width": "linear", "model": "category"}
    best = many.study.search["metrics.val/accuracy"].idxmax()
    assert f"the best, trial {best}, has mix_alpha " in slices.caption.text


def test_only_what_differs_among_complete_trials_was_varied(demo: Facts) -> None:
    search = demo.study.search
    assert list(varied(search)) == ["trial", "accuracy", "model"]
    by_rate = search.assign(**{"params.learning_rate": [str(2.0**n) for n in range(len(search))]})
    trials = varied(by_rate)
    # SGD's usual rate is 0.5 at batch size 256, so 0.5 * sqrt(2) at 512.
    assert trials["learning_rate / usual"].tolist() == pytest.approx(
        [1 / (0.5 * math.sqrt(2)), 8 / (0.5 * math.sqrt(2))]
    )


def test_a_parameter_that_a_search_space_adds_is_among_those_varied(
    demo: Facts, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {"model", "flip", "learning_rate / usual"} <= set(search_parameters())
    toy = SearchSpace("toy", "", {"bn_momentum": FloatDistribution(0.1, 0.9, log=True)})
    monkeypatch.setattr(importance, "SPACES", {"toy": toy})
    search = demo.study.search
    search = search.assign(**{"params.bn_momentum": [str(0.1 * (n + 1)) for n in range(len(search))]})
    assert list(varied(search)) == ["trial", "accuracy", "bn_momentum"]
