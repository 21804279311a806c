"""The range test command on synthetic images: its output, figure and run in MLflow."""

from __future__ import annotations

import csv
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Run

from cifar_core.data import source
from cifar_core.errors import OutOfMemory, UserError
from cifar_core.lr_finder import RangeTest
from cifar_core.recipe import Recipe
from experiments import lr_find
from sweeps.lock import acquire
from sweeps.store import Store
from sweeps.tracking.tracker import MlflowTracker
from tests.conftest import Refused
from tests.experiments.fake_store import Fake
from tests.experiments.support import known
from tests.synthetic import synthetic_splits

RECIPE = Recipe(model="three_conv", width=0.25, batch_size=16, learning_rate="range-test")

pytestmark = pytest.mark.usefixtures("settings_of_this_process")


@pytest.fixture(autouse=True)
def small_data(monkeypatch: pytest.MonkeyPatch) -> None:
    data = synthetic_splits(torch.Generator().manual_seed(0), train=64, val=16)
    monkeypatch.setattr(source, "ensure_cifar10", lambda directory, progress: None)
    monkeypatch.setattr(source, "load_train_val", lambda directory: data)


@pytest.fixture
def store(tmp_path: Path, blank: Path) -> Store:
    (tmp_path / "mine.toml").write_text(RECIPE.to_toml())
    return Fake(tmp_path / "store", blank).place


def command(store: Store, *arguments: str) -> list[str]:
    return [str(store.root.with_name("mine.toml")), "--store", str(store.root), "--device", "cpu", *arguments]


def call(store: Store, *arguments: str) -> int:
    return lr_find.main(command(store, *arguments))


def runs(store: Store) -> dict[str, Run]:
    """The runs in MLflow by their stage."""
    client = MlflowClient(store.tracking_uri)
    found = client.search_runs([known(client.get_experiment_by_name("range-tests")).experiment_id])
    return {run.data.tags["stage"]: run for run in found}


def states(store: Store) -> tuple[str, str]:
    """State of the range test, and of its parent run."""
    found = runs(store)
    return found["range-test"].data.tags["state"], found["range-tests"].data.tags["state"]


@pytest.mark.slow
def test_a_suggestion_its_curve_and_a_run(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(store, "--steps", "100", "--low", "1e-3") == 0
    said = capsys.readouterr()
    *plan, suggested, curve = said.out.splitlines()
    assert said.err == ""
    assert [line.split()[0] for line in plan] == ["recipe", "range", "device"]
    assert plan[1].endswith("100 steps from 0.001 to 10")
    picture = store.root / "reports" / "range-tests" / "mine.html"
    assert curve == f"curve: {picture}"
    assert "suggested: " in picture.read_text()

    found = runs(store)
    assert states(store) == ("complete", "finished")
    run = found["range-test"]
    assert run.info.run_name == "range test of mine"
    assert run.data.tags["mlflow.parentRunId"] == found["range-tests"].info.run_id
    params = {"model": "three_conv", "low": "0.001", "high": "10.0", "steps": "100", "learning_rate": "range-test"}
    assert run.data.params.items() >= params.items()
    suggestion = run.data.metrics["range_test/suggestion"]
    assert suggested == f"suggested learning rate: {suggestion:.3g}"
    folder = Path(run.info.artifact_uri.removeprefix("file://"))
    with (folder / "range_test" / "curve.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert 20 < len(rows) <= 100
    assert float(rows[0]["learning_rate"]) == pytest.approx(1e-3)
    assert suggestion in [float(row["learning_rate"]) for row in rows]
    assert all(float(row["smoothed_loss_nats"]) > 0 for row in rows)
    assert (folder / "range_test" / "curve.html").read_bytes() == picture.read_bytes()
    assert Recipe.from_toml((folder / "recipe.toml").read_text()) == RECIPE


def test_entries_that_mlflow_lacks(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lr_find, "range_test", lambda *_, **__: RangeTest((0.01, 0.1, 1.0), (2.3, 2.0, 2.5), 0.1))
    close = MlflowTracker.close
    monkeypatch.setattr(MlflowTracker, "close", lambda tracker, at_once: close(tracker) + 1)
    assert call(store) == 1
    kept = f"kept in {store.queues('range-tests')}"
    said = f"MLflow lacks 1 entry, {kept}; once it answers, the next range test sends them"
    assert said in capsys.readouterr().out.splitlines()


def test_a_figure_that_cannot_be_written(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lr_find, "range_test", lambda *_, **__: RangeTest((0.01, 0.1, 1.0), (2.3, 2.0, 2.5), 0.1))
    (store.root / "reports").write_text("mine")
    assert call(store) == 2
    said = capsys.readouterr()
    assert said.out.endswith("suggested learning rate: 0.1\n")
    assert said.err.startswith(f"lr_find.py: error: the store {store.root} must be a folder to write to, but: ")


def raising(error: BaseException) -> Callable[..., Any]:
    def instead(*_: object, **__: object) -> None:
        raise error

    return instead


@pytest.mark.parametrize("error", [UserError, OutOfMemory])
def test_no_rate_is_one_line_and_a_failed_run(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: type[UserError]
) -> None:
    reason = "a range test must see the loss fall by more than its noise after 10 steps, but from 0.01 to 10 it did not"
    monkeypatch.setattr(lr_find, "range_test", raising(error(reason)))
    assert call(store) == 2
    assert capsys.readouterr().err == f"lr_find.py: error: {reason}\n"
    assert states(store) == ("failed", "failed")
    assert runs(store)["range-test"].data.tags["reason"] == reason


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_stops_it(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    def stopped(*_: object, **__: object) -> None:
        os.kill(os.getpid(), number)
        time.sleep(5)

    close = MlflowTracker.close
    monkeypatch.setattr(MlflowTracker, "close", lambda tracker, at_once: close(tracker, at_once=at_once) + 2 * at_once)
    monkeypatch.setattr(lr_find, "range_test", stopped)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore it for background jobs
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup ignores it
    assert call(store) == 128 + number
    said = capsys.readouterr()
    assert said.out.splitlines()[-1].startswith("MLflow lacks 2 entries, kept in ")
    assert said.err == "stopped; nothing was suggested\n"
    assert states(store) == ("interrupted", "interrupted")


def test_another_range_test_in_the_store(store: Store, refused: Refused) -> None:
    with acquire(store.lock("range-tests"), "range-tests"):
        said = refused(lr_find.main, *command(store))
    assert said.startswith(f"study 'range-tests' is being run by process {os.getpid()} on ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("five_kon", "unknown recipe 'five_kon': did you mean 'five_conv'?"),
        ("five_conv --low 1 --high 1", "`--low < --high` must hold, but got 1 and 1"),
        ("five_conv --low 0", "argument --low: must be a number above 0, but got '0'"),
        ("five_conv --high inf", "argument --high: must be a number above 0, but got 'inf'"),
        ("five_conv --steps 99", "argument --steps: must be a whole number of at least 100, but got '99'"),
    ],
)
def test_wrong_arguments_get_one_line(tmp_path: Path, refused: Refused, arguments: str, message: str) -> None:
    assert refused(lr_find.main, *arguments.split(), "--store", str(tmp_path / "store")) == message
    assert list(tmp_path.iterdir()) == [], "nothing is written"


def test_as_few_steps_as_it_takes(store: Store) -> None:
    call(store, "--steps", "100", "--low", "1e-4", "--high", "1e-2")  # it may fail to find a rate
    assert "must take" not in runs(store)["range-test"].data.tags.get("reason", "")
