"""The champion as it is served: its answers, no code from the store, and which files are refused."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow.exceptions import MlflowException

from experiments.serving.network import load
from sweeps.store import Store, StoreError
from sweeps.tracking.registry import champion_uri
from tests.champions import finish

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
WEIGHTS = "data/weights/model_weights_config.json"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, blank: Path) -> Iterator[Store]:
    """A store with a champion, where MLflow looks for it."""
    store = Store.locate(tmp_path_factory.mktemp("network") / "a store")
    store.create()
    shutil.copyfile(blank, store.root / "mlflow.db")
    finish(store, "a study", 0.8)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(store.tracking_uri)
    yield store
    mlflow.set_tracking_uri(before)


@pytest.fixture
def kept(store: Store) -> Iterator[Path]:
    """The folder of the model in the store, which is put back afterwards."""
    [folder] = store.root.glob("artifacts/*/models/m-*/artifacts")
    shutil.copytree(folder, store.root / "before")
    yield folder
    shutil.rmtree(folder)
    (store.root / "before").rename(folder)


def rewrite(archive: Path, changes: Mapping[str, bytes]) -> None:
    """Change or add entries of network.pt2."""
    with zipfile.ZipFile(archive) as old:
        entries = {name: old.read(name) for name in old.namelist()}
    prefix = next(iter(entries)).partition("/")[0]
    with zipfile.ZipFile(archive, "w") as new:
        for name, content in (entries | {f"{prefix}/{name}": content for name, content in changes.items()}).items():
            new.writestr(name, content)


def test_it_answers_as_with_mlflow_alone(store: Store, tmp_path: Path) -> None:
    served, mlflows = load("cifar10", tmp_path), mlflow.pyfunc.load_model(champion_uri("cifar10"))
    assert served.predict(IMAGES) == mlflows.predict(IMAGES)
    with pytest.raises(MlflowException, match=r"Shape of input \(3, 32, 3, 32\) does not match expected shape"):
        served.predict(IMAGES.swapaxes(2, 3))


def test_code_from_the_store_does_not_run(kept: Path, tmp_path: Path) -> None:
    (kept / "served_model.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    described = (kept / "MLmodel").read_text()
    (kept / "MLmodel").write_text(described.replace("mlflow.pyfunc.loaders.code_model", "served_model"))
    assert len(load("cifar10", tmp_path).predict(IMAGES)) == 3
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("entry", ["data/constants/opaque_obj_0", "data/weights/model.pt", "data/aotinductor/m/m.so"])
def test_a_network_with_other_entries_is_refused(kept: Path, tmp_path: Path, entry: str) -> None:
    rewrite(kept / "artifacts" / "network.pt2", {entry: b"anything"})
    with pytest.raises(StoreError, match=r"without pickles or compiled code, but that of cifar10 holds more or is dam"):
        load("cifar10", tmp_path)


def test_a_network_with_a_pickled_weight_is_refused(kept: Path, tmp_path: Path) -> None:
    network = kept / "artifacts" / "network.pt2"
    with zipfile.ZipFile(network) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(WEIGHTS)]
        config = json.loads(archive.read(name))
    next(iter(config["config"].values()))["use_pickle"] = True
    rewrite(network, {WEIGHTS: json.dumps(config).encode()})
    with pytest.raises(StoreError, match="without pickles"):
        load("cifar10", tmp_path)


@pytest.mark.parametrize("content", [b"cos\nsystem\n(S'true'\ntR.", b""])
def test_a_network_with_another_example_than_tensors_is_refused(kept: Path, tmp_path: Path, content: bytes) -> None:
    rewrite(kept / "artifacts" / "network.pt2", {"data/sample_inputs/model.pt": content})
    with pytest.raises(StoreError, match="without pickles"):
        load("cifar10", tmp_path)


def test_a_model_that_is_no_network_is_refused(kept: Path, tmp_path: Path) -> None:
    (kept / "artifacts" / "network.pt2").unlink()
    with pytest.raises(StoreError, match="must be a network of a study, but that of cifar10 has no artifacts/network"):
        load("cifar10", tmp_path)
