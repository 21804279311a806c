"""Benchmarks of the trainer, the sweep and the report: `python -m experiments.benchmarks [NAME...]`."""

import contextlib
import functools
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import ModuleType
from unittest import mock

from cifar_core.data import Splits, load_train_val
from cifar_core.data.download import default_data_dir


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a benchmark's answer, for people, and its figures, for a program."""

    text: str
    subject: str = ""  # what was measured, such as the name of a network
    figures: Mapping[str, float] = field(default_factory=dict)


@functools.cache
def real_data() -> Splits:
    """Load CIFAR-10 from the user's cache, once."""
    return load_train_val(default_data_dir())


def data_to_train() -> Splits:
    """Return CIFAR-10 with a single validation image, for what is not about validation."""
    data = real_data()
    return replace(data, val=data.val.head(1))


def peak_gigabytes(usage: resource.struct_rusage | None = None) -> float:
    """Return the peak memory of the process that `usage` is of, or of this one, in GB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return (usage or resource.getrusage(resource.RUSAGE_SELF)).ru_maxrss * unit / 1e9


def seconds(action: Callable[[], object]) -> float:
    """Time one call of `action`."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


@contextlib.contextmanager
def without(*modules: ModuleType) -> Iterator[None]:
    """Context in which the algorithms of modules of `cifar_core.models` are never faster than torch's own."""

    def never(*_: object) -> bool:  # a Mock would keep the tensors of every call in memory
        return False

    with contextlib.ExitStack() as patches:
        for module in modules:
            patches.enter_context(mock.patch.object(module, "is_faster", never))
        yield
