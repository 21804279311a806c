"""Optuna study of a sweep: samplers and pruners by name, and opening a study again."""

from __future__ import annotations

import contextlib
import gc
import json
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from types import MappingProxyType
from typing import Any

import numpy as np
import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from cifar_core.budget import at_length
from cifar_core.data.data_set import CIFAR10
from cifar_core.errors import first_line
from cifar_core.recipe import Recipe
from sweeps.planning.plan import Plan
from sweeps.planning.search_space import reference_epochs
from sweeps.states import STATE_OF_TRIAL
from sweeps.store import Store, StoreError
from sweeps.studies.pruners import PRUNERS, model_of
from sweeps.studies.storage import StudyError, open_storage, opening_storage
from sweeps.words import shortened

BASELINE = "baseline"  # user attribute of the trial that is confirmed in any case: see `Beginning`
REMOVED = "removed_runs"  # attribute of a study: keys of runs that were removed from MLflow on purpose
_MANY_OBJECTS = 100_000
_STARTUP = 8  # random trials before a sampler learns from them
_CONTENT = "space_content"  # attribute of a study: all that decides what its trials draw
_DATA = "data"  # attribute of a study: name and SHA-256 of its data set
TRAIN_IMAGES = "train_images"  # likewise: their number, of which an epoch of its recipes is
SOURCE = "from"  # likewise: the study whose best recipes it was given
_SHARED_OUT = 0.5  # of the trials, equally among the models; the sampler chooses the models of the others
ADAPTATION = "adaptation"  # attribute of a study that adapts a network: all that its trials depend on
ANOTHER_NAME = "give it another name with --study"


class Beginning(StrEnum):
    """First recipe of a search: a known-good one, or that of trial 0 in a study without one."""

    KNOWN_GOOD = "true"
    FIRST = "first"

    @property
    def noun(self) -> str:
        """Its name in a sentence."""
        return "starting recipe" if self == Beginning.KNOWN_GOOD else "first recipe"

    @classmethod
    def of(cls, trial: FrozenTrial) -> Beginning | None:
        """Return the kind of first recipe that `trial` has; None if it is not the first."""
        value = trial.user_attrs.get(BASELINE)
        return None if value is None else cls.KNOWN_GOOD if value is True else cls(value)


SAMPLERS: Mapping[str, Callable[[int], BaseSampler]] = MappingProxyType(
    {
        "tpe": lambda seed: TPESampler(seed=seed, n_startup_trials=_STARTUP),
        "gp": lambda seed: GPSampler(seed=seed, n_startup_trials=_STARTUP),
        "cmaes": lambda seed: CmaEsSampler(seed=seed, n_startup_trials=_STARTUP, warn_independent_sampling=False),
        "random": lambda seed: RandomSampler(seed=seed),
    }
)


def open_study(
    plan: Plan,
    storage: BaseStorage,
    enqueue: Sequence[Recipe] = (),
    check: Callable[[Sequence[FrozenTrial] | None], None] = lambda trials: None,
) -> optuna.Study:
    """Create or resume the study of `plan`; `enqueue` is tried next, followed by a new study's starting points.

    Args:
        check: called with the trials of the study, or with None if there is no such study, before anything is
            written; what it raises passes through.

    Raises:
        StudyError: the study was started with other settings.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    known = plan.study in optuna.get_all_study_names(storage)
    if not known:
        check(None)
    try:
        with _without_garbage_collection():
            study = optuna.create_study(
                study_name=plan.study, storage=storage, direction="maximize", load_if_exists=True
            )
            study.get_trials(deepcopy=False)  # fills the cache
    except StorageInternalError as error:
        raise StudyError(f"the Optuna storage must be writable, but: {first_line(error.__cause__ or error)}") from error
    if not known:
        with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
            study.set_metric_names(["validation accuracy"])  # for optuna-dashboard
    _check_settings(plan, study.user_attrs)
    _check_trials(plan, study.get_trials(deepcopy=False))
    if known:
        check(study.get_trials(deepcopy=False))
    # The number of trials makes another seed, so that a resumed study does not draw the same points again.
    study.sampler = SAMPLERS[plan.sampler](derive_seed(plan.seed, len(study.get_trials(deepcopy=False))))
    study.pruner = PRUNERS[plan.pruner]()
    starts = plan.space.starts if plan.starts else ()
    enqueued = [trial.user_attrs.get("enqueued_recipe") for trial in study.get_trials(deepcopy=False)]
    for recipe in enqueue:
        if recipe.to_dict() not in enqueued:  # the same command again finishes the study and adds nothing to it
            # Points of a space are recipes for the length of the reference.
            point = plan.space.nearest(at_length(recipe, reference_epochs(plan.data_set.train_images)))
            first = {} if starts else _first(study.get_trials(deepcopy=False))
            attributes = {"enqueued_recipe": recipe.to_dict(), **first}
            study.enqueue_trial(point, user_attrs=attributes, skip_if_exists=False)
    if not study.user_attrs:
        # An earlier process may have crashed between two. The first one is tried even if it is enqueued too.
        has_baseline = any(BASELINE in trial.user_attrs for trial in study.get_trials(deepcopy=False))
        for number, start in enumerate(starts):
            if number > 0:
                study.enqueue_trial(start, skip_if_exists=True)
            elif not has_baseline:
                study.enqueue_trial(start, user_attrs={BASELINE: True}, skip_if_exists=False)
    for name, value in _settings(plan).items():
        if name not in study.user_attrs:
            study.set_user_attr(name, value)
    return study


def ask(study: optuna.Study, plan: Plan) -> Trial:
    """Return the next trial: one that waits, else one of a model that still has to be heard, else the sampler's."""
    trials = study.get_trials(deepcopy=False)
    tried = Counter(map(model_of, trials))
    models, point, first = plan.space.models, dict[str, Any](), _first(trials)
    if len(models) > 1 and not any(trial.state == TrialState.WAITING for trial in trials):
        allowed = {model_of(trial) for trial in trials if is_feasible(trial)}
        left = (name for name in models if not tried[name] or name in allowed)
        model = min(left, key=lambda name: tried[name], default=None)
        if model is not None and tried[model] < int(plan.trials * _SHARED_OUT / len(models)):
            point["model"] = model
    if point or first:  # in one write, which a crash cannot part
        study.enqueue_trial(point, user_attrs=first)
    return study.ask()


def _first(trials: Sequence[FrozenTrial]) -> dict[str, Any]:
    """Return the attributes of the next trial of a study without a known-good recipe: of trial 0 what it is."""
    return {} if trials else {BASELINE: Beginning.FIRST}


def is_feasible(trial: FrozenTrial) -> bool:
    """Return true if the trial keeps the limits of its study."""
    return all(excess <= 0 for excess in trial.constraints.values())


def best_recipes(study: optuna.Study, count: int) -> list[Recipe]:
    """Return the recipes of the best complete trials, best first."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    ranked = sorted(complete, key=lambda trial: (-(trial.value or 0.0), trial.number))
    return [recipe_of(trial) for trial in ranked[:count]]


def recipe_of(trial: FrozenTrial) -> Recipe:
    """Return the recipe of a trial at the length that its decay is for.

    Where norms are not reset, an enqueued recipe keeps its decay in the trial, which is that of its own length.
    """
    recipe = Recipe.from_dict(trial.user_attrs["recipe"])
    if recipe.reset_norms or "enqueued_recipe" not in trial.user_attrs:
        return recipe
    return replace(recipe, epochs=trial.user_attrs["enqueued_recipe"]["epochs"])


def load_study(store: Store, name: str, option: str = "--study") -> optuna.Study:
    """Load a study for reading; `option` has named it.

    Raises:
        StoreError: the store has no such study, or cannot be read.
        StudyError: the Optuna storage cannot be opened.
    """
    store.check()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = open_storage(store.storage_url)
    with opening_storage(store.storage_url):
        try:
            return optuna.load_study(study_name=name, storage=storage)
        except KeyError as error:
            names = ", ".join(sorted(optuna.get_all_study_names(storage))) or "none"
            raise StoreError(f"{option} must be one that the store holds ({names}), but got {name!r}") from error


def trials_of(store: Store, name: str) -> list[FrozenTrial] | None:
    """Return the trials of a study; None if Optuna has no such study.

    Raises:
        StoreError: the store cannot be read.
        StudyError: the Optuna storage cannot be opened.
    """
    store.check()
    storage = open_storage(store.storage_url)
    with opening_storage(store.storage_url):
        if name not in optuna.get_all_study_names(storage):
            return None
        return optuna.load_study(study_name=name, storage=storage).get_trials(deepcopy=False)


def unfinished_trials(study: optuna.Study, storage: BaseStorage) -> Iterator[tuple[Trial, Mapping[int, float]]]:
    """Yield the trials that an earlier process left running, and the values that they have reported, by step."""
    study_id = storage.get_study_id_from_name(study.study_name)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, trial.number)
        yield Trial(study, trial_id), trial.intermediate_values


def started_trials(study: optuna.Study) -> int:
    """Return the number of trials that have started, ended ones included."""
    return sum(trial.state != TrialState.WAITING for trial in study.get_trials(deepcopy=False))


def left_out(study: optuna.Study, trials: int) -> Iterator[str]:
    """Yield a line on the recipes that wait and that none of so many trials is left for, if there are such."""
    waiting = sum(trial.state == TrialState.WAITING for trial in study.get_trials(deepcopy=False))
    needed = started_trials(study) + waiting
    if waiting and needed > trials:
        lost = min(waiting, needed - trials)
        yield f"--trials {trials} leaves out {lost} of the {waiting} queued recipes; --trials {needed} tries all"


def trials_since_best(study: optuna.Study) -> int:
    """Return the number of trials with higher numbers than the best that were trained and have ended; 0 while none is
    complete."""
    ended = list(filter(is_feasible, study.get_trials(deepcopy=False, states=tuple(STATE_OF_TRIAL))))
    complete = [trial for trial in ended if trial.state == TrialState.COMPLETE]
    if not complete:
        return 0
    best = max(complete, key=lambda trial: (trial.value or 0.0, -trial.number))
    return sum(trial.number > best.number for trial in ended)


def ended_trials(study: optuna.Study) -> Counter[str]:
    """Return the numbers of complete, pruned and failed trials, by these names."""
    ended = study.get_trials(deepcopy=False, states=tuple(STATE_OF_TRIAL))
    return Counter(STATE_OF_TRIAL[trial.state] for trial in ended)


def derive_seed(*numbers: int) -> int:
    """Return a seed in [0, 2**32) that differs for different numbers, up to zeros at the end."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


@contextlib.contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Context for loading thousands of trials: no collection walks through their millions of objects, now or later."""
    enabled, before = gc.isenabled(), len(gc.get_objects())
    gc.disable()
    try:
        yield
    finally:
        if len(gc.get_objects()) > before + _MANY_OBJECTS:
            gc.freeze()
        if enabled:
            gc.enable()


def _settings(plan: Plan) -> dict[str, object]:
    """Settings that cannot change within a study, because its trials would no longer compare."""
    return {
        _DATA: [plan.data_set.name, plan.data_set.sha256],  # the first: a study with settings but without it is older
        TRAIN_IMAGES: plan.data_set.train_images,
        _CONTENT: plan.space.content(),
        "space_hash": plan.space.hash,
        "space": plan.space.name,
        "preset": plan.preset.name,
        "seed": str(plan.seed),
        "starts": "yes" if plan.starts else "no",
        "limits": str(plan.limits),
    }


def _check_settings(plan: Plan, stored: Mapping[str, Any]) -> None:
    if ADAPTATION in stored:
        raise StudyError(f"study {plan.study!r} must be a sweep, but it adapts a network; {ANOTHER_NAME}")
    for name in ("space", "preset", "seed", "starts", "limits"):
        value = _settings(plan)[name]
        if name in stored and stored[name] != value:
            raise StudyError(
                f"study {plan.study!r} was started with {name} {stored[name]}, but got {name} {value}; {ANOTHER_NAME}"
            )
    name, sha256 = stored.get(_DATA, [CIFAR10.name, CIFAR10.sha256])  # which earlier versions had alone
    if stored and sha256 != plan.data_set.sha256:
        raise StudyError(
            f"study {plan.study!r} was started with the data {name} ({sha256[:12]}), but got {plan.data_set.name} "
            f"({plan.data_set.sha256[:12]}), which has other pictures, labels or splits; {ANOTHER_NAME}"
        )
    if "space" in stored and _CONTENT not in stored:
        raise StudyError(
            f"study {plan.study!r} was started by an earlier version, which did not record its space; {ANOTHER_NAME}"
        )
    changes = list(_changes(stored[_CONTENT], plan.space.content())) if _CONTENT in stored else []
    if changes:
        raise StudyError(f"study {plan.study!r} was started {shortened(changes, '; ')}; {ANOTHER_NAME}")


def _check_trials(plan: Plan, trials: Sequence[FrozenTrial]) -> None:
    """Check that trials have the compute and the rates that this version gives them; earlier ones gave others."""
    most = plan.preset.trial.flops
    for trial in trials:
        if most is not None and (given := trial.user_attrs.get("flops", 0.0)) > most:
            raise StudyError(
                f"study {plan.study!r} was started by an earlier version, whose trials took {given / 1e12:.3g} TFLOP, "
                f"where this one gives them {most / 1e12:g}; {ANOTHER_NAME}"
            )
        if "recipe" not in trial.user_attrs or "enqueued_recipe" in trial.user_attrs:
            continue
        drawn = Recipe.from_dict(trial.user_attrs["recipe"])
        if not drawn.reset_norms:  # nothing else goes with the length
            continue
        base = Recipe(epochs=reference_epochs(plan.data_set.train_images))
        again = plan.preset.trial.narrow(plan.space.recipe(trial.params, base), plan.data_set)
        rate = at_length(again, drawn.epochs).peak_rate
        if not math.isclose(rate, drawn.peak_rate, rel_tol=1e-6):
            raise StudyError(
                f"study {plan.study!r} was started by an earlier version, which gave trial {trial.number} the learning "
                f"rate {drawn.peak_rate:.3g}, now {rate:.3g}; {ANOTHER_NAME}"
            )


def _changes(before: Any, now: Any, place: str = "") -> Iterator[str]:
    """Yield what differs between the contents of two spaces, as the end of "was started ..."."""
    if isinstance(before, dict) and isinstance(now, dict):
        for name in [*before, *(name for name in now if name not in before)]:
            inner = f"{place}.{name}" if place else name
            if name not in now:
                yield f"with {inner}{_given(before[name])}, which the space no longer has"
            elif name not in before:
                yield f"without {inner}{_given(now[name])}, which the space now has"
            else:
                yield from _changes(before[name], now[name], inner)
    elif before != now:
        yield f"with {place} = {json.dumps(before)}, but the space now has {json.dumps(now)}"


def _given(value: Any) -> str:
    return "" if isinstance(value, dict) else f" = {json.dumps(value)}"
