"""Optuna study of a sweep: samplers and pruners by name, and opening a study again."""

from __future__ import annotations

import contextlib
import gc
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from typing import Any

import numpy as np
import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from cifar_core.budget import to_reference
from cifar_core.errors import first_line
from cifar_core.recipe import Recipe
from sweeps.planning.plan import Plan
from sweeps.planning.search_space import reference_epochs
from sweeps.states import STATE_OF_TRIAL
from sweeps.store import Store, StoreError
from sweeps.studies.pruners import PRUNERS, model_of
from sweeps.studies.settings import check_settings, settings_of
from sweeps.studies.storage import StudyError, open_storage, opening_storage
from sweeps.words import counted

BASELINE = "baseline"  # user attribute of the trial that is confirmed in any case: see `Beginning`
REMOVED = "removed_runs"  # attribute of a study: keys of runs that were removed from MLflow on purpose
SEARCH_SECONDS = "search_seconds"  # attribute of a study: wall time of its search
SOURCE = "from"  # likewise: the study whose best recipes it was given
_MANY_OBJECTS = 100_000
_STARTUP = 8  # random trials before a sampler learns from them
_SHARED_OUT = 0.5  # of the trials, equally among the models; the sampler chooses the models of the others


class Beginning(StrEnum):
    """First recipe of a search: a known-good one, or that of trial 0 in a study without one."""

    KNOWN_GOOD = "true"
    FIRST = "first"

    @property
    def noun(self) -> str:
        """Name of this recipe in a sentence."""
        return "starting recipe" if self == Beginning.KNOWN_GOOD else "first recipe"

    @classmethod
    def of(cls, trial: FrozenTrial) -> Beginning | None:
        """Return the kind of first recipe that `trial` has; None if it is not the first."""
        value = trial.user_attrs.get(BASELINE)
        return None if value is None else cls(value)


SAMPLERS: Mapping[str, Callable[[int], BaseSampler]] = {
    "tpe": lambda seed: TPESampler(seed=seed, n_startup_trials=_STARTUP),
    "gp": lambda seed: GPSampler(seed=seed, n_startup_trials=_STARTUP),
    "cmaes": lambda seed: CmaEsSampler(seed=seed, n_startup_trials=_STARTUP, warn_independent_sampling=False),
    "random": lambda seed: RandomSampler(seed=seed),
}


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
    check_settings(plan, study.user_attrs)
    if known:
        check(study.get_trials(deepcopy=False))
    # The number of trials makes another seed, so that a resumed study does not draw the same points again.
    study.sampler = SAMPLERS[plan.sampler](derive_seed(plan.seed, len(study.get_trials(deepcopy=False))))
    study.pruner = PRUNERS[plan.pruner]()
    _enqueue(study, plan, enqueue)
    for name, value in settings_of(plan).items():
        if name not in study.user_attrs:
            study.set_user_attr(name, value)
    return study


def _enqueue(study: optuna.Study, plan: Plan, recipes: Sequence[Recipe]) -> None:
    """Enqueue these recipes, then the starting points of a new study, unless a command has done so before."""
    starts = plan.space.starts if plan.starts else ()
    known = (trial.user_attrs.get("enqueued_recipe") for trial in study.get_trials(deepcopy=False))
    enqueued = [Recipe().to_dict() | recipe for recipe in known if recipe]  # recipes had fewer fields before
    for recipe in recipes:
        if recipe.to_dict() not in enqueued:  # the same command again finishes the study and adds nothing to it
            # Points of a space are recipes for the length of the reference.
            point = plan.space.nearest(to_reference(recipe, reference_epochs(plan.data_set.train_images)))
            first = {} if starts else _first(study.get_trials(deepcopy=False))
            attributes = {"enqueued_recipe": recipe.to_dict(), **first}
            study.enqueue_trial(point, user_attrs=attributes, skip_if_exists=False)
    if not study.user_attrs:
        # A crash may have left some of them enqueued. The first is added even if the user enqueued the same recipe.
        has_baseline = any(BASELINE in trial.user_attrs for trial in study.get_trials(deepcopy=False))
        for number, start in enumerate(starts):
            if number > 0:
                study.enqueue_trial(start, skip_if_exists=True)
            elif not has_baseline:
                study.enqueue_trial(start, user_attrs={BASELINE: Beginning.KNOWN_GOOD}, skip_if_exists=False)


def ask(study: optuna.Study, plan: Plan) -> Trial:
    """Return the next trial: a queued one, else one of a model below its share of trials, else one from the sampler."""
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
    """Return the attributes of the next trial: trial 0 is marked as the first recipe, others have none.

    For studies without known-good recipes.
    """
    return {} if trials else {BASELINE: Beginning.FIRST}


def is_feasible(trial: FrozenTrial) -> bool:
    """Return true if the trial keeps the limits of its study."""
    return all(excess <= 0 for excess in trial.constraints.values())


def trained_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Return the complete and pruned trials, without those that broke a limit, which were not trained."""
    ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    return [trial for trial in ended if is_feasible(trial)]


def ranked(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """Return the complete trials, best first."""
    complete = (trial for trial in trials if trial.state == TrialState.COMPLETE)
    return sorted(complete, key=lambda trial: (-(trial.value or 0.0), trial.number))


def recipe_of(trial: FrozenTrial) -> Recipe:
    """Return the recipe of a trial with the epochs that its weight decay was chosen for.

    Where norms are not reset, an enqueued recipe keeps its decay in the trial, which is that of its own length.
    """
    recipe = Recipe.from_dict(trial.user_attrs["recipe"])
    if recipe.reset_norms or "enqueued_recipe" not in trial.user_attrs:
        return recipe
    return replace(recipe, epochs=trial.user_attrs["enqueued_recipe"]["epochs"])


def find_study(store: Store, name: str) -> optuna.Study | None:
    """Load a study for reading; None if Optuna has no such study.

    Raises:
        StoreError: the store cannot be read.
        StudyError: the Optuna storage cannot be opened.
    """
    store.check()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = open_storage(store.storage_url)
    with opening_storage(store.storage_url):
        if name not in optuna.get_all_study_names(storage):
            return None
        study = optuna.load_study(study_name=name, storage=storage)
        study.get_trials(deepcopy=False)  # fills the cache, or says that the storage is damaged
        return study


def load_study(store: Store, name: str, option: str = "") -> optuna.Study:
    """Load a study for reading; `option` has named it, if it is not the study of the command itself.

    Raises:
        StoreError: the store has no such study, or cannot be read.
        StudyError: the Optuna storage cannot be opened.
    """
    if (study := find_study(store, name)) is not None:
        return study
    names = ", ".join(sorted(optuna.get_all_study_names(open_storage(store.storage_url)))) or "none"
    other = "" if option else "; --study NAME takes another"
    raise StoreError(f"{option or 'the study'} must be one that the store holds ({names}), but got {name!r}{other}")


def unfinished_trials(study: optuna.Study, storage: BaseStorage) -> Iterator[Trial]:
    """Yield the trials that an earlier process left running."""
    study_id = storage.get_study_id_from_name(study.study_name)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        yield Trial(study, storage.get_trial_id_from_study_id_trial_number(study_id, trial.number))


def started_trials(study: optuna.Study) -> int:
    """Return the number of trials that have started, ended ones included."""
    return sum(trial.state != TrialState.WAITING for trial in study.get_trials(deepcopy=False))


def left_out(study: optuna.Study, trials: int) -> Iterator[str]:
    """Yield a warning if the study ends with trial `trials`, before all queued recipes are tried."""
    queued = sum(trial.state == TrialState.WAITING for trial in study.get_trials(deepcopy=False))
    needed = started_trials(study) + queued
    if queued and needed > trials:
        lost = min(queued, needed - trials)
        ends = f"the study ends after {counted(trials, 'trial')}"  # more than asked for if it had started more
        yield f"{ends}, which leaves out {counted(lost, 'queued recipe')}; --trials {needed} tries all"


def trials_since_best(study: optuna.Study) -> int:
    """Return the number of ended trials after the best one, untrained ones aside; 0 while none is complete."""
    ended = list(filter(is_feasible, study.get_trials(deepcopy=False, states=tuple(STATE_OF_TRIAL))))
    best = ranked(ended)[:1]
    return sum(trial.number > best[0].number for trial in ended) if best else 0


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
