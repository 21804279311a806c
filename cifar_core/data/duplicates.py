"""Pictures that are the same, or nearly the same."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from cifar_core.data import Bytes

_BANDS = 4  # parts of a fingerprint; two near duplicates agree in one of them at least
_CANDIDATES = 50  # pictures that agree in a band, at most: more of them have nothing in common but a plain background
_NEAR = 6.0  # grey levels that two near duplicates differ by in the mean, at most


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
    """Return the pairs of pictures in different splits that differ, but hardly: a copy in another format or quality.

    Pictures are compared if a quarter of their difference hash is equal (N. Krawetz, "Kind of like that", 2013).
    """
    found = set()
    for band in _fingerprints(images).T:
        for members in _equal(band):
            for one, other in _pairs(members, splits):
                if contents[one] != contents[other] and (one, other) not in found:
                    difference = np.abs(images[one].astype(np.int16) - images[other]).mean()
                    if difference <= _NEAR:
                        found.add((one, other))
    return sorted(found)


def _fingerprints(images: Bytes) -> Bytes:
    """Return difference hashes in four bands of 16 bits (N, 4): at 8 x 8 places, is it darker to the right?"""
    rows = []
    for part in np.array_split(images, max(1, len(images) // 1000)):
        grey = torch.from_numpy(part.mean(3, dtype=np.float32))[:, None]
        small = F.adaptive_avg_pool2d(grey, (8, 9))[:, 0]
        bits = (small[:, :, 1:] < small[:, :, :-1]).flatten(1).numpy()
        rows.append(np.packbits(bits, axis=1).view(np.uint16))
    return np.concatenate(rows)


def _equal(values: Bytes) -> Iterator[list[int]]:
    """Yield the places of each value that is there more than once, but not too often."""
    places: dict[int, list[int]] = defaultdict(list)
    for place, value in enumerate(values.tolist()):
        places[value].append(place)
    yield from (members for members in places.values() if 1 < len(members) <= _CANDIDATES)


def _pairs(members: Sequence[int], splits: Sequence[str]) -> Iterator[tuple[int, int]]:
    for place, one in enumerate(members):
        yield from ((one, other) for other in members[place + 1 :] if splits[one] != splits[other])
