"""Default number of workers, and numbers that the machine cannot run."""

from __future__ import annotations

import pytest
import torch

from sweeps.planning.workers import share_cores
from tests.cifar_core.support import refusal

CPU = torch.device("cpu")
GB = 10**9


@pytest.mark.parametrize(
    ("wanted", "cores", "memory", "side", "shared"),
    [
        (None, 4, 64 * GB, 32, (4, 1)),
        (None, 64, 40 * GB, 32, (9, 7)),
        (None, 2, 24 * GB, 32, (2, 1)),
        (None, 2, 24 * GB, 48, (2, 1)),
        (None, 2, 24 * GB, 64, (1, 2)),
        (None, 4, 64 * GB, 64, (3, 1)),
        (None, 2, 8 * GB, 32, (1, 2)),
        (None, 2, GB // 2, 32, (1, 2)),  # it may just fit
        (1, 4, 64 * GB, 32, (1, 4)),
        (3, 4, 64 * GB, 32, (3, 1)),
        (8, 2, 24 * GB, 64, (8, 1)),
        (1, 2, GB // 2, 32, (1, 2)),
    ],
)
def test_cores_and_memory_are_shared_out(
    wanted: int | None, cores: int, memory: int, side: int, shared: tuple[int, int]
) -> None:
    assert share_cores(wanted, CPU, cores, memory, side, 50) == shared


@pytest.mark.parametrize(
    ("wanted", "cores", "most", "shared"),
    [(None, 64, 8, (8, 8)), (None, 64, 3, (3, 21)), (None, 2, 8, (2, 1)), (None, 2, 2, (2, 1)), (64, 64, 8, (8, 8))],
)
def test_cores_are_not_idle_where_there_are_fewer_runs(
    wanted: int | None, cores: int, most: int, shared: tuple[int, int]
) -> None:
    assert share_cores(wanted, CPU, cores, 600 * GB, 32, most) == shared


def test_one_worker_for_each_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert share_cores(None, torch.device("cuda"), 16, 24 * GB, 64, 50) == (4, 4)
    assert share_cores(None, torch.device("mps"), 8, 24 * GB, 32, 50) == (1, 8)


@pytest.mark.parametrize(
    ("wanted", "cores", "memory", "most"),
    [
        (100_000, 1, 64 * GB, "8 on a machine with 1 core (8 workers each)"),
        (100_000, 2, 64 * GB, "16 on a machine with 2 cores (8 workers each)"),
        (9, 64, 7 * GB, "8 on a machine with 7.0 GB of free memory (0.7 GB a worker)"),
        (2, 2, 0, "1 on a machine with 0.0 GB of free memory (0.7 GB a worker)"),
    ],
)
def test_too_many_are_refused_with_the_cause(wanted: int, cores: int, memory: int, most: str) -> None:
    said = refusal(lambda: share_cores(wanted, CPU, cores, memory, 32, 50))
    assert said == f"--workers must be at most {most}, but got {wanted}"
