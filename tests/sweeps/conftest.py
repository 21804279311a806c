"""Databases with empty tables, which take seconds to create and so are copied; a scripted sweep; refused arguments."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest

from cifar_core.data import Splits, source
from cifar_core.evaluation import serving
from sweeps import run_study
from sweeps.executors import engine
from sweeps.store import Store
from sweeps.studies.storage import open_storage
from tests.conftest import Refused
from tests.sweeps.scripted import PRESET, SPACE, TRAIN_IMAGES, VAL_IMAGES, Study
from tests.sweeps.small_data import small_splits
from tests.sweeps.support import plan


@pytest.fixture(scope="session")
def empty_databases(tmp_path_factory: pytest.TempPathFactory, blank: Path) -> Path:
    store = Store.locate(tmp_path_factory.mktemp("empty") / "store")
    store.create()
    open_storage(store.storage_url)
    shutil.copyfile(blank, store.root / "mlflow.db")
    return store.root


@pytest.fixture(autouse=True)
def _short_timings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks that are tested in this process are timed for no longer than a few calls take, not for seconds."""
    monkeypatch.setattr(serving, "_SECONDS", 0.0)


@pytest.fixture
def empty_store(empty_databases: Path) -> Callable[[Path], Store]:
    """Makes a store in a folder that has none."""

    def make(folder: Path) -> Store:
        shutil.copytree(empty_databases, folder)
        return Store.locate(folder)

    return make


@pytest.fixture(scope="session")
def small_data() -> Splits:
    return small_splits(TRAIN_IMAGES, VAL_IMAGES)


@pytest.fixture
def sweep(tmp_path: Path, small_data: Splits) -> Study:
    small = plan(study="a study", trials=4, space=SPACE, preset=PRESET)
    return Study(tmp_path / "store", small_data, small)


@pytest.fixture
def untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arguments that cannot be must be found before data are fetched or workers started."""
    early = Mock(side_effect=AssertionError("this was to be refused before"))
    for module, name in ((source, "ensure_cifar10"), (source, "load_train_val"), (engine, "LocalExecutor")):
        monkeypatch.setattr(module, name, early)
    monkeypatch.setattr(engine, "measure_speed", lambda recipe, hardware, data_set: 1e12)


@pytest.fixture
def refused(refused: Refused, tmp_path: Path) -> Refused:
    """Runs arguments of a sweep that must be refused without a store; returns the line's message."""
    store = tmp_path / "store"

    def call(*arguments: str) -> str:
        existed = store.exists()
        message = refused(run_study.main, "--store", str(store), *arguments)
        assert store.exists() == existed, "nothing is written"
        return message

    return call
