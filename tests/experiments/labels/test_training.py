"""Training the runs of a label curve: what it shows meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from cifar_core.recipe import Recipe
from experiments.labels import training
from experiments.labels.plan import BuildRun
from experiments.labels.training import CurveContext, train_all
from experiments.reading.study import BUILD
from sweeps.console import SweepConsole
from sweeps.executors.protocol import Diverged, Failed, Progressed, TrainJob
from sweeps.executors.worker import Channel
from sweeps.store import Store
from tests.sweeps.support import point
from tests.synthetic import synthetic_splits


@pytest.mark.parametrize(
    ("flops", "shown"),
    [
        (1e14, ("50 of 200 TFLOP", "150 of 200 TFLOP", "200 of 200 TFLOP")),
        (2e11, ("0.1 of 0.4 TFLOP", "0.3 of 0.4 TFLOP", "0.4 of 0.4 TFLOP")),
    ],
)
def test_the_time_left_is_that_of_all_runs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flops: float,
    shown: Sequence[str],
) -> None:
    def half(job: TrainJob, data: object, load_test: object, hardware: object, channel: Channel) -> None:
        channel.send(Progressed(job.key, replace(point(4), train_seconds=100.0, validation_seconds=20.0)))
        if "0-x" in job.key:
            channel.send(Failed(job.key, "no room", ""))
        else:
            channel.send(Progressed(job.key, point(8)))
            channel.send(Diverged(job.key, "the loss is nan"))

    monkeypatch.setattr(training, "run_job", half)
    ticks = iter(range(0, 100, 10))
    context = CurveContext(
        experiment="labels/s",
        data=synthetic_splits(torch.Generator().manual_seed(0), train=20, val=20),
        hardware=Mock(),
        store=Store.locate(tmp_path),
        tracker=Mock(),
        console=SweepConsole(clock=lambda: next(ticks)),
        tags={},
        stop=lambda: False,
    )
    runs = [BuildRun(way=BUILD, labels=10, seed=n, digest="x", recipe=Recipe(), flops=flops) for n in range(2)]
    assert train_all(runs, context) == 1, "of the run that failed"
    assert capsys.readouterr().out.splitlines() == [
        f"training: 25 %, {shown[0]}, about 6 min left",
        "10 labels/0: no room",
        f"training: 75 %, {shown[1]}, about 2 min left",
        f"training: 100 %, {shown[2]}",
        "10 labels/1: the loss is nan",
    ]
