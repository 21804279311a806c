"""C functions: compiled once on each machine by its C compiler, and kept in the user's cache folder.

Where that cannot be written, or is mounted noexec, each process compiles its own.

Their images are bf16 or fp32 in channels-last order.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from cifar_core.files import cache_folder, write_atomically

# No option that lets the compiler drop NaN or reorder sums: equal source and options give equal bits.
_OPTIONS = ("-O3", "-std=gnu11", "-fPIC", "-shared", "-march=native", "-fno-math-errno", "-fno-trapping-math")
_X86_OPTIONS = ("-mprefer-vector-width=512",)
_SECONDS = 60.0  # for the compiler; it needs one to four
_DIGEST = hashlib.sha256().digest_size  # bytes at the end of a library that is kept


@dataclass(frozen=True, slots=True)
class Library:
    """The functions of a C file, and GCC's OpenMP function that runs one of them on torch's own threads.

    Threads of our own would compete with torch's, which spin for a while after each of its operations.
    """

    functions: ctypes.CDLL
    parallel: ctypes.c_void_p

    def call(self, name: str, *arguments: int | float | Tensor | None) -> int:
        """Call `name(parallel, threads, *arguments)`; returns its result, of no meaning if it has none.

        Whole numbers are passed as int64_t, others as float, tensors as their addresses, and None as null. Each call
        of a function must have arguments of the kinds that its first call had.
        """
        function = getattr(self.functions, name)
        if function.argtypes is None:
            function.argtypes = [ctypes.c_void_p, ctypes.c_int64, *map(_kind, arguments)]
        given = (value.data_ptr() if isinstance(value, Tensor) else value for value in arguments)
        return int(function(self.parallel, torch.get_num_threads(), *given))


def takes(*tensors: Tensor) -> bool:
    """Return true if the functions can read these: false on a GPU, and while torch compiles, traces or exports."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return False
    return all(each.device.type == "cpu" and type(each) in (Tensor, nn.Parameter) for each in tensors)


def fp32_vectors() -> str | None:
    """Return which vectors functions for fp32 use here, "AVX2" or "AVX512"; they were not measured with others."""
    vectors = torch.backends.cpu.get_cpu_capability()
    return vectors if vectors in ("AVX2", "AVX512") else None


def new_images(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return room for images (N, C, H, W)."""
    return torch.empty(tuple(shape), dtype=dtype, memory_format=torch.channels_last)


def as_images(images: Tensor, dtype: torch.dtype) -> Tensor:
    """Return images (N, C, H, W) in the form that the functions take."""
    return images.to(dtype).contiguous(memory_format=torch.channels_last)


def _kind(value: int | float | Tensor | None) -> type[ctypes.c_int64 | ctypes.c_float | ctypes.c_void_p]:
    if isinstance(value, int):
        return ctypes.c_int64
    return ctypes.c_float if isinstance(value, float) else ctypes.c_void_p


@functools.cache
def load(source: Path, *options: str) -> Library | None:
    """Return the functions of a C file, or None if this machine cannot compile it, or torch's OpenMP is not GCC's.

    `options` are more options of the compiler. Processes that start together may all compile; the last one to finish
    replaces the file of the others.
    """
    try:
        parallel = ctypes.cast(ctypes.CDLL(None).GOMP_parallel, ctypes.c_void_p)
        return Library(_functions(source, options), parallel)
    except (AttributeError, OSError, TypeError, ValueError, RuntimeError, subprocess.SubprocessError):
        return None


def _functions(source: Path, given: Sequence[str]) -> ctypes.CDLL:
    options = [*_OPTIONS, *(_X86_OPTIONS if platform.machine() in ("x86_64", "AMD64") else ()), *given]
    kept = cache_folder() / "native" / f"{source.stem}-{_key(source, options)}.so"
    with contextlib.suppress(OSError):  # not there, or in a folder that holds no programs
        content = kept.read_bytes()
        if content[-_DIGEST:] == hashlib.sha256(content[:-_DIGEST]).digest():  # else it may kill whoever loads it
            return ctypes.CDLL(str(kept))
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / kept.name
        _compile(source, library, options)
        content = library.read_bytes()
        with contextlib.suppress(OSError):  # a folder that cannot be written or holds no programs, or a full disk
            kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(kept, content + hashlib.sha256(content).digest())  # the loader leaves out the end
            return ctypes.CDLL(str(kept))
        return ctypes.CDLL(str(library))


def _key(source: Path, options: list[str]) -> str:
    sources = [source, *sorted(source.parent.glob("*.h"))]
    parts = [*(path.read_text(encoding="utf-8") for path in sources), *options, platform.machine(), _cpu_features()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _cpu_features() -> str:
    """Return what -march=native depends on: machines that share a home folder may differ."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    wanted = ("model name", "flags", "Features")
    return "\n".join(next((line for line in lines if line.startswith(name)), "") for name in wanted)


def _compile(source: Path, library: Path, options: list[str]) -> None:
    name, *given = shlex.split(os.environ.get("CC", "")) or ["cc"]  # such as "ccache gcc"
    compiler = shutil.which(name)
    if compiler is None:
        raise FileNotFoundError("no C compiler")
    command = [compiler, *given, *options, "-o", str(library), str(source)]
    subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=_SECONDS)
