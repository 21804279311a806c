"""Cores and memory that this process may use: those of the machine, or of the container that it runs in."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import psutil

_ROOT = Path("/")
_MEMORY_FILES = (
    ("memory.max", "memory.current", "inactive_file"),  # cgroups of version 2
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),  # version 1
)


def usable_cores() -> int:
    """Return the number of cores that this process may use, limited by its affinity and by CPU quotas of cgroups.

    A quota of 2.5 cores counts as 3, so that all of it is used.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *map(math.ceil, _quotas())]))


def free_memory() -> int:
    """Return the bytes of memory that are free for this process, limited by cgroups.

    File caches count as free, because the kernel gives them up.
    """
    return max(0, min([psutil.virtual_memory().available, *_free_in_cgroups()]))


def _quotas() -> Iterator[float]:
    """Yield the CPU quotas of this process, in cores."""
    for group in _cgroups("cpu"):
        stated = _read(group / "cpu.max").split()  # version 2: "400000 100000", or "max 100000"
        stated = stated or [_read(group / f"cpu.cfs_{name}_us") for name in ("quota", "period")]  # version 1; -1: none
        try:
            quota, period = map(int, stated)
        except ValueError:
            continue
        if quota > 0 and period > 0:
            yield quota / period


def _free_in_cgroups() -> Iterator[int]:
    """Yield the bytes that each memory limit of this process leaves free."""
    for group in _cgroups("memory"):
        for limit, used, cached in _MEMORY_FILES:
            try:
                free = int(_read(group / limit)) - int(_read(group / used))
            except ValueError:  # no such file, or "max"
                continue
            statistics = dict(line.split() for line in _read(group / "memory.stat").splitlines())
            yield free + int(statistics.get(cached, 0))


def _cgroups(controller: str) -> Iterator[Path]:
    """Yield the folders of this process's cgroups for `controller`, and of all groups above: each may have a limit.

    A container may see the path of its cgroup as the host does, but only the folder that is its own: paths that do not
    exist are harmless.
    """
    for line in _read(_ROOT / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mount = _ROOT / "sys/fs/cgroup" / controllers  # version 2 has no name of controllers
        group = mount / path.lstrip("/")
        yield group
        while group != mount and mount in group.parents:
            group = group.parent
            yield group


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
