"""A real MLflow server that is killed, frozen and started again while a run is recorded."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from mlflow import MlflowClient

from sweeps.store import Store
from sweeps.tracking.mlflow_queue import waiting
from sweeps.tracking.tracker import MlflowTracker, RunLabel
from tests.sweeps.support import STUDY, outcome, point

TRIAL = RunLabel(key="trial-0", name="t", tags={"stage": "search"}, params={"model": "five_conv"}, files={"r": b"r"})


@dataclass
class Server:
    folder: Path
    port: int = 0
    process: subprocess.Popen[bytes] | None = None
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        where = ["--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db", "--port", str(self.port)]
        where += ["--artifacts-destination", str(self.folder / "artifacts"), "--workers", "1"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *where],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
        )
        for _ in range(600):
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=1):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        raise AssertionError("the server must answer within a minute")

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        os.killpg(self.process.pid, number)
        if number == signal.SIGKILL:
            self.process.wait()

    def steps(self, key: str) -> list[int]:
        client = MlflowClient(self.uri)
        experiment = client.get_experiment_by_name("s")
        assert experiment is not None
        [run] = client.search_runs([experiment.experiment_id], f"tags.key = '{key}'")
        return [metric.step for metric in client.get_metric_history(run.info.run_id, "train/loss")]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    server = Server(tmp_path)
    server.start()
    yield server
    server.signal(signal.SIGKILL)


@pytest.mark.end_to_end
@pytest.mark.timeout(240)
def test_an_outage_holds_nothing_up_and_loses_and_doubles_nothing(server: Server, tmp_path: Path) -> None:
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
    server.signal(signal.SIGKILL)
    tell(range(31, 36))
    assert tracker.close(1) > 0, "still gone at the end: the queue keeps the rest"
    assert any(line.startswith("MLflow does not answer (") for line in said)
    assert waiting(store.queues("s")) > 0

    server.start()
    tracker = MlflowTracker(store, "s", say=said.append)
    tracker.open_study(STUDY)
    tracker.begin(TRIAL)
    tell(range(31, 41))  # an attempt that resumes from a checkpoint repeats some
    tracker.end(TRIAL.key, "complete", outcome=outcome(0.8, files={"confusion.json": b"{}"}))
    assert tracker.close(60) == 0
    assert waiting(store.queues("s")) == 0
    assert server.steps(TRIAL.key) == list(range(1, 41))
    assert longest < 1, "nothing waits for the server"
