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


def usable_cores(root: Path = _ROOT) -> int:
    """Return the number of cores that this process may use, limited by its affinity and by CPU quotas of cgroups.

    A quota of 2.5 cores counts as 3, so that all of it is used.

    Args:
        root: folder that holds `proc` and `sys`.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *map(math.ceil, _quotas(root))]))


def free_memory(root: Path = _ROOT) -> int | None:
    """Return the bytes of memory that are free for this process, limited by cgroups; None if the system does not say.

    File caches count as free, because the kernel gives them up.

    Args:
        root: folder that holds `proc` and `sys`.
    """
    free = list(_free_in_cgroups(root))
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            free.append(1024 * int(line.split()[1]))
    if not free and root == _ROOT:  # a Mac, for example
        return psutil.virtual_memory().available
    return max(0, min(free)) if free else None


def _quotas(root: Path) -> Iterator[float]:
    """Yield the CPU quotas of this process, in cores."""
    for group in _cgroups(root, "cpu"):
        stated = _read(group / "cpu.max").split()  # version 2: "400000 100000", or "max 100000"
        stated = stated or [_read(group / f"cpu.cfs_{name}_us") for name in ("quota", "period")]  # version 1; -1: none
        try:
            quota, period = map(int, stated)
        except ValueError:
            continue
        if quota > 0 and period > 0:
            yield quota / period


def _free_in_cgroups(root: Path) -> Iterator[int]:
    """Yield the bytes that each memory limit of this process leaves free."""
    for group in _cgroups(root, "memory"):
        for limit, used, cached in _MEMORY_FILES:
            try:
                free = int(_read(group / limit)) - int(_read(group / used))
            except ValueError:  # no such file, or "max"
                continue
            statistics = dict(line.split() for line in _read(group / "memory.stat").splitlines())
            yield free + int(statistics.get(cached, 0))


def _cgroups(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of this process's cgroups for `controller`, and of all groups above: each may have a limit.

    A container may see the path of its cgroup as the host does, but only the folder that is its own: paths that do not
    exist are harmless.
    """
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / controllers  # version 2 has no name of controllers
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
