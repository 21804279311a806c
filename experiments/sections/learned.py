"""What the sweep learned: how the search went, which parameters mattered, and accuracy against compute."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import optuna
import pandas as pd
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.importance import get_param_importances
from optuna.trial import create_trial

from experiments.reading.studies import Study
from sweeps.planning.search_space import OPTIMIZER_SCALES

FEW_TRIALS = 10  # complete ones, below which nothing is said of what mattered, or of whether the search levelled off
SLICES = 4  # parameters that are drawn
BEST = 0.1  # share of the trials that importances call good, as in PED-ANOVA
_SHUFFLES = 999
_TENTHS = 10

# Recipe fields that a search space may vary, in its order; the rate and the decay as multiples of what suits the
# optimiser, as they were drawn. What follows from others, or differs from run to run, is no parameter of the search.
_VARIED = (
    "model", "width", "optimizer", "batch_size", "learning_rate", "weight_decay", "label_smoothing", "flip",
    "translate", "cutout", "color_jitter", "mix", "mix_alpha",
)  # fmt: skip
NAMES = {"learning_rate": "learning_rate / usual", "weight_decay": "weight_decay / usual"}
_LOG = (*NAMES.values(), "mix_alpha")  # drawn evenly in their logarithm


@dataclass(frozen=True, slots=True)
class Architecture:
    name: str
    best: float  # validation accuracy of its best complete trial
    run_id: str
    complete: int
    tried: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Search:
    """How the sweep went."""

    planned: int | None
    complete: int
    pruned: int
    failed: int
    unfinished: int  # left running or interrupted
    saved_fraction: float | None  # of the training compute that unpruned trials would have taken
    search_flops: float | None
    full_flops: float | None
    confirm_flops: float | None
    architectures: tuple[Architecture, ...]  # with a complete trial; best first
    best: float | None  # validation accuracy of the best complete trial
    best_run: str
    best_trial: int | None
    last_trial: int | None  # the highest number of a complete trial
    first: float | None  # validation accuracy of the first complete trial

    @property
    def total(self) -> int:
        return self.complete + self.pruned + self.failed + self.unfinished


def best_so_far(search: pd.DataFrame) -> pd.DataFrame:
    """Trials with a validation accuracy, by number: trial, accuracy, state, model, run_id, best so far.

    Only a complete trial can be the best, as pruned ones were stopped on the way; NaN before the first.
    """
    known = search[search["metrics.val/accuracy"].notna() & search["trial"].notna()].sort_values("trial")
    frame = pd.DataFrame(
        {
            "trial": known["trial"].astype(int),
            "accuracy": known["metrics.val/accuracy"],
            "state": known["state"],
            "model": known["params.model"].fillna("unknown"),
            "run_id": known["run_id"],
        }
    ).reset_index(drop=True)
    frame["best"] = frame["accuracy"].where(frame["state"] == "complete").cummax().ffill()
    return frame


def search_of(study: Study) -> Search:
    """The counts, the best and the compute of the search."""
    search, metrics = study.search, study.metrics
    states = search["state"]
    trials = best_so_far(search)
    complete = trials[trials["state"] == "complete"]
    best = complete.sort_values(["accuracy", "trial"], ascending=[False, True], kind="stable").head(1)
    tried = search["params.model"].value_counts().to_dict()
    architectures = tuple(
        Architecture(
            str(name),
            float(row.accuracy),
            str(row.run_id),
            int((complete["model"] == name).sum()),
            tried[name],
        )
        for name in complete["model"].drop_duplicates()
        if name in tried
        for row in complete[complete["model"] == name].nlargest(1, "accuracy").itertuples()
    )
    counts = {state: int((states == state).sum()) for state in ("complete", "pruned", "failed")}
    planned = study.params.get("trials", "")
    return Search(
        planned=int(planned) if planned.isdigit() else None,
        **counts,
        unfinished=len(search) - sum(counts.values()),
        saved_fraction=metrics.get("study/saved_fraction"),
        search_flops=metrics.get("study/search_flops"),
        full_flops=metrics.get("study/full_flops"),
        confirm_flops=metrics.get("study/confirm_flops"),
        architectures=tuple(sorted(architectures, key=lambda a: (-a.best, a.name))),
        best=float(best["accuracy"].iloc[0]) if len(best) else None,
        best_run=str(best["run_id"].iloc[0]) if len(best) else "",
        best_trial=int(best["trial"].iloc[0]) if len(best) else None,
        last_trial=int(complete["trial"].max()) if len(complete) else None,
        first=float(complete["accuracy"].iloc[0]) if len(complete) else None,
    )


@dataclass(frozen=True, slots=True)
class Importances:
    """How much of the difference between good and other trials each parameter explains; shares that add up to 1.

    PED-ANOVA (Watanabe et al., 2023) as Optuna has it, on the complete trials as MLflow holds them. Empty where
    `missing` says why.
    """

    shares: tuple[tuple[str, float], ...]  # the greatest first
    trials: int
    missing: str = ""
    sure: tuple[str, ...] = ()  # parameters in which the best tenth of the trials differs by more than chance


@dataclass(frozen=True, slots=True)
class Slice:
    """The complete trials by one parameter."""

    parameter: str
    values: tuple[float | str, ...]
    accuracies: tuple[float, ...]  # validation, as shares
    trials: tuple[int, ...]
    log: bool

    @property
    def numeric(self) -> bool:
        return all(not isinstance(v, str) for v in self.values)


@dataclass(frozen=True, slots=True)
class Front:
    """Training runs by what they took and reached."""

    runs: pd.DataFrame  # stage, state, trial, model, run_id, champion, flops, accuracy (validation)
    best: tuple[tuple[float, float], ...]  # (FLOPs, accuracy) of complete runs that none beats with less compute


def varied(search: pd.DataFrame) -> pd.DataFrame:
    """The complete trials: trial, accuracy, and the parameters that differ among them, by name."""
    complete = search[(search["state"] == "complete") & search["metrics.val/accuracy"].notna()]
    table = pd.DataFrame({"trial": complete["trial"].astype(int), "accuracy": complete["metrics.val/accuracy"]})
    for name in _VARIED:
        if f"params.{name}" in complete and complete[f"params.{name}"].notna().all():
            column = _multiples(complete, name) if name in NAMES else _typed(complete[f"params.{name}"])
            if column.nunique() > 1:
                table[NAMES.get(name, name)] = column
    return table.reset_index(drop=True)


def importances_of(table: pd.DataFrame) -> Importances:
    """Of the parameters in a table such as `varied` gives."""
    names = [name for name in table if name not in ("trial", "accuracy")]
    if len(table) < FEW_TRIALS:
        trials = f"{len(table)} complete trial{'' if len(table) == 1 else 's'}"
        return Importances((), len(table), f"{trials}: fewer than the {FEW_TRIALS} that it takes to say what mattered")
    if not names or table["accuracy"].nunique() == 1:
        return Importances((), len(table), "the complete trials do not differ in their parameters or their accuracy")
    space = {name: _distribution(table[name]) for name in names}
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
        columns = [table[name].tolist() for name in names]
        study.add_trials(
            create_trial(params=dict(zip(names, values, strict=True)), distributions=space, value=accuracy)
            for accuracy, *values in zip(table["accuracy"].tolist(), *columns, strict=True)
        )
        shares = get_param_importances(study, normalize=True)
    finally:
        optuna.logging.set_verbosity(before)
    if not all(math.isfinite(v) for v in shares.values()) or not sum(shares.values()) > 0:
        return Importances((), len(table), "the best of the complete trials do not differ from the others")
    ranked = sorted(shares.items(), key=lambda item: (-item[1], item[0]))
    return Importances(
        tuple((name, float(share)) for name, share in ranked), len(table), sure=_beyond_chance(table, names)
    )


def slices_of(table: pd.DataFrame, importances: Importances) -> tuple[Slice, ...]:
    """The trials by each of the parameters that mattered most."""
    return tuple(
        Slice(
            parameter=name,
            values=tuple(table[name].tolist()),
            accuracies=tuple(float(v) for v in table["accuracy"]),
            trials=tuple(int(v) for v in table["trial"]),
            log=_is_log(table[name]),
        )
        for name, _ in importances.shares[:SLICES]
    )


def front_of(study: Study) -> Front:
    """Every run of search and confirmation that was validated and whose compute is known."""
    runs = pd.concat([study.search.assign(stage="search"), study.confirm.assign(stage="confirm")])
    known = runs[runs["metrics.cost/training_flops"].gt(0) & runs["metrics.val/accuracy"].notna()]
    table = pd.DataFrame(
        {
            "stage": known["stage"],
            "state": known["state"],
            "trial": known["trial"].where(known["stage"] == "search", known["source_trial"]).astype(int),
            "model": known["params.model"].fillna("unknown"),
            "run_id": known["run_id"],
            "champion": known["tags.champion"] == "true",
            "flops": known["metrics.cost/training_flops"],
            "accuracy": known["metrics.val/accuracy"],
        }
    ).reset_index(drop=True)
    best: list[tuple[float, float]] = []
    whole = table[table["state"] == "complete"].sort_values(["flops", "accuracy"], ascending=[True, False])
    for flops, accuracy in zip(whole["flops"].tolist(), whole["accuracy"].tolist(), strict=True):
        if not best or accuracy > best[-1][1]:
            best.append((flops, accuracy))
    return Front(table, tuple(best))


def _multiples(complete: pd.DataFrame, name: str) -> pd.Series:  # type: ignore[type-arg, unused-ignore]
    """Rate or decay over what suits the optimiser (at the batch size), as search spaces draw it."""
    values = pd.to_numeric(complete[f"params.{name}"], errors="coerce").astype(float)
    optimizers = complete.get("params.optimizer", pd.Series(None, complete.index))
    usual = optimizers.map({key: getattr(scale, name) for key, scale in OPTIMIZER_SCALES.items()}).astype(float)
    if name == "learning_rate" and "params.batch_size" in complete:
        usual = usual * np.sqrt(pd.to_numeric(complete["params.batch_size"], errors="coerce").astype(float) / 256)
    return (values / usual).round(6).fillna(0.0)


def _typed(texts: pd.Series) -> pd.Series:  # type: ignore[type-arg, unused-ignore]
    numbers = pd.to_numeric(texts, errors="coerce")
    return numbers.astype(float) if numbers.notna().all() else texts.astype(str)


def _distribution(column: pd.Series) -> BaseDistribution:  # type: ignore[type-arg, unused-ignore]
    if column.dtype == np.float64:
        return FloatDistribution(float(column.min()), float(column.max()), log=_is_log(column))
    return CategoricalDistribution(sorted(set(column)))


def _is_log(column: pd.Series) -> bool:  # type: ignore[type-arg, unused-ignore]
    return column.name in _LOG and float(column.min()) > 0


def _beyond_chance(table: pd.DataFrame, names: Sequence[str]) -> tuple[str, ...]:
    """The parameters in which the best tenth of the trials differs from the others by more than chance.

    A permutation test of chi-square over the values, numbers in tenths of the trials; 5 % over all parameters
    (Holm, 1979).
    """
    best = max(2, round(len(table) * BEST))
    top = np.zeros(len(table))
    top[table["accuracy"].rank(method="first").to_numpy() > len(table) - best] = 1
    draw = np.random.default_rng(0)
    order = draw.random((_SHUFFLES, len(table))).argpartition(best, axis=1)[:, :best]  # whom chance would call the best
    chances = []
    for name in names:
        codes = _codes(table[name])
        expected = np.bincount(codes) * best / len(table)
        shuffled = np.stack([(codes[order] == code).sum(axis=1) for code in range(len(expected))], axis=1)
        ours = np.bincount(codes, weights=top, minlength=len(expected))
        by_chance = ((shuffled - expected) ** 2 / expected).sum(axis=1)
        beyond = (by_chance >= ((ours - expected) ** 2 / expected).sum() - 1e-9).sum()
        chances.append(((1 + int(beyond)) / (1 + _SHUFFLES), name))
    found = []
    for rank, (chance, name) in enumerate(sorted(chances)):
        if chance * (len(names) - rank) > 0.05:
            break
        found.append(name)
    return tuple(found)


def _codes(column: pd.Series) -> npt.NDArray[np.int64]:  # type: ignore[type-arg, unused-ignore]
    """Values as numbers from 0 on; many different ones in tenths of the trials."""
    if column.dtype == np.float64 and column.nunique() > _TENTHS:
        column = pd.qcut(column, _TENTHS, labels=False, duplicates="drop")
    codes: npt.NDArray[np.int64] = pd.factorize(column, sort=True)[0].astype(np.int64)
    return codes
