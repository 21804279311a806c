"""Pruners by name, and pruning among trials of the same network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

from optuna.pruners import BasePruner, HyperbandPruner, NopPruner
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
    """Ends trials after a quarter of their steps, unless they are among the best quarter of their network's there.

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
        reported = (other.intermediate_values.get(_RUNG) for other in _rivals(study, trial))
        values = sorted((value for value in reported if value is not None), reverse=True)
        kept = max(1, len(values) // _KEPT)
        return Bar(values[kept - 1], f"the best {kept} of {len(values)} {_noun(trial)}") if values else None


class MedianOfModel(BasePruner):
    """Ends a trial whose best value so far is below the median, where it stands, of the complete trials of its network.

    Networks learn at different speeds, so that the first points of a slow one say little beside those of a fast one. So
    the best trial of each network trains to the end.
    """

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Return true if `trial` shall end."""
        step = trial.last_step
        if step is None or len(_rivals(study, trial, _COMPLETE)) < _JUDGES:
            return False
        asked = self.bar(study, trial, step)
        return asked is not None and max(trial.intermediate_values.values()) < asked.accuracy

    def bar(self, study: Study, trial: FrozenTrial, step: int) -> Bar | None:
        """Return what is asked of `trial` at `step`; None if no complete trial has reported there."""
        rivals = _rivals(study, trial, _COMPLETE)
        values = [other.intermediate_values[step] for other in rivals if step in other.intermediate_values]
        return Bar(median(values), f"the median of {len(values)} complete {_noun(trial)}") if values else None


def _rivals(study: Study, trial: FrozenTrial, states: tuple[TrialState, ...] | None = None) -> list[FrozenTrial]:
    """Return the trials with the same model as `trial`, which may be among them."""
    return [other for other in study.get_trials(deepcopy=False, states=states) if model_of(other) == model_of(trial)]


def model_of(trial: FrozenTrial) -> object:
    """Return the model of a trial; that of a recipe which the user named may be missing in the space."""
    recipe = trial.user_attrs.get("recipe")
    return trial.params.get("model") if recipe is None else recipe["model"]


def _noun(trial: FrozenTrial) -> str:
    model = model_of(trial)
    return f"{model} trials" if model else "trials"


_KEPT = 4  # of so many trials halving keeps one
_RUNG = 2  # eighths of its steps after which it judges a trial
_JUDGES = 4  # complete trials of a network before the median judges any
_COMPLETE = (TrialState.COMPLETE,)

PRUNERS: Mapping[str, Callable[[], BasePruner]] = {
    "halving": Halving,
    "hyperband": lambda: HyperbandPruner(min_resource=2, max_resource=8, reduction_factor=4),
    "median": MedianOfModel,
    "none": NopPruner,
}
