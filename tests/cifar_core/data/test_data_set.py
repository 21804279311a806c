"""Facts about a data set: names for MLflow, groups, and the way to JSON and back."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cifar_core.data.data_set import CIFAR10, DataSet

NAMES = st.lists(st.text(min_size=1, max_size=200), min_size=1, max_size=8, unique=True).map(tuple)


@given(NAMES)
def test_every_class_has_a_key_of_its_own_that_mlflow_takes(names: tuple[str, ...]) -> None:
    keys = replace(CIFAR10, classes=names, groups=()).keys
    assert len({key.casefold() for key in keys}) == len(names)
    for key in keys:
        assert re.fullmatch(r"[\w .\-]*[\w\-]", key)  # of what MLflow allows: no slash, and nothing that a path drops
        assert len(f"val_class/{key}") <= 250


@pytest.mark.parametrize(
    ("names", "keys"),
    [
        (CIFAR10.classes, CIFAR10.classes),
        (("a/b", "a\\b", "a_b"), ("a_b", "a_b 2", "a_b 3")),
        (("Weiß & grün", "50 %"), ("Weiß _ grün", "50 _")),
        (("..", " "), ("_", "_ 2")),
    ],
)
def test_keys(names: tuple[str, ...], keys: tuple[str, ...]) -> None:
    assert replace(CIFAR10, classes=names, groups=()).keys == keys


@given(NAMES)
def test_through_json(names: tuple[str, ...]) -> None:
    data_set = replace(CIFAR10, classes=names, groups=(("all", names),))
    assert DataSet.from_dict(json.loads(json.dumps(data_set.to_dict()))) == data_set


def test_groups() -> None:
    assert [CIFAR10.group_of(name) for name in ("cat", "ship", "rose")] == ["animals", "vehicles", None]


def test_every_class_is_an_animal_or_a_vehicle() -> None:
    assert sorted(name for _, names in CIFAR10.groups for name in names) == sorted(CIFAR10.classes)
