"""Drawn splits: every class in each, the same content in one, and the same again when pictures are added."""

from __future__ import annotations

import hashlib
import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cifar_core.data.splits import alternating, draw_splits, shares

DRAWN = {"test": 0.1, "val": 0.2}


def sha(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def of_sizes(sizes: list[int], salt: int) -> tuple[list[int], list[str]]:
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    return labels, [sha(salt, place) for place in range(len(labels))]


@given(st.lists(st.integers(3, 300), min_size=2, max_size=5), st.integers(0, 1000))
def test_every_class_is_in_each_split_by_about_its_share(sizes: list[int], salt: int) -> None:
    labels, contents = of_sizes(sizes, salt)
    found = Counter(zip(labels, draw_splits(labels, contents, DRAWN), strict=True))
    for label, size in enumerate(sizes):
        for split, share in DRAWN.items():
            assert math.ceil(share * size / 2) <= found[label, split] <= math.ceil(1.5 * share * size)
        assert found[label, "train"] > 0


@given(st.integers(0, 1000), st.integers(1, 200))
def test_pictures_that_are_added_move_none(salt: int, added: int) -> None:
    labels, contents = of_sizes([2000, 1500], salt)  # so many that no share has to be corrected
    before = draw_splits(labels, contents, DRAWN)
    more = [sha("more", salt, place) for place in range(added)]
    after = draw_splits([*labels, *(place % 2 for place in range(added))], [*contents, *more], DRAWN)
    assert after[: len(labels)] == before


@given(st.integers(0, 1000))
def test_the_same_content_is_in_one_split_with_any_labels(salt: int) -> None:
    contents = [sha(salt, place % 20) for place in range(60)]
    found = draw_splits([place % 3 for place in range(60)], contents, DRAWN)
    assert len(set(zip(contents, found, strict=True))) == 20


@given(st.integers(0, 1000), st.integers(40, 200))
def test_a_picture_with_many_copies_is_for_training(salt: int, copies: int) -> None:
    blank = min(sha(salt, place) for place in range(200))  # drawn before all others
    contents = [sha(salt, place) for place in range(200)]
    labels = [0, 1] * 100
    before = draw_splits(labels, contents, DRAWN)
    found = draw_splits([0, *[1] * copies, *labels], [blank] * (1 + copies) + contents, DRAWN)
    assert found[: 1 + copies] == ["train"] * (1 + copies)
    for label in (0, 1):
        for split, share in DRAWN.items():
            drawn = sum(pair == (label, split) for pair in zip(labels, found[1 + copies :], strict=True))
            assert 0.5 * share * 99 <= drawn <= 1.5 * share * 100 + 1
    assert sum(one != other for one, other in zip(before, found[1 + copies :], strict=True)) <= 2


def test_every_split_has_pictures_where_all_have_copies() -> None:
    contents = [sha(place // 50) for place in range(150)]
    assert set(draw_splits([0] * 150, contents, DRAWN)) == {"train", "val", "test"}
    few = [sha("blank")] * 100 + [sha("one"), sha("two")]
    assert set(draw_splits([0] * 102, few, DRAWN)) == {"train", "val", "test"}


def test_the_order_does_not_matter() -> None:
    labels, contents = of_sizes([50, 20], 0)
    assert draw_splits(labels[::-1], contents[::-1], DRAWN) == draw_splits(labels, contents, DRAWN)[::-1]


@pytest.mark.parametrize(
    ("pictures", "missing", "expected"),
    [
        (800, ("val", "test"), {"test": 0.1, "val": 0.2}),
        (9_999, ("val",), {"val": 0.2}),
        (10_000, ("val", "test"), {"test": 0.1, "val": 0.1}),
        (50_000, ("test",), {"test": 0.1}),
        (50_000, (), {}),
    ],
)
def test_shares(pictures: int, missing: tuple[str, ...], expected: dict[str, float]) -> None:
    assert shares(pictures, missing) == expected


@given(st.lists(st.integers(0, 3), min_size=1, max_size=200))
def test_every_beginning_has_the_shares_of_the_whole(labels: list[int]) -> None:
    order = alternating(labels)
    assert sorted(order) == list(range(len(labels)))
    total = Counter(labels)
    seen: Counter[int] = Counter()
    for place, index in enumerate(order, start=1):
        seen[labels[index]] += 1
        for label, count in total.items():
            assert abs(seen[label] - place * count / len(labels)) <= len(total)
