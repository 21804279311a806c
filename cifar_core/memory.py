"""Memory: what this process keeps of it, and what is said where it did not suffice."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import platform
from collections.abc import Iterator

import torch

from cifar_core.errors import OutOfMemory, first_line
from cifar_core.recipe import Recipe

# What torch, oneDNN, cuBLAS and cuDNN say in words only.
_WORDS = ("can't allocate memory", "could not create a primitive", "could not create a memory object", "ALLOC_FAILED")

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h


def keep_freed_memory() -> None:
    """Have freed blocks used again, however large, instead of given back to the kernel. Only glibc is told.

    Each step frees and takes gigabytes, and the kernel would clear every page of them anew (mallopt(3), under
    M_MMAP_THRESHOLD).
    """
    if libc := _glibc():
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, -1)


def ran_out(error: BaseException) -> bool:
    """Whether `error` says that memory did not suffice, on a GPU or here."""
    if isinstance(error, OutOfMemory | torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)


@contextlib.contextmanager
def fitting(images: int, recipe: Recipe) -> Iterator[None]:
    """Context for work on a batch of `images` images.

    Raises:
        OutOfMemory: instead of any error that says that memory did not suffice.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
        network = f"{recipe.model}, width {recipe.width:g}"
        raise OutOfMemory(
            f"out of memory: a batch of {images} images did not fit beside the network ({network}): {first_line(error)}"
        ) from error


def release() -> None:
    """Give back what no tensor holds any more, so that the next run has it."""
    gc.collect()
    if libc := _glibc():
        libc.malloc_trim(0)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
