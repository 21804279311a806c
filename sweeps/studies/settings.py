"""Settings that cannot change within a study, because its trials would no longer compare."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import optuna
from optuna.storages import BaseStorage

from cifar_core.data.data_set import DataSet
from cifar_core.transfer.backbone import Backbone
from sweeps.planning.plan import Plan
from sweeps.studies.storage import StudyError
from sweeps.words import shortened

ADAPTATION = "adaptation"  # attribute of a study that adapts a network: its settings
TRAIN_IMAGES = "train_images"  # attribute of a sweep: their number, of which an epoch of its recipes is
_CONTENT = "space_content"  # likewise: all that decides what its trials draw
_DATA = "data"  # likewise: name and SHA-256 of its data set
_ANOTHER_NAME = "give it another name with --study"


def settings_of(plan: Plan) -> dict[str, object]:
    """Return the settings of a sweep."""
    return {
        _DATA: [plan.data_set.name, plan.data_set.sha256],
        TRAIN_IMAGES: plan.data_set.train_images,
        _CONTENT: plan.space.content(),
        "space": plan.space.name,
        "preset": plan.preset.name,
        "trial_flops": f"{plan.preset.trial.flops or 0:g}",
        "seed": str(plan.seed),
        "starts": "yes" if plan.starts else "no",
        "limits": str(plan.limits),
    }


def check_settings(plan: Plan, stored: Mapping[str, Any]) -> None:
    """Check that a study with the attributes `stored` was started with the settings of `plan`, or is new.

    Raises:
        StudyError: it was not.
    """
    if ADAPTATION in stored:
        raise StudyError(f"study {plan.study!r} must be a sweep, but it adapts a network; {_ANOTHER_NAME}")
    settings = settings_of(plan)
    name, sha256 = stored.get(_DATA, settings[_DATA])
    if sha256 != plan.data_set.sha256:  # which decides the budgets as well
        raise StudyError(
            f"study {plan.study!r} was started with the data {name} ({sha256[:12]}), but got {plan.data_set.name} "
            f"({plan.data_set.sha256[:12]}), which has other pictures, labels or splits; {_ANOTHER_NAME}"
        )
    for name in ("space", "preset", "trial_flops", "seed", "starts", "limits"):
        if name in stored and stored[name] != (value := settings[name]):
            raise StudyError(
                f"study {plan.study!r} was started with {name} {stored[name]}, but got {name} {value}; {_ANOTHER_NAME}"
            )
    changes = list(_changes(stored[_CONTENT], settings[_CONTENT])) if _CONTENT in stored else []
    if changes:
        raise StudyError(f"study {plan.study!r} was started {shortened(changes, '; ')}; {_ANOTHER_NAME}")


def adaptation_settings(data_set: DataSet, backbone: Backbone, preset: str, seed: int) -> dict[str, object]:
    """Return the settings of a study that adapts a network."""
    weights = {"backbone": backbone.sha256, "side": backbone.side}
    return {"data": data_set.sha256, **weights, "preset": preset, "seed": seed}


def check_adaptation(storage: BaseStorage, study: str, settings: Mapping[str, object]) -> None:
    """Check that the study of that name, if there is one, adapts a network under these settings.

    Raises:
        StudyError: it does not.
    """
    if study not in optuna.get_all_study_names(storage):
        return
    attributes = optuna.load_study(study_name=study, storage=storage).user_attrs
    if attributes and ADAPTATION not in attributes:
        raise StudyError(f"study {study!r} must be one that adapts a network, but it is a sweep; {_ANOTHER_NAME}")
    for name, value in attributes.get(ADAPTATION, {}).items():
        if value != (given := settings.get(name)):
            raise StudyError(
                f"study {study!r} was started with {name} {value}, but got {name} {given}; {_ANOTHER_NAME}"
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
