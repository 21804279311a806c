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


@pytest.mark.parametrize("wrong", [{"side": "48; curl evil"}, {"sha256": "$(evil)"}])
def test_a_file_has_a_side_and_a_hash_that_may_stand_in_a_command(wrong: dict[str, str]) -> None:
    with pytest.raises(TypeError, match=r"^side must be a whole number, and sha256 a hash, but got "):
        DataSet.from_dict(CIFAR10.to_dict() | wrong)


@given(NAMES)
def test_through_json(names: tuple[str, ...]) -> None:
    names = tuple(name for name in names if name.isprintable())
    data_set = replace(CIFAR10, classes=names, groups=(("all", names),))
    assert DataSet.from_dict(json.loads(json.dumps(data_set.to_dict()))) == data_set


@pytest.mark.parametrize("name", ["cat\x1b[2K", "cat\n", "c" * 201, 7])
def test_a_file_has_only_classes_that_can_be_shown(name: object) -> None:
    content = CIFAR10.to_dict() | {"classes": ["dog", name]}
    rule = "a class must have a name of at most 200 letters without control characters, but got "
    with pytest.raises(TypeError, match="^" + re.escape(f"{rule}{name!r}") + "$"):
        DataSet.from_dict(content)


def test_groups() -> None:
    assert [CIFAR10.group_of(name) for name in ("cat", "ship", "rose")] == ["animals", "vehicles", None]


def test_every_class_is_an_animal_or_a_vehicle() -> None:
    assert sorted(name for _, names in CIFAR10.groups for name in names) == sorted(CIFAR10.classes)
