"""Memory of the process: reuse freed blocks, release them, and report a shortage in one line."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import mmap
import platform
from collections.abc import Iterator

import torch

from cifar_core.errors import OutOfMemory, first_line
from cifar_core.recipe import Recipe

# torch, oneDNN, cuBLAS, cuDNN and Metal raise a plain RuntimeError with one of these texts.
_SHORTAGES = (
    "can't allocate memory",
    "could not create a primitive",
    "could not create a memory object",
    "ALLOC_FAILED",
    "ALLOCATION_FAILED",
    "CUDA error: out of memory",
    "MPS backend out of memory",
    # A handle, or the workspace of every algorithm, found no memory; a broken installation is a rarer cause.
    "_STATUS_NOT_INITIALIZED",
    "unable to find an engine",
)

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h
_HUGE_PAGES = 4 << 30  # bytes of the heap; training takes less


def keep_freed_memory() -> None:
    """Make glibc reuse freed blocks of any size instead of returning them to the kernel, and ask for large pages.

    Each training step frees and allocates gigabytes, and the kernel would clear every page of them anew (mallopt(3),
    under M_MMAP_THRESHOLD). Pages of 2 MB spare the processor most of its searches for the page of an address; many
    systems give them to those who ask only (madvise(2)). Does nothing on other C libraries.
    """
    if libc := _glibc():
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, -1)
        libc.malloc.restype = ctypes.c_void_p
        # Freed at once: what is asked for the addresses holds for all blocks that will lie there.
        if block := libc.malloc(ctypes.c_size_t(_HUGE_PAGES)):
            first = -(-block // mmap.PAGESIZE) * mmap.PAGESIZE
            size = ctypes.c_size_t(_HUGE_PAGES - mmap.PAGESIZE)
            libc.madvise(ctypes.c_void_p(first), size, mmap.MADV_HUGEPAGE)
            libc.free(ctypes.c_void_p(block))


def release_memory() -> None:
    """Return all memory that no tensor holds to the operating system and the GPU's driver."""
    gc.collect()
    if libc := _glibc():
        libc.malloc_trim(0)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Return true if `error` reports a shortage of memory, on a GPU or on the CPU."""
    if isinstance(error, OutOfMemory | torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _SHORTAGES)


@contextlib.contextmanager
def oom_context(what: str, recipe: Recipe) -> Iterator[None]:
    """Context that reports a shortage of memory in one line.

    Args:
        what: what needs the memory, such as "a batch of 256 images".

    Raises:
        OutOfMemory: in place of any error that reports a shortage of memory.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        network = f"{recipe.model}, width {recipe.width:g}"
        raise OutOfMemory(
            f"out of memory: {what} did not fit beside the network ({network}): {first_line(error)}"
        ) from error


def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
