from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import optuna
import pandas as pd
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.importance import get_param_importances
from optuna.trial import TrialState

from cifar_core.budget import from_reference
from cifar_core.recipe import Recipe
from experiments.decision.facts import Facts
from experiments.pages.blocks import Missing
from experiments.sections.importance import MIN_TRIALS_TO_TEST, importances_of, search_parameters, section, varied
from experiments.stats import FEW_TRIALS
from sweeps.planning.search_space import Distribution, Parameter, reference_epochs
from sweeps.planning.space_file import SPACES
from tests.experiments.support import figures, known, with_study

PARAMETERS = search_parameters()


def table(trials: int = 60) -> pd.DataFrame:
    """Trials whose accuracy follows the strength of mixing and little else."""
    draw = np.random.default_rng(0)
    mix_alpha, width = draw.uniform(0.25, 4, trials), draw.uniform(0.75, 1, trials)
    accuracy = 0.9 - 0.1 * np.abs(np.log(mix_alpha)) + 0.001 * width
    models = draw.choice(["a", "b"], trials)
    return pd.DataFrame(
        {"trial": range(trials), "accuracy": accuracy, "mix_alpha": mix_alpha, "width": width, "model": models}
    )


def wide(trials: int) -> pd.DataFrame:
    """Trials in which ten parameters vary."""
    draw = np.random.default_rng(0)
    columns = {f"p{number}": draw.uniform(size=trials) for number in range(10)}
    return pd.DataFrame({"trial": range(trials), "accuracy": draw.uniform(size=trials), **columns})


@pytest.fixture
def many(demo: Facts) -> Facts:
    """`demo` with 60 complete trials that have the parameters of `table`."""
    trials = table()
    search = pd.concat([demo.study.search.query("state == 'complete'").head(1)] * len(trials), ignore_index=True)
    params = {f"params.{name}": trials[name].map(str) for name in ("mix_alpha", "width", "model")}
    search = search.assign(**params, **{"trial": trials["trial"], "metrics.val/accuracy": trials["accuracy"]})
    return with_study(demo, search=search)


def test_the_parameter_that_decides_is_the_most_important_and_shares_add_up() -> None:
    found = importances_of(table(), PARAMETERS)
    assert found.shares[0][0] == "mix_alpha"
    assert sum(share for _, share in found.shares) == pytest.approx(1)
    assert found.trials == 60
    assert found == importances_of(table(), PARAMETERS)


def test_only_what_is_beyond_chance_is_called_so() -> None:
    assert importances_of(table(200), PARAMETERS).significant == ("mix_alpha",)
    assert importances_of(table(MIN_TRIALS_TO_TEST - 1), PARAMETERS).significant is None
    noise = table(200).assign(accuracy=np.random.default_rng(1).uniform(size=200))
    assert importances_of(noise, PARAMETERS).significant == ()
    by_model = table(200)
    by_model["accuracy"] = by_model["accuracy"] + 0.5 * (by_model["model"] == "a")
    assert "model" in known(importances_of(by_model, PARAMETERS).significant)


def test_a_parameter_that_most_trials_have_the_same_value_of_can_be_beyond_chance() -> None:
    trials = table(200)
    few = np.arange(200) % 12 == 0
    trials = trials.assign(cutout=np.where(few, trials["width"], 0.0), accuracy=trials["accuracy"] + few)
    assert trials["cutout"].nunique() > 10
    assert "cutout" in known(importances_of(trials, PARAMETERS).significant)


DRAWN: dict[str, Distribution] = {
    "width": FloatDistribution(0.5, 2.0, log=True),
    "dropout": FloatDistribution(0.0, 1.0, step=0.1),
    "cutout": IntDistribution(0, 8, step=4),
    "translate": IntDistribution(0, 4),
    "batch_size": CategoricalDistribution([128, 512]),
    "flip": CategoricalDistribution([True, False]),
    "model": CategoricalDistribution(["airbench", "five_conv", "wide_resnet"]),
}


@pytest.fixture
def study() -> optuna.Study:
    """40 trials of `DRAWN`, in which the pixels that are cut out decide. None has the last model."""
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    while len(study.get_trials(states=[TrialState.COMPLETE])) < 40:
        trial = study.ask({**DRAWN})
        values = trial.params
        accuracy = 0.9 - 0.02 * values["cutout"] - 0.01 * values["translate"] + 0.1 * values["dropout"]
        study.tell(trial, accuracy) if values["model"] != "wide_resnet" else study.tell(trial, state=TrialState.PRUNED)
    return study


@pytest.mark.parametrize("beyond", [{}, {"cutout": 12, "width": 4.0, "dropout": 1.5}])
def test_the_parts_are_those_that_optuna_gives_the_same_trials(study: optuna.Study, beyond: dict[str, float]) -> None:
    """Optuna has the nearest point where a queued recipe lies beyond the space."""
    highest = {name: getattr(DRAWN[name], "high") for name in beyond}  # noqa: B009
    study.enqueue_trial(study.trials[0].params | highest)
    study.tell(study.ask({**DRAWN}), 0.9)
    rows = [
        {"trial": trial.number, "state": "complete", "metrics.val/accuracy": trial.value}
        | {f"params.{name}": str(value) for name, value in trial.params.items()}
        for trial in study.get_trials(states=[TrialState.COMPLETE])
    ]
    rows[-1] |= {f"params.{name}": str(value) for name, value in beyond.items()}
    parameters = {name: Parameter(drawn) for name, drawn in DRAWN.items()}
    found = importances_of(varied(pd.DataFrame(rows), parameters, 45_000), parameters)
    assert dict(found.shares) == pytest.approx(get_param_importances(study, normalize=True))
    assert {name for name, _ in found.shares} == set(DRAWN)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("width", [0.4, 1.5]),
        ("dropout", [0.1, 0.25]),
        ("cutout", [0.0, 3.0]),
        ("translate", [0.0, 0.6]),
        ("batch_size", [128.0, 256.0]),
        ("model", ["airbench", "no_such"]),
    ],
)
def test_values_of_another_version_of_the_space_have_importances(name: str, values: list[object]) -> None:
    trials = pd.DataFrame({"trial": range(40), "accuracy": np.linspace(0.5, 0.9, 40), name: values * 20})
    assert importances_of(trials, {name: Parameter(DRAWN[name])}).shares == ((name, 1.0),)


@pytest.mark.parametrize(
    ("trials", "words"),
    [
        (table(FEW_TRIALS - 1), "9 complete trials are too few to tell; it takes 3 for each"),
        (table(1), "1 complete trial is too few to tell; it takes 3 "),
        (
            wide(29),
            "29 complete trials are too few to tell; it takes 3 for each parameter that varies, and at least 10: "
            "here 30",
        ),
        (table().assign(accuracy=0.5), "do not differ"),
        (table()[["trial", "accuracy"]], "do not differ"),
    ],
)
def test_why_there_are_no_importances_is_said(trials: pd.DataFrame, words: str) -> None:
    found = importances_of(trials, PARAMETERS)
    assert found.shares == ()
    assert words in found.missing


def test_a_study_with_few_trials_has_a_number_but_no_figure(demo: Facts) -> None:
    made = section(demo)
    missing = "Which parameters mattered cannot be said: 2 complete trials are too few to tell; it takes 3 for each"
    assert made.blocks == (Missing(f"{missing} parameter that varies, and at least 10: here 10."),)
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


def test_few_values_of_a_number_are_the_only_ticks_and_multiples_are_explained(many: Facts) -> None:
    rates = {"params.learning_rate": ["0.1", "0.2", "0.4"] * 20, "params.mix_alpha": "1.0"}
    search = many.study.search.assign(**rates)
    bars, slices = figures(section(with_study(many, search=search))).values()
    axes = {trace.name: slices.figure.layout[trace.xaxis.replace("x", "xaxis")].type for trace in slices.figure.data}
    assert axes == {"learning_rate / usual": "category", "width": "linear", "model": "category"}
    usual = ' "/ usual" divides by what suits the optimiser at the batch size and length of the trial.'
    assert bars.caption.text.endswith(usual)
    assert "/ usual" not in figures(section(many))["importances"].caption.text


@pytest.mark.parametrize(("value", "words"), [(1024.0, "1024"), (0.512345, "0.512"), (1234.5, "1,230")])
def test_a_value_of_the_best_trial_has_no_exponent(many: Facts, value: float, words: str) -> None:
    search = many.study.search.copy()
    search.loc[search["metrics.val/accuracy"].idxmax(), "params.mix_alpha"] = str(value)
    caption = figures(section(with_study(many, search=search)))["slices"].caption.text
    assert f" has mix_alpha {words}. " in caption


def test_only_what_differs_among_complete_trials_was_varied(demo: Facts) -> None:
    search = demo.study.search
    assert list(varied(search, PARAMETERS, 45_000)) == ["trial", "accuracy", "model"]
    by_rate = search.assign(**{"params.learning_rate": [str(2.0**n) for n in range(len(search))]})
    trials = varied(by_rate, PARAMETERS, 45_000)
    # SGD's usual rate is 0.5 at batch size 256, so 0.5 * sqrt(2) at 512.
    assert trials["learning_rate / usual"].tolist() == pytest.approx(
        [1 / (0.5 * math.sqrt(2)), 8 / (0.5 * math.sqrt(2))]
    )


@pytest.mark.parametrize("model", ["airbench", "wide_resnet", "vision_transformer"])
@pytest.mark.parametrize("images", [45_000, 400])
def test_a_rate_is_shown_as_the_multiple_that_was_drawn(demo: Facts, model: str, images: int) -> None:
    """With `reset_norms` rates have another scale, and depend on the length of the trial."""
    space, multiples = SPACES["full"], [0.5, 1.0, 2.0]
    base = Recipe(epochs=reference_epochs(images))
    drawn = [space.recipe({**space.starts[0], "model": model, "learning_rate_multiple": m}, base) for m in multiples]
    drawn = [from_reference(recipe, epochs) for recipe, epochs in zip(drawn, (0.5, 3.0, 40.0), strict=True)]
    search = pd.concat([demo.study.search.query("state == 'complete'").head(1)] * 3, ignore_index=True)
    params = pd.DataFrame([{f"params.{k}": str(v) for k, v in recipe.to_dict().items()} for recipe in drawn])
    trials = varied(search.assign(**params), search_parameters(space.text), images)
    assert trials["learning_rate / usual"].tolist() == pytest.approx(multiples)


def test_the_parameters_are_those_of_the_space_that_the_study_recorded(many: Facts) -> None:
    assert {"model", "flip", "learning_rate / usual"} <= set(PARAMETERS)
    search = many.study.search
    search = search.assign(**{"params.bn_momentum": [str(0.1 + 0.01 * n) for n in range(len(search))]})
    toy = """
    description = "toy"
    [parameters.bn_momentum]
    low = 0.1
    high = 0.9
    """
    parameters = search_parameters(toy)
    assert list(varied(search, parameters, 45_000)) == ["trial", "accuracy", "bn_momentum"]
    artifacts = replace(many.study.artifacts, space=toy)
    bars = figures(section(with_study(many, search=search, artifacts=artifacts)))["importances"]
    assert list(bars.figure.data[0].y) == ["bn_momentum"]
    assert search_parameters("damaged [") == PARAMETERS


class TestConditionalParameters:
    """`mix_alpha` does nothing in a trial that does not mix."""

    def with_mix(self, many: Facts, mixing: int) -> Facts:
        search = many.study.search
        mix = ["mixup" if n < mixing else "none" for n in range(len(search))]
        return with_study(many, search=search.assign(**{"params.mix": mix}))

    def test_a_trial_without_it_has_no_value_of_it(self, many: Facts) -> None:
        trials = varied(self.with_mix(many, 20).study.search, PARAMETERS, 45_000)
        assert trials["mix_alpha"].notna().tolist() == [True] * 20 + [False] * 40
        assert trials["width"].notna().all()

    def test_it_is_never_important_where_it_does_nothing(self, many: Facts) -> None:
        assert "mix_alpha" not in varied(self.with_mix(many, 0).study.search, PARAMETERS, 45_000)
        assert "mix_alpha" not in varied(self.with_mix(many, 1).study.search, PARAMETERS, 45_000)

    def test_nothing_was_varied_where_no_trial_is_complete(self, many: Facts) -> None:
        pruned = self.with_mix(many, 20).study.search.assign(state="pruned")
        assert varied(pruned, PARAMETERS, 45_000).empty

    def test_it_is_judged_by_the_trials_that_have_it(self, many: Facts) -> None:
        facts = self.with_mix(many, 40)
        found = importances_of(varied(facts.study.search, PARAMETERS, 45_000), PARAMETERS)
        assert {name for name, _ in found.shares} == {"mix", "mix_alpha", "model", "width"}
        assert sum(share for _, share in found.shares) == pytest.approx(1)
        assert found.left_out == ()
        slices = figures(section(facts))["slices"].figure
        assert {trace.name: len(trace.x) for trace in slices.data}["mix_alpha"] == 40

    def test_it_is_left_out_where_too_few_trials_have_it(self, many: Facts) -> None:
        facts = self.with_mix(many, 9)
        bars = figures(section(facts))["importances"]
        assert "mix_alpha" not in bars.figure.data[0].y
        assert bars.caption.text.endswith(" Left out, as fewer than 10 of them have it: mix_alpha.")

    def test_the_best_trial_may_lack_it(self, many: Facts) -> None:
        facts = self.with_mix(many, 40)
        search = facts.study.search.copy()
        search.loc[50, "metrics.val/accuracy"] = 0.99
        caption = figures(section(with_study(facts, search=search)))["slices"].caption.text
        assert "the best, trial 50, has no mix_alpha." in caption
