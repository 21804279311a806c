"""Limits of cores and memory, read from copies of the kernel's files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from unittest.mock import Mock

import psutil
import pytest

from cifar_core import machine
from cifar_core.machine import free_memory, usable_cores

GIB = 2**30
MACHINE = 32 * GIB
VERSION_1 = "4:memory:/docker/4f\n3:cpu,cpuacct:/docker/4f\n1:name=systemd:/docker/4f"
UNLIMITED = 9_223_372_036_854_771_712  # of version 1


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the kernel's files, on a machine with 64 cores and 32 GiB."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)), raising=False)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: Mock(available=MACHINE))
    monkeypatch.setattr(machine, "_ROOT", tmp_path)
    return tmp_path


def write(root: Path, cgroup: str, files: Mapping[str, object]) -> None:
    """Write the cgroup of this process, and files below `sys/fs/cgroup`."""
    contents = {"proc/self/cgroup": cgroup, **{f"sys/fs/cgroup/{path}": content for path, content in files.items()}}
    for path, content in contents.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(f"{content}\n")


@pytest.mark.parametrize(
    ("cgroup", "files", "cores"),
    [
        ("0::/", {}, 64),
        ("0::/", {"cpu.max": "max 100000"}, 64),
        ("0::/", {"cpu.max": "400000 100000"}, 4),
        ("0::/", {"cpu.max": "250000 100000"}, 3),
        ("0::/", {"cpu.max": "5000 100000"}, 1),
        ("0::/", {"cpu.max": "12800000 100000"}, 64),
        ("0::/a.slice/b", {"a.slice/b/cpu.max": "max 100000", "a.slice/cpu.max": "200000 100000"}, 2),
        ("0::/../b", {"cpu.max": "200000 100000"}, 2),
        (VERSION_1, {"cpu,cpuacct/cpu.cfs_quota_us": 300_000, "cpu,cpuacct/cpu.cfs_period_us": 100_000}, 3),
        (VERSION_1, {"cpu,cpuacct/cpu.cfs_quota_us": -1, "cpu,cpuacct/cpu.cfs_period_us": 100_000}, 64),
        ("1:cpu:/x", {"cpu/x/cpu.cfs_quota_us": 50_000, "cpu/x/cpu.cfs_period_us": 25_000}, 2),
        ("2:cpuset:/\n1:cpuacct:/", {"cpuset/cpu.max": "100000 100000"}, 64),
    ],
)
def test_a_quota_limits_the_cores(root: Path, cgroup: str, files: Mapping[str, object], cores: int) -> None:
    write(root, cgroup, files)
    assert usable_cores() == cores


def test_the_affinity_limits_the_cores(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5})
    assert usable_cores() == 2
    write(root, "0::/", {"cpu.max": "400000 100000"})
    assert usable_cores() == 2


@pytest.mark.parametrize(
    ("cgroup", "files", "free"),
    [
        ("0::/", {}, MACHINE),
        ("0::/", {"memory.max": "max", "memory.current": GIB}, MACHINE),
        ("0::/", {"memory.max": 8 * GIB, "memory.current": 3 * GIB}, 5 * GIB),
        (
            "0::/",
            {"memory.max": 8 * GIB, "memory.current": 3 * GIB, "memory.stat": f"anon 5\ninactive_file {GIB}"},
            6 * GIB,
        ),
        ("0::/", {"memory.max": GIB, "memory.current": 2 * GIB}, 0),
        ("0::/a/b", {"a/memory.max": 2 * GIB, "a/memory.current": GIB, "a/b/memory.max": "max"}, GIB),
        (
            VERSION_1,
            {
                "memory/memory.limit_in_bytes": 4 * GIB,
                "memory/memory.usage_in_bytes": 2 * GIB,
                "memory/memory.stat": f"inactive_file 7\ntotal_inactive_file {GIB}",
            },
            3 * GIB,
        ),
        (VERSION_1, {"memory/memory.limit_in_bytes": UNLIMITED, "memory/memory.usage_in_bytes": GIB}, MACHINE),
    ],
)
def test_what_is_available_and_limits_of_cgroups(
    root: Path, cgroup: str, files: Mapping[str, object], free: int
) -> None:
    write(root, cgroup, files)
    assert free_memory() == free


def test_without_cgroups_the_memory_is_that_of_the_machine() -> None:
    assert free_memory() == MACHINE


def test_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert 1 <= usable_cores() <= len(os.sched_getaffinity(0))
    assert free_memory() > 0
