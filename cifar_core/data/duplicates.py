"""Pictures that are the same, or nearly the same."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from cifar_core.data import Bytes

_CANDIDATES = 50  # pictures with an equal part of their hashes, at most: more share a plain background alone
_NEAR = 3.0  # grey levels that two near duplicates differ by in the mean, at most


def content_of(images: Bytes, hashes: Sequence[str]) -> list[str]:
    """Return a name of each picture's content: the least SHA-256 of the files with exactly the same pixels.

    It does not depend on the size that the pictures were scaled to, unless files differ and their pixels do not.

    Args:
        images: uint8 (N, side, side, 3).
        hashes: SHA-256 of their files.
    """
    pixels = [hashlib.sha256(image.tobytes()).digest() for image in images]
    least: dict[bytes, str] = {}
    for same, digest in zip(pixels, hashes, strict=True):
        least[same] = min(digest, least.get(same, digest))
    return [least[same] for same in pixels]


def near_duplicates(images: Bytes, contents: Sequence[str], splits: Sequence[str]) -> list[tuple[int, int]]:
    """Return the pairs of nearly equal pictures in different splits, as copies in another format or quality are.

    Pictures are compared at 8 x 8 pixels if a quarter of their difference hashes is equal (N. Krawetz, "Kind of like
    that", 2013).
    """
    small = _reduced(images, 8)
    found = set()
    for band in _fingerprints(images).T:
        for members in _equal(band):
            for one, other in _pairs(members, splits):
                if contents[one] != contents[other] and np.abs(small[one] - small[other]).mean() <= _NEAR:
                    found.add((one, other))
    return sorted(found)


def _fingerprints(images: Bytes) -> npt.NDArray[np.uint16]:
    """Return difference hashes (N, 4) in bands of 16 bits, each set where a picture is darker to the right."""
    grey = _reduced(images, 9).mean(1)
    bits = (grey[:, :, 1:] < grey[:, :, :-1]).reshape(len(images), -1)
    return np.packbits(bits, axis=1).view(np.uint16)


def _reduced(images: Bytes, columns: int) -> npt.NDArray[np.float32]:
    """Return the mean colours in a grid of 8 rows: (N, 3, 8, columns)."""
    parts = [
        F.adaptive_avg_pool2d(torch.from_numpy(part).permute(0, 3, 1, 2).float(), (8, columns)).numpy()
        for part in np.array_split(images, -(-len(images) // 1000))  # of all at once the floats would fill the memory
    ]
    return np.concatenate(parts)


def _equal(values: npt.NDArray[np.uint16]) -> Iterator[list[int]]:
    """Yield the indices of each value that occurs more than once, but at most `_CANDIDATES` times."""
    places: dict[int, list[int]] = defaultdict(list)
    for place, value in enumerate(values.tolist()):
        places[value].append(place)
    yield from (members for members in places.values() if 1 < len(members) <= _CANDIDATES)


def _pairs(members: Sequence[int], splits: Sequence[str]) -> Iterator[tuple[int, int]]:
    for place, one in enumerate(members):
        yield from ((one, other) for other in members[place + 1 :] if splits[one] != splits[other])
