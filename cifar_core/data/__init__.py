"""CIFAR-10 as tensors, read from six verified `.bin` files, and its fixed validation split.

A record is one label byte and 3,072 image bytes: 3 planes (red, green, blue) of 32 x 32, row by row.
Data set: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cifar_core.data.data_set import CIFAR10, DataSet
from cifar_core.data.splits import alternating
from cifar_core.errors import UserError, cause

Bytes = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int64]

FILE_SHA256: Mapping[str, str] = {
    "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
    "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
    "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
    "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
    "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
    "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
}
TRAIN_FILES = tuple(name for name in FILE_SHA256 if name != "test_batch.bin")
TEST_FILE = "test_batch.bin"

IMAGES_PER_FILE = 10_000
RECORD_BYTES = 1 + 3 * 32 * 32
FILE_BYTES = IMAGES_PER_FILE * RECORD_BYTES

VAL_PER_CLASS = 500
SPLIT_SEED = 2009
WHITENING_IMAGES = 5_000  # the first training images, which the first filters of a network are made from


class DataError(UserError):
    """Images that are missing, damaged or unfit as a data set."""


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Images uint8 (N, 3, side, side) and labels int64 (N,), both contiguous, of a data set."""

    images: Tensor
    labels: Tensor
    data_set: DataSet = CIFAR10

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, which: slice | Tensor) -> Split:
        """Return the images at these places, or where a mask is true."""
        return replace(self, images=self.images[which], labels=self.labels[which])

    def head(self, count: int) -> Split:
        """Return the first `count` images, or all if there are fewer."""
        return self.part(slice(count))


@dataclass(frozen=True, slots=True, eq=False)
class Splits:
    """Training and validation images."""

    train: Split
    val: Split

    def everything(self) -> Split:
        """Return the training and validation images together."""
        images = torch.cat([self.train.images, self.val.images])
        labels = torch.cat([self.train.labels, self.val.labels])
        return replace(self.train, images=images, labels=labels)


def load_train_val(directory: Path) -> Splits:
    """Load 45,000 training images in the order of the files, and 5,000 validation images with alternating classes.

    The split does not depend on the machine or on the versions of torch and numpy.

    Raises:
        DataError: one of the five files in `directory` is missing or fails its SHA-256.
    """
    return fixed_split(load_train(directory))


def fixed_split(everything: Split) -> Splits:
    """Split loaded training images as `load_train_val` does."""
    return _split_off(everything, validation_indices(everything.labels.numpy()))


def load_train(directory: Path) -> Split:
    """Load all 50,000 training images in the order of the files.

    Raises:
        DataError: as for `load_train_val`.
    """
    return _load(directory, TRAIN_FILES)


def hold_out(everything: Split, fraction: float, seed: int) -> Splits:
    """Hold out a random `fraction` of the images for validation, at least one; none for 0."""
    count = max(1, round(fraction * len(everything))) if fraction else 0
    return _split_off(everything, _shuffled(len(everything), seed)[:count])


def nested_places(labels: Tensor, count: int, seed: int) -> Tensor:
    """Draw the places of `count` images with about the same shares of the classes as the whole.

    With the same seed, a smaller draw is the beginning of a larger one, on every machine.
    """
    shuffled = _shuffled(len(labels), seed)
    order = alternating(labels.numpy()[shuffled].tolist())
    return torch.from_numpy(shuffled[order[:count]])


def load_test(directory: Path) -> Split:
    """Load the 10,000 test images in the order of the file. Never choose anything by them.

    Raises:
        DataError: `test_batch.bin` in `directory` is missing or fails its SHA-256.
    """
    return _load(directory, (TEST_FILE,))


def _load(directory: Path, names: Sequence[str]) -> Split:
    images = np.empty((len(names), IMAGES_PER_FILE, RECORD_BYTES - 1), dtype=np.uint8)
    labels = np.empty((len(names), IMAGES_PER_FILE), dtype=np.int64)
    for number, name in enumerate(names):
        records = read_verified(directory / name)
        images[number], labels[number] = records[:, 1:], records[:, 0]
    return Split(torch.from_numpy(images).view(-1, 3, 32, 32), torch.from_numpy(labels).view(-1))


def _split_off(everything: Split, held_out: Integers) -> Splits:
    in_train = torch.ones(len(everything), dtype=torch.bool)
    chosen = torch.from_numpy(held_out)
    in_train[chosen] = False
    return Splits(train=everything.part(in_train), val=everything.part(chosen))


def validation_indices(labels: Integers) -> Integers:
    """Draw `VAL_PER_CLASS` validation images of each class with `SPLIT_SEED`, and return their indices.

    The classes alternate, so that the first 10 k images are balanced for every k.
    """
    shuffled = _shuffled(len(labels), SPLIT_SEED)
    drawn = [shuffled[labels[shuffled] == label][:VAL_PER_CLASS] for label in range(len(CIFAR10.classes))]
    return np.stack(drawn, axis=1).reshape(-1).astype(np.int64)


def _shuffled(count: int, seed: int) -> Integers:
    """Return a random permutation of the numbers below `count`, the same on every machine."""
    # numpy guarantees the stream of raw PCG64 words across versions, but not the methods of `Generator`.
    return np.argsort(np.random.PCG64(seed).random_raw(count), kind="stable")


def read_verified(path: Path) -> Bytes:
    """Read one of the six files and check its SHA-256: records uint8 (10000, 3073).

    Raises:
        DataError: the file is missing, unreadable, or its size or SHA-256 is wrong.
    """
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES + 1)
            size = path.stat().st_size
    except OSError as error:
        raise DataError(f"{path}: this CIFAR-10 file must be readable, but got: {cause(error)}") from error
    if size != FILE_BYTES or len(content) != FILE_BYTES:
        raise DataError(f"{path}: size must be {FILE_BYTES} bytes, but got {size}")
    found = hashlib.sha256(content).hexdigest()
    if found != FILE_SHA256[path.name]:
        raise DataError(f"{path}: SHA-256 must be {FILE_SHA256[path.name]}, but got {found}")
    return np.frombuffer(content, dtype=np.uint8).reshape(IMAGES_PER_FILE, RECORD_BYTES)
