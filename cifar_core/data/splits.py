"""Drawing the splits of a data set by the content of its pictures."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

TEST_SHARE = 0.1
VAL_SHARE, LARGER_VAL_SHARE = 0.1, 0.2  # the larger one where the smaller one is fewer than `ENOUGH` pictures
ENOUGH = 1_000

_LEAST, _MOST = 0.5, 1.5  # of its share, that a class gets in a split


def shares(pictures: int, missing: Sequence[str]) -> dict[str, float]:
    """Return the share of `pictures` pictures to draw for each split in `missing`: "val", "test" or both."""
    val = VAL_SHARE if VAL_SHARE * pictures >= ENOUGH else LARGER_VAL_SHARE
    return {split: {"test": TEST_SHARE, "val": val}[split] for split in ("test", "val") if split in missing}


def draw_splits(labels: Sequence[int], contents: Sequence[str], drawn: dict[str, float]) -> list[str]:
    """Return the split of each picture: one of `drawn`, which gives their shares, or "train".

    A picture's hash decides, so that it keeps its split when others are added. Only where a class would get less than
    half of its share, or more than one and a half times of it, its next pictures by hash join the split, or its last
    ones leave it. Every split has a picture of each class that has at least three contents.

    Copies count as one picture. One that is so often in a class that it would be more than half of a split's share
    is for training, where the class has enough others to draw from.

    Args:
        contents: SHA-256 of each picture; equal ones get the same split, also with different labels.
    """
    label_of: dict[str, int] = {}
    for content, label in zip(contents, labels, strict=True):
        label_of.setdefault(content, label)
    of_class: dict[int, list[str]] = {}
    for content, label in label_of.items():
        of_class.setdefault(label, []).append(content)
    frequent = _frequent(labels, contents, min(drawn.values(), default=1.0))
    found: dict[str, str] = {}
    for all_members in of_class.values():
        rare = [content for content in all_members if content not in frequent]
        members = sorted(rare if len(rare) > len(drawn) else all_members)
        begin, bound = 0, 0.0
        for split, share in drawn.items():
            bound += share
            below = sum(_position(content) < bound for content in members) - begin
            least, most = (math.ceil(limit * share * len(members)) for limit in (_LEAST, _MOST))
            end = begin + min(max(below, least), most, max(0, len(members) - 1 - begin))
            found |= dict.fromkeys(members[begin:end], split)
            begin = end
    return [found.get(content, "train") for content in contents]


def alternating(labels: Sequence[int]) -> list[int]:
    """Return an order of the pictures in which every prefix has about the class shares of the whole."""
    totals: dict[int, int] = {}
    ranks = []
    for label in labels:
        ranks.append(totals.get(label, 0))
        totals[label] = ranks[-1] + 1
    place = [(rank + 0.5) / totals[label] for rank, label in zip(ranks, labels, strict=True)]
    return sorted(range(len(labels)), key=lambda index: (place[index], labels[index], index))


def _frequent(labels: Sequence[int], contents: Sequence[str], share: float) -> set[str]:
    """Return the contents whose copies in a class would be more than half of a split's share of it."""
    totals = Counter(labels)
    copies = Counter(zip(contents, labels, strict=True))
    return {content for (content, label), count in copies.items() if count > max(1, _LEAST * share * totals[label])}


def _position(content: str) -> float:
    """Map a hash to [0, 1), uniformly."""
    return int(content[:13], 16) / 16**13
