"""Decoding many picture files side by side."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cifar_core.data import Bytes, DataError
from cifar_core.data.image_file import lenient, read_pixels
from cifar_core.data.image_folder import Picture
from cifar_core.errors import UserError, cause, printable
from cifar_core.machine import usable_cores


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """Decoded pictures, with the hash and the original size of each.

    Attributes:
        images: uint8 (N, side, side, 3).
        hashes: SHA-256 of each file.
        sizes: width and height of each picture in its file.
    """

    pictures: tuple[Picture, ...]
    images: Bytes
    hashes: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]

    def part(self, kept: Sequence[int]) -> Decoded:
        """Return the pictures at these places."""
        return Decoded(
            tuple(self.pictures[place] for place in kept),
            self.images[list(kept)],
            tuple(self.hashes[place] for place in kept),
            tuple(self.sizes[place] for place in kept),
        )


def decode(
    pictures: Sequence[Picture], side: int, progress: Callable[[int, int], None]
) -> tuple[Decoded, tuple[str, ...]]:
    """Decode pictures to `side` x `side` pixels, on all cores; see `read_image` for how.

    Args:
        progress: called with the bytes of the files that are done, and their total.

    Returns:
        the pictures that could be read, and a line for each that could not.
    """
    lengths = [status(picture.path).st_size for picture in pictures]
    images = np.empty((len(pictures), side, side, 3), dtype=np.uint8)
    kept: list[Picture] = []
    hashes: list[str] = []
    sizes: list[tuple[int, int]] = []
    unreadable: list[str] = []
    done, total = 0, sum(lengths)
    pool = ThreadPoolExecutor(usable_cores())
    try:
        with lenient():
            found = pool.map(lambda picture: _decode(picture.path, side), pictures)
            for index, (each, length) in enumerate(zip(found, lengths, strict=True)):
                if isinstance(each, str):
                    unreadable.append(each)
                else:
                    images[len(kept)], digest, size = each
                    kept.append(pictures[index])
                    hashes.append(digest)
                    sizes.append(size)
                done += length
                progress(done, total)
    finally:
        pool.shutdown(cancel_futures=True)  # at Ctrl-C too
    return Decoded(tuple(kept), images[: len(kept)], tuple(hashes), tuple(sizes)), tuple(unreadable)


def _decode(path: Path, side: int) -> tuple[Bytes, str, tuple[int, int]] | str:
    """Return pixels, SHA-256 and size of a file, or why it cannot be read."""
    try:
        pixels, size = read_pixels(path, side)
        with path.open("rb") as file:
            return pixels, hashlib.file_digest(file, "sha256").hexdigest(), size
    except UserError as error:
        return str(error)
    except OSError as error:
        return f"{printable(path)}: a picture must be readable, but got: {cause(error)}"


def status(path: Path) -> os.stat_result:
    """Return the status of a file; for a broken or circular link, that of the link itself.

    Raises:
        DataError: it cannot be looked up.
    """
    try:
        return path.stat()
    except OSError:
        pass
    try:
        return path.lstat()
    except OSError as error:
        raise DataError(f"{printable(path)}: a picture must be readable, but got: {cause(error)}") from error
