"""Pruners by name, and pruning among trials of the same network."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from statistics import median
from types import MappingProxyType
from typing import Any, cast

from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState


@dataclass(frozen=True, slots=True)
class Bar:
    """Accuracy that a pruner asked of a trial.

    Attributes:
        accuracy: the least that would have been enough.
        place: the trials that it was taken from, as "the best 5 of 20 fast_resnet trials".
    """

    accuracy: float
    place: str


class Halving(BasePruner):
    """Ends trials after a quarter of their budget, unless they are among the best quarter of their network's there.

    Asynchronous successive halving (Li et al., "A system for massively parallel hyperparameter tuning", 2020) with one
    rung. It judges by what trials reported, so those that another pruner judged count too.
    """

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Return true if `trial` shall end."""
        # A crash may have lost the value at the rung itself; then the next one is judged.
        reached = [step for step in trial.intermediate_values if step >= _RUNG]
        if len(reached) != 1:
            return False
        asked = self.bar(study, trial, _RUNG)
        return asked is not None and trial.intermediate_values[reached[0]] < asked.accuracy

    def bar(self, study: Study, trial: FrozenTrial, step: int) -> Bar | None:
        """Return what is asked of `trial`, by the values after a quarter, whatever the step; None if there is none."""
        rivals = _TrialsOfModel(study, trial).that_reported(_RUNG)
        values = sorted((other.intermediate_values[_RUNG] for other in rivals), reverse=True)
        kept = max(1, len(values) // _KEPT)
        return Bar(values[kept - 1], f"the best {kept} of {len(values)} {_trials(trial)}") if values else None


class MedianOfModel(BasePruner):
    """Optuna's median pruner, which sees only trials of the same network.

    Networks learn at different speeds, so that the first points of a slow one say little beside those of a fast one. So
    the best trial of each network trains to the end.
    """

    def __init__(self) -> None:
        self._rule = MedianPruner(n_startup_trials=4)

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Return true if `trial` shall end."""
        return self._rule.prune(cast(Study, _TrialsOfModel(study, trial)), trial)

    def bar(self, study: Study, trial: FrozenTrial, step: int) -> Bar | None:
        """Return what is asked of `trial` at `step`; None if no complete trial has reported there."""
        rivals = _TrialsOfModel(study, trial).that_reported(step)
        values = [other.intermediate_values[step] for other in rivals if other.state == TrialState.COMPLETE]
        return Bar(median(values), f"the median of {len(values)} complete {_trials(trial)}") if values else None


class _TrialsOfModel:
    """A study that shows only the trials of the same model as `trial`."""

    def __init__(self, study: Study, trial: FrozenTrial) -> None:
        self._study, self._model = study, model_of(trial)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def get_trials(self, deepcopy: bool = True, states: Collection[TrialState] | None = None) -> list[FrozenTrial]:
        trials = self._study.get_trials(deepcopy=deepcopy, states=tuple(states) if states is not None else None)
        return [trial for trial in trials if model_of(trial) == self._model]

    def that_reported(self, step: int) -> list[FrozenTrial]:
        return [trial for trial in self.get_trials(deepcopy=False) if step in trial.intermediate_values]


def model_of(trial: FrozenTrial) -> object:
    """Return the model that a trial trains; the space lacks it where the user named a recipe with another."""
    recipe = trial.user_attrs.get("recipe")
    return trial.params.get("model") if recipe is None else recipe["model"]


def _trials(trial: FrozenTrial) -> str:
    model = model_of(trial)
    return f"{model} trials" if model else "trials"


_KEPT = 4  # of so many trials halving keeps one
_RUNG = 2  # eighths of its budget after which it judges a trial

PRUNERS: Mapping[str, Callable[[], BasePruner]] = MappingProxyType(
    {
        "halving": Halving,
        "hyperband": lambda: HyperbandPruner(min_resource=2, max_resource=8, reduction_factor=4),
        "median": MedianOfModel,
        "none": NopPruner,
    }
)
