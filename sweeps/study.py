"""The Optuna study behind a sweep: samplers and pruners by name, and what makes it the same study again."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import optuna
from optuna.exceptions import StorageInternalError
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from cifar_core.errors import first_line
from cifar_core.recipe import Recipe
from sweeps.plan import Plan

# What Optuna says of a storage that it cannot open; a RuntimeError is for tables that are not its own.
UNOPENED = (SQLAlchemyError, StorageInternalError, ImportError, RuntimeError)

_MANY_OBJECTS = 100_000

SAMPLERS: Mapping[str, Callable[[int], BaseSampler]] = MappingProxyType(
    {
        "tpe": lambda seed: TPESampler(seed=seed, n_startup_trials=8),
        "random": lambda seed: RandomSampler(seed=seed),
    }
)

# A trial reports in eighths of its budget. Successive halving by 4 judges it after 1/8 and after 1/2: only the best
# quarter of those that came so far goes on.
PRUNERS: Mapping[str, Callable[[], BasePruner]] = MappingProxyType(
    {
        "halving": lambda: SuccessiveHalvingPruner(min_resource=1, reduction_factor=4),
        "hyperband": lambda: HyperbandPruner(min_resource=1, max_resource=8, reduction_factor=4),
        "median": lambda: MedianPruner(n_startup_trials=4),
        "none": NopPruner,
    }
)


class StudyError(ValueError):
    """A study that cannot be continued as asked; the message is one line."""


def open_study(plan: Plan, storage_url: str, enqueue: Sequence[Recipe] = ()) -> optuna.Study:
    """The study of `plan`; `enqueue` is tried next, and after it the starting points where the study is new.

    Raises:
        StudyError: the study was begun with settings that cannot change.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with _opening(storage_url), _uncollected():
        study = optuna.create_study(
            study_name=plan.study, storage=storage_url, direction="maximize", load_if_exists=True
        )
        study.get_trials(deepcopy=False)  # which it keeps
    check_settings(plan, study.user_attrs)
    # Numbered by how far the study has come, so that a resumed study does not draw the same points again.
    study.sampler = SAMPLERS[plan.sampler](derive_seed(plan.seed, len(study.get_trials(deepcopy=False))))
    study.pruner = PRUNERS[plan.pruner]()
    asked_before = [trial.user_attrs.get("enqueued_recipe") for trial in study.get_trials(deepcopy=False)]
    for recipe in enqueue:
        if recipe.to_dict() not in asked_before:  # the same command again finishes the study, and adds nothing to it
            study.enqueue_trial(
                plan.space.nearest(recipe), user_attrs={"enqueued_recipe": recipe.to_dict()}, skip_if_exists=False
            )
    if not study.user_attrs:
        for start in plan.space.starts:
            study.enqueue_trial(dict(start), skip_if_exists=True)  # a crash may have come after some
        for name, value in settings(plan).items():
            study.set_user_attr(name, value)
    return study


def check_opens(storage_url: str) -> None:
    """
    Raises:
        StudyError: there can be no such Optuna storage.
    """
    with _opening(storage_url):
        optuna.storages.get_storage(storage_url)


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """For loading thousands of trials: their millions of objects are not looked through for garbage again and again.

    Nor are they later, with each collection of a sweep.
    """
    enabled, before = gc.isenabled(), len(gc.get_objects())
    gc.disable()
    try:
        yield
    finally:
        if len(gc.get_objects()) > before + _MANY_OBJECTS:
            gc.freeze()
        if enabled:
            gc.enable()


@contextlib.contextmanager
def _opening(storage_url: str) -> Iterator[None]:
    try:
        yield
    except UNOPENED as error:
        raise StudyError(f"the Optuna storage must open, but {storage_url} gave: {first_line(error)}") from error


def settings(plan: Plan) -> dict[str, str]:
    """What cannot change within a study, as its trials would no longer compare."""
    return {"space": plan.space_name, "preset": plan.preset_name, "seed": str(plan.seed)}


def check_settings(plan: Plan, stored: Mapping[str, object]) -> None:
    """
    Raises:
        StudyError: the stored study was begun otherwise.
    """
    for name, value in settings(plan).items():
        if name in stored and stored[name] != value:
            raise StudyError(
                f"study {plan.study!r} was begun with {name} {stored[name]}, but got {name} {value}; "
                f"give it another name with --study"
            )


def begun(study: optuna.Study) -> int:
    """Trials that were ever begun; those that wait in the queue are not counted."""
    trials = study.get_trials(deepcopy=False)
    return sum(trial.state != TrialState.WAITING for trial in trials)


def derive_seed(*numbers: int) -> int:
    """A seed in [0, 2**32); other numbers give another one, up to zeros at the end."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
