"""Databases with empty tables, which take seconds to create: made once, and copied."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from sweeps.store import Store
from sweeps.study import open_storage


@pytest.fixture(scope="session")
def empty_databases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = Store.locate(tmp_path_factory.mktemp("empty") / "store")
    store.create()
    open_storage(store.storage_url)
    MlflowClient(store.tracking_uri).search_experiments()
    return store.root


@pytest.fixture
def empty_store(empty_databases: Path) -> Callable[[Path], Store]:
    """Makes a store in a folder that has none."""

    def make(folder: Path) -> Store:
        shutil.copytree(empty_databases, folder)
        return Store.locate(folder)

    return make
