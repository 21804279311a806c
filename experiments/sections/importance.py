"""Parameter importance of the report: which parameters of the search mattered, and how."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
import pandas as pd
import plotly.graph_objects as go
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.importance import get_param_importances
from optuna.trial import FrozenTrial, create_trial
from scipy import stats

from cifar_core.budget import to_reference
from cifar_core.recipe import Recipe
from experiments.decision.facts import Facts
from experiments.pages.blocks import Figure, Missing, Number, Section
from experiments.pages.plots import BLUE, add_points, canvas, pc
from experiments.pages.text import CitedText, listed, run_sources
from experiments.stats import FEW_TRIALS, SIGNIFICANCE_LEVEL, holm
from sweeps.planning.search_space import MULTIPLE, MULTIPLES, Parameter, multiples_of, reference_epochs
from sweeps.planning.space_file import SPACES, parse_space
from sweeps.validation import InvalidFileError
from sweeps.words import counted, percent, rounded

SLICES = 4  # parameters that are drawn
FEW_VALUES = 6  # different ones of a parameter, at most, that each get a place of their own on the axis
BEST = 0.1  # share of the trials that count as good, as in PED-ANOVA
USUAL = " / usual"  # ends the name of a parameter that is drawn as a multiple of what suits the optimiser
TRIALS_PER_PARAMETER = 3  # complete ones, below which importances are not stated
MIN_TRIALS_TO_TEST = 30  # complete ones, below which the test of chance finds next to nothing
_SHUFFLES = 999
_TENTHS = 10
_OF_MULTIPLES: Mapping[str, Callable[[str], Any]] = {  # params that a multiple depends on
    "optimizer": str,
    "reset_norms": "True".__eq__,
    "batch_size": int,
    "epochs": float,
    "learning_rate": float,
    "weight_decay": float,
}


@dataclass(frozen=True, slots=True)
class Importances:
    """Share of the difference between good and other trials that each parameter explains.

    PED-ANOVA (Watanabe et al., 2023) as Optuna has it, on the complete trials.

    Attributes:
        shares: (parameter, share), the greatest first; they add up to 1. Empty where `missing` says why.
        significant: parameters in which the best tenth of the trials differs from the others by more than chance;
            None: too few trials to tell.
        left_out: parameters that too few trials have, because of their conditions.
    """

    shares: tuple[tuple[str, float], ...]
    trials: int
    missing: str = ""
    significant: tuple[str, ...] | None = None
    left_out: tuple[str, ...] = ()


def search_parameters(space: str | None = None) -> Mapping[str, Parameter]:
    """The parameters that the search varied, by field of the recipe.

    `USUAL` is added to a field that is drawn as a multiple, such as "learning_rate / usual".

    Args:
        space: file of the search space. Without one that can be read, the parameters are those of all built-in spaces.
    """
    spaces = list(SPACES.values())
    if space is not None:
        with contextlib.suppress(InvalidFileError):  # of another version
            spaces = [parse_space(Path("space.toml"), space)]
    return {_label(name): parameter for each in spaces for name, parameter in each.parameters.items()}


def varied(search: pd.DataFrame, parameters: Mapping[str, Parameter], train_images: int) -> pd.DataFrame:
    """The complete trials: trial, accuracy, and each parameter of the search that differs among them.

    A trial has no value (NaN) of a parameter whose condition does not hold in it.
    """
    complete = search[(search["state"] == "complete") & search["metrics.val/accuracy"].notna()]
    table = pd.DataFrame({"trial": complete["trial"].astype(int), "accuracy": complete["metrics.val/accuracy"]})
    values: dict[str, Any] = {}  # by parameter; also of those that do not differ, as conditions may name them
    for name, parameter in parameters.items():
        field = name.removesuffix(USUAL)
        if f"params.{field}" in complete and complete[f"params.{field}"].notna().all():
            column = _typed(complete[f"params.{field}"])
            if name != field:
                column = _multiples(complete, field, train_images)
            for other, allowed in parameter.when.items():
                if (label := _label(other)) in values:
                    column = column.where(_among(values[label], allowed))
            values[name] = column
            if column.nunique() > 1:
                table[name] = column
    return table.reset_index(drop=True)


def importances_of(table: pd.DataFrame, parameters: Mapping[str, Parameter]) -> Importances:
    """The importances of the parameters in a table that `varied` gives.

    They are stated from three complete trials for each parameter that varies, and from ten; a parameter that fewer
    than ten trials have is left out.
    """
    trials = len(table)
    names = [name for name in table.columns[2:] if table[name].count() >= min(FEW_TRIALS, trials)]
    left_out = tuple(name for name in table.columns[2:] if name not in names)
    needed = max(FEW_TRIALS, TRIALS_PER_PARAMETER * len(names))
    if trials < needed:
        few = f"{counted(trials, 'complete trial')} {'is' if trials == 1 else 'are'} too few to tell"
        rule = f"{TRIALS_PER_PARAMETER} for each parameter that varies, and at least {FEW_TRIALS}: here {needed}"
        return Importances((), trials, f"{few}; it takes {rule}")
    if not names or table["accuracy"].nunique() == 1:
        return Importances((), trials, "the complete trials do not differ in their parameters or their accuracy")
    space = {name: _distribution(table[name].dropna(), parameters) for name in names}
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
        study.add_trials(_trial(row, space) for row in table.to_dict("records"))
        with warnings.catch_warnings(action="ignore"):  # of a condition that holds in all trials but one
            shares = get_param_importances(study, normalize=True)
    finally:
        optuna.logging.set_verbosity(before)
    if not all(math.isfinite(v) for v in shares.values()):
        return Importances((), trials, "the best of the complete trials do not differ from the others")
    ranked = sorted(((name, float(share)) for name, share in shares.items()), key=lambda item: (-item[1], item[0]))
    significant = _significant(table, names) if trials >= MIN_TRIALS_TO_TEST else None
    return Importances(tuple(ranked), trials, significant=significant, left_out=left_out)


def section(facts: Facts) -> Section:
    """Importance of each parameter, and the trials by the most important ones."""
    parameters = search_parameters(facts.study.artifacts.space)
    table = varied(facts.study.search, parameters, facts.study.data_set.train_images)
    found = importances_of(table, parameters)
    title, numbers = "Which parameters mattered", tuple(_numbers(facts, found))
    if found.missing:
        missing = Missing(f"Which parameters mattered cannot be said: {found.missing}.")
        return Section(title, (missing,), numbers=numbers)
    caption, figure = _importances_caption(facts, found), _importances_figure(found)
    importances = Figure("importances", "Importance of the parameters", caption, figure)
    first = [name for name, _ in found.shares[:SLICES]]
    caption, figure = _slices_caption(facts, table, first[0]), _slices_figure(table, first, parameters)
    slices = Figure("slices", "By the most important parameters", caption, figure)
    return Section(title, (importances, slices), numbers=numbers)


def _importances_caption(facts: Facts, found: Importances) -> CitedText:
    name, share = found.shares[0]
    if found.significant is None:
        chance = (
            f"but {found.trials} trials are too few to tell any of it from chance, which takes {MIN_TRIALS_TO_TEST}"
        )
    elif found.significant:
        chance = f"the best tenth differs from the others by more than chance in {listed(found.significant)}"
    else:
        chance = "but in none of them does the best tenth differ from the others by more than chance"
    text = (
        f"{name} has the largest part, {percent(share, 0)} of what all explain; {chance}. Judged by the {found.trials} "
        "complete trials alone (PED-ANOVA), as pruned ones were not trained to the end."
    )
    if found.significant is not None:
        text += " The test assumes exchangeable trials; those of an adaptive search with pruning are so only "
        text += "approximately."
    if any(name.endswith(USUAL) for name, _ in found.shares):
        text += f' "{USUAL.strip()}" divides by what suits the optimiser at the batch size and length of the trial.'
    if found.left_out:
        text += f" Left out, as fewer than {FEW_TRIALS} of them have it: {listed(found.left_out)}."
    return CitedText(text, run_sources(facts.run_id))


def _importances_figure(found: Importances) -> go.Figure:
    """The importance of each parameter, the greatest on top."""
    names, shares = zip(*reversed(found.shares), strict=True)
    figure = canvas(height=70 + 24 * len(names), left=24 + 7 * max(map(len, names)))
    figure.add_bar(
        x=[pc(share) for share in shares],
        y=list(names),
        orientation="h",
        marker={"color": BLUE},
        name="importance",
        hovertemplate="%{y}: %{x:.1f} %<extra></extra>",
    )
    figure.update_xaxes(title="importance (%)", rangemode="tozero")
    figure.update_yaxes(showgrid=False)
    return figure


def _slices_caption(facts: Facts, table: pd.DataFrame, name: str) -> CitedText:
    best = table.loc[table["accuracy"].idxmax()]
    value = best[name] if isinstance(best[name], str) else _in_words(best[name])
    has = f"has no {name}" if pd.isna(best[name]) else f"has {name} {value}"
    text = (
        f"Each point is a complete trial; the best, trial {int(best['trial'])}, {has}. Trials differ in "
        "all parameters at once, so a slope here need not be that parameter's doing."
    )
    return CitedText(text, run_sources(facts.run_id))


def _in_words(value: float) -> str:
    """A value of a parameter: a whole number with all its digits."""
    return f"{value:.0f}" if value.is_integer() else rounded(value)


def _slices_figure(table: pd.DataFrame, names: Sequence[str], parameters: Mapping[str, Parameter]) -> go.Figure:
    """Validation accuracy of complete trials by one parameter a panel, the most important first."""
    rows = (len(names) + 1) // 2
    panels: list[dict[str, str] | None] = [{} if i < len(names) else None for i in range(2 * rows)]
    grid = [panels[2 * row : 2 * row + 2] for row in range(rows)]
    spacing: dict[str, Any] = {"horizontal_spacing": 0.06, "vertical_spacing": 0.2, "shared_yaxes": "all"}
    figure = canvas(height=30 + 225 * rows, rows=rows, columns=2, specs=grid, **spacing)
    for index, name in enumerate(names):
        at: dict[str, Any] = {"row": index // 2 + 1, "col": index % 2 + 1}
        having = table[table[name].notna()]
        numeric = having[name].dtype == np.float64
        few = not numeric or having[name].nunique() <= FEW_VALUES
        scale = "category" if few else "log" if _is_log(having[name], parameters) else "linear"
        add_points(
            figure,
            [round(v, 6) if numeric else v for v in having[name].tolist()],
            map(pc, having["accuracy"]),
            name=name,
            colour=BLUE,
            size=8,
            opacity=0.7,
            customdata=having["trial"].tolist(),
            showlegend=False,
            hover=f"trial %{{customdata}}<br>{name} %{{x}}: %{{y:.1f}} %",
            **at,
        )
        title = {"text": name, "font": {"size": 11}}
        figure.update_xaxes(title=title, type=scale, categoryorder="category ascending", nticks=5, **at)
    figure.update_yaxes(title="validation accuracy (%)", col=1)
    return figure


def _multiples(complete: pd.DataFrame, field: str, train_images: int) -> pd.Series:  # type: ignore[type-arg, unused-ignore]
    """Rate or decay as search spaces draw it: over what suits the optimiser, at the batch size and the length."""
    found = []
    for row in complete.to_dict("records"):
        texts = {name: row.get(f"params.{name}") for name in _OF_MULTIPLES}
        recipe = Recipe(**{name: _OF_MULTIPLES[name](text) for name, text in texts.items() if isinstance(text, str)})
        usual = to_reference(recipe, reference_epochs(train_images))
        found.append(round(multiples_of(usual)[f"{field}{MULTIPLE}"], 6))
    return pd.Series(found, complete.index)


def _typed(texts: pd.Series) -> pd.Series:  # type: ignore[type-arg, unused-ignore]
    numbers = pd.to_numeric(texts, errors="coerce")
    return numbers.astype(float) if len(texts) and numbers.notna().all() else texts.astype(str)


def _label(name: str) -> str:
    """The name in the report of a parameter of a search space."""
    return f"{MULTIPLES[name]}{USUAL}" if name in MULTIPLES else name


def _among(column: pd.Series, allowed: Sequence[Any]) -> Any:  # type: ignore[type-arg, unused-ignore]
    """Return for each row of a column of `varied` whether it has one of these values of a search space."""
    if column.dtype == np.float64:
        return column.round(6).isin([round(float(value), 6) for value in allowed])
    return column.isin([str(value) for value in allowed])


def _trial(row: Mapping[Hashable, Any], space: Mapping[str, BaseDistribution]) -> FrozenTrial:
    drawn = {name: distribution for name, distribution in space.items() if not pd.isna(row[name])}
    params = {name: _nearest(row[name], distribution) for name, distribution in drawn.items()}
    return create_trial(params=params, distributions=drawn, value=row["accuracy"])


def _nearest(value: Any, drawn: BaseDistribution) -> Any:
    """The value, or the nearest one that the search could draw: a recipe that was queued may have another."""
    if not isinstance(drawn, IntDistribution | FloatDistribution):
        return value
    value = min(max(value, drawn.low), drawn.high)
    return drawn.low + round((value - drawn.low) / drawn.step) * drawn.step if drawn.step else value


def _distribution(
    column: pd.Series,  # type: ignore[type-arg, unused-ignore]
    parameters: Mapping[str, Parameter],
) -> BaseDistribution:
    """The distribution that the search drew a column of `varied` from, with the choices that queued recipes add."""
    parameter = parameters.get(str(column.name))
    drawn = None if parameter is None else parameter.distribution
    values, numeric = set(column), column.dtype == np.float64
    if isinstance(drawn, CategoricalDistribution) or not numeric:
        choices = _typed(pd.Series(getattr(drawn, "choices", ())).astype(str)).tolist()
        return CategoricalDistribution(choices if values <= set(choices) else sorted(values))
    return drawn or FloatDistribution(min(values), max(values))


def _is_log(column: pd.Series, parameters: Mapping[str, Parameter]) -> bool:  # type: ignore[type-arg, unused-ignore]
    """True for a parameter that the search draws evenly in its logarithm."""
    parameter = parameters.get(str(column.name))
    return getattr(parameter and parameter.distribution, "log", False) and float(column.min()) > 0


def _significant(table: pd.DataFrame, names: Sequence[str]) -> tuple[str, ...]:
    """The parameters in which the best tenth of the trials differs from the others by more than chance.

    A permutation test of chi-square over the values, numbers in tenths of the trials; 5 % over all parameters
    (Holm, 1979).
    """
    chances = [_by_chance(table[table[name].notna()], name) for name in names]
    ranked = sorted(zip(holm(chances), chances, names, strict=True))
    return tuple(name for adjusted, _, name in ranked if adjusted <= SIGNIFICANCE_LEVEL)


def _by_chance(having: pd.DataFrame, name: str) -> float:
    """The chance that the best tenth of these trials, which have the parameter, would differ as much by chance."""
    best = having["accuracy"].rank(method="first") > len(having) - max(2, round(len(having) * BEST))
    shuffled = stats.MonteCarloMethod(n_resamples=_SHUFFLES, rng=np.random.default_rng(0))
    table = pd.crosstab(_codes(having[name]), best)
    return float(stats.chi2_contingency(table, correction=False, method=shuffled).pvalue)


def _codes(column: pd.Series) -> npt.NDArray[np.int64]:  # type: ignore[type-arg, unused-ignore]
    """Values as numbers from 0 on; many different ones in tenths of the trials, equal ones in the same tenth."""
    if column.dtype == np.float64 and column.nunique() > _TENTHS:
        column = np.ceil(_TENTHS * column.rank() / len(column))
    codes: npt.NDArray[np.int64] = pd.factorize(column, sort=True)[0].astype(np.int64)
    return codes


def _numbers(facts: Facts, found: Importances) -> Iterator[Number]:
    parent = run_sources(facts.run_id)
    for parameter, share in found.shares:
        yield Number(f"importance.{parameter}", share, "share", parent)
    yield Number("importance.trials", found.trials, "trials", parent)
