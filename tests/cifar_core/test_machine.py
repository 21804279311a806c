"""Limits of cores and memory, read from copies of the kernel's files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from unittest.mock import Mock

import psutil
import pytest

from cifar_core.machine import free_memory, usable_cores

MEMINFO = "MemTotal:       65536000 kB\nMemFree:          123456 kB\nMemAvailable:   32768000 kB\n"
MACHINE = 32_768_000 * 1024
GIB = 2**30
VERSION_1 = "4:memory:/docker/4f\n3:cpu,cpuacct:/docker/4f\n1:name=systemd:/docker/4f"
UNLIMITED = 9_223_372_036_854_771_712  # of version 1


def tree(folder: Path, cgroup: str, files: Mapping[str, object]) -> Path:
    """A root folder with these files below `sys/fs/cgroup`."""
    contents: dict[str, object] = {"proc/meminfo": MEMINFO, "proc/self/cgroup": cgroup}
    contents |= {f"sys/fs/cgroup/{path}": content for path, content in files.items()}
    for path, content in contents.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(f"{content}\n")
    return folder


@pytest.fixture(autouse=True)
def many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)), raising=False)


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
def test_a_quota_limits_the_cores(tmp_path: Path, cgroup: str, files: Mapping[str, object], cores: int) -> None:
    assert usable_cores(tree(tmp_path, cgroup, files)) == cores


def test_the_affinity_limits_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5})
    assert usable_cores(tree(tmp_path, "0::/", {"cpu.max": "400000 100000"})) == 2
    assert usable_cores(tmp_path / "without") == 2


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
    tmp_path: Path, cgroup: str, files: Mapping[str, object], free: int
) -> None:
    assert free_memory(tree(tmp_path, cgroup, files)) == free


def test_a_system_that_does_not_say(tmp_path: Path) -> None:
    assert free_memory(tmp_path) is None


def test_a_mac_says_it_by_other_means(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", Mock(side_effect=FileNotFoundError))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: Mock(available=7 * GIB))
    assert free_memory() == 7 * GIB


def test_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert 1 <= usable_cores() <= len(os.sched_getaffinity(0))
    assert (free_memory() or 0) > 0
