"""A real MLflow server that is killed, frozen and started again while a run is recorded."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sweeps.store import Store
from sweeps.tracking.mlflow_client import connect, runs_of
from sweeps.tracking.mlflow_queue import queued
from sweeps.tracking.tracker import MlflowTracker, RunLabel
from tests.sweeps.support import STUDY, outcome, point
from tests.torture.server import MlflowServer

TRIAL = RunLabel(key="trial-0", name="t", tags={"stage": "search"}, params={"model": "five_conv"}, files={"r": b"r"})

TIMEOUT = 5  # seconds that a request to a frozen server takes; a busy disk took one for an entry


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MlflowServer]:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", str(TIMEOUT))
    server = MlflowServer(tmp_path)
    server.start()
    yield server
    server.kill()


@pytest.mark.long
@pytest.mark.timeout(240)
def test_an_outage_holds_nothing_up_and_loses_and_doubles_nothing(
    server: MlflowServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store = Store.locate(tmp_path / "store", tracking_uri=server.uri)
    said: list[str] = []
    tracker = MlflowTracker(store, "s", say=said.append)
    tracker.open_study(STUDY)
    tracker.begin(TRIAL)
    longest = 0.0

    def tell(steps: range) -> None:
        nonlocal longest
        for step in steps:
            started = time.monotonic()
            tracker.point(TRIAL.key, point(step, 0.5 if step % 10 == 0 else None, steps=40))
            longest = max(longest, time.monotonic() - started)

    tell(range(1, 11))
    server.signal(signal.SIGSTOP)  # frozen: it takes connections, and never answers
    tell(range(11, 21))
    time.sleep(1)
    server.signal(signal.SIGCONT)
    tell(range(21, 31))
    server.kill()
    tell(range(31, 36))
    assert tracker.close(1) > 0, "still gone at the end: the queue keeps the rest"
    assert any(line.startswith("MLflow does not answer (") for line in said)
    assert queued(store.queues("s")) > 0

    server.start()
    tracker = MlflowTracker(store, "s", say=said.append)
    tracker.open_study(STUDY)
    tracker.begin(TRIAL)
    tell(range(31, 41))  # an attempt that resumes from a checkpoint repeats some
    tracker.end(TRIAL.key, "complete", outcome=outcome(0.8, files={"confusion.json": b"{}"}))
    assert tracker.close(60) == 0
    assert queued(store.queues("s")) == 0
    assert "View run" not in capfd.readouterr().out, "MLflow prints nothing of its own"
    client = connect(server.uri)
    [run] = [run for run in runs_of(client, "s") if run.data.tags["key"] == TRIAL.key]
    assert [point.step for point in client.get_metric_history(run.info.run_id, "train/loss")] == list(range(1, 41))
    assert longest < TIMEOUT / 2, "nothing waits for the server"
