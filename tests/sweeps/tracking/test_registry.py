"""Champions in the model registry: what a version takes and returns, which one the alias names, moved stores."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import mlflow
import numpy as np
import optuna
import pytest
import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from optuna.trial import create_trial
from PIL import Image

import sweeps
from cifar_core.data import Split
from cifar_core.data.data_set import CIFAR10
from cifar_core.data.image_file import read_image
from cifar_core.training import predict
from sweeps.checks.commands import repair_store
from sweeps.checks.verify import findings
from sweeps.store import Store
from sweeps.tracking import registry, served_model
from sweeps.tracking.locations import follow_store
from sweeps.tracking.mlflow_queue import Entry
from sweeps.tracking.registry import CLASSIFIER, champion_uri, champions, log_classifier, register
from sweeps.tracking.tracker import MlflowTracker
from tests.champions import KEY, RECIPE, finish, numbers
from tests.sweeps.small_data import CPU
from tests.sweeps.support import write_queue

IMAGES = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

NAME = "cifar10"
GUIDE = Path(__file__).parents[3].joinpath("docs", "serving.md").read_text(encoding="utf-8")

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Place:
    store: Store
    probabilities: torch.Tensor  # of IMAGES, by the network that the better study trained

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.store.tracking_uri)

    def loaded(self) -> Any:
        mlflow.set_tracking_uri(self.store.tracking_uri)
        return mlflow.pyfunc.load_model(champion_uri(NAME))


@pytest.fixture(scope="module", autouse=True)
def _tracking_uri() -> Iterator[None]:
    before = mlflow.get_tracking_uri()
    yield
    mlflow.set_tracking_uri(before)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, empty_databases: Path) -> Place:
    """A store with the champions of two studies, of which the first is better."""
    root = tmp_path_factory.mktemp("registry") / "a store"
    shutil.copytree(empty_databases, root)
    store = Store.locate(root)
    states = [finish(store, name, accuracy) for name, accuracy in (("better", 0.9), ("worse study", 0.8))]
    split = Split(IMAGES, torch.zeros(len(IMAGES), dtype=torch.long))
    return Place(store, predict(states[0].model, split, CPU, RECIPE.normalisation).probabilities)


@pytest.fixture(scope="module")
def model(place: Place) -> Any:
    return place.loaded()


def test_a_version_takes_pixels_and_returns_classes_and_probabilities(place: Place, model: Any) -> None:
    pixels = np.ascontiguousarray(IMAGES.permute(0, 2, 3, 1))
    pixels.setflags(write=False)  # as Pillow gives them
    for answers in (model.predict(pixels), [model.predict(pixels[i : i + 1])[0] for i in range(5)]):
        shares = torch.tensor([[answer["probabilities"][name] for name in CIFAR10.classes] for answer in answers])
        torch.testing.assert_close(shares, place.probabilities, atol=1e-5, rtol=1e-4)
        labels = [CIFAR10.classes.index(answer["class"]) for answer in answers]
        assert labels == place.probabilities.argmax(1).tolist()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (IMAGES.numpy(), r"Shape of input \(5, 3, 32, 32\) does not match expected shape \(-1, 32, 32, 3\)"),
        (np.zeros((1, 32, 32, 3), np.float32), "dtype of input float32 does not match expected dtype uint8"),
    ],
)
def test_other_input_is_refused(model: Any, wrong: Any, said: str) -> None:
    with pytest.raises(MlflowException, match=said):
        model.predict(wrong)


def test_a_model_needs_nothing_of_ours_and_holds_no_pickle(place: Place) -> None:
    imported = re.findall(r"^ *(?:from|import) (\w+)", Path(served_model.__file__).read_text(), re.MULTILINE)
    assert set(imported) == {"collections", "typing", "numpy", "torch", "mlflow", "onnxruntime"}
    files = [path for path in place.store.root.glob("artifacts/*/models/**/*") if path.is_file()]
    assert not [path for path in files if path.suffix in (".pkl", ".pickle", ".pth", ".pt")]
    for path in (path for path in files if path.suffix == ".pt2"):
        with zipfile.ZipFile(path) as archive:
            assert not [name for name in archive.namelist() if name.endswith((".pkl", ".pickle"))]
    needed = next(path for path in files if path.name == "requirements.txt").read_text().split()
    assert [line.partition("==")[0] for line in needed] == ["mlflow", "torch"]


def test_the_alias_names_the_best_study_and_not_the_last(place: Place) -> None:
    [found] = champions(place.client)
    assert found.tags == numbers("better", 0.9)
    assert str(found.description).startswith(
        "trial 3 of study better, fast_resnet; 79.00 % of the test images; 90.00 % of the vali"
    )
    run = place.client.get_run(str(found.run_id))
    assert (run.data.tags["key"], run.info.status) == (KEY, "FINISHED")


def test_registering_again_changes_nothing(place: Place) -> None:
    """As after a crash: everything that the queue held is sent again."""
    for study, accuracy in (("better", 0.9), ("worse study", 0.8)):
        weights = str(place.store.weights(study, KEY))
        entry = Entry(key=KEY, at=1, weights=weights, registered=numbers(study, accuracy))
        write_queue(place.store.queues(study) / "1.jsonl", entry)
        tracker = MlflowTracker(place.store, study)
        tracker.open()
        assert tracker.close() == 0
    versions = place.client.search_model_versions(f"name = '{NAME}'")
    assert {str(version.version): version.tags["study"] for version in versions} == {"1": "better", "2": "worse study"}


def test_attempts_that_were_cut_short_are_deleted(place: Place, tmp_path: Path) -> None:
    shutil.copytree(place.store.root, tmp_path / "moved")
    store = Store.locate(tmp_path / "moved")
    follow_store(store)
    client = MlflowClient(store.tracking_uri)
    run = client.get_run(str(champions(client)[0].run_id)).info
    [ready] = client.search_logged_models([run.experiment_id])
    client.delete_logged_model(ready.model_id)
    client.create_logged_model(run.experiment_id, name=CLASSIFIER, source_run_id=run.run_id)
    other = client.create_logged_model(run.experiment_id, name="other", source_run_id=run.run_id)
    logged = log_classifier(store.tracking_uri, run.run_id, store.weights("better", KEY))
    left = {model.model_id for model in client.search_logged_models([run.experiment_id])}
    assert left == {logged.model_id, other.model_id}
    assert client.get_run(run.run_id).info.end_time == run.end_time


def test_a_moved_store_serves_its_own_files(place: Place, tmp_path: Path) -> None:
    shutil.copytree(place.store.root, tmp_path / "moved")
    moved = replace(place, store=Store.locate(tmp_path / "moved"))
    assert follow_store(moved.store) == [place.store.root]
    [found] = champions(moved.client)
    location = moved.client.get_model_version_download_uri(NAME, found.version)
    assert location.startswith(f"{(moved.store.root / 'artifacts' / 'better' / 'models').as_uri()}/m-")
    assert len(moved.loaded().predict(np.zeros((1, 32, 32, 3), np.uint8))) == 1


def test_a_repair_serves_the_champion_again_whose_files_are_lost(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(place.store.root, tmp_path / "moved")
    moved = replace(place, store=Store.locate(tmp_path / "moved"))
    follow_store(moved.store)
    optuna.create_study(study_name="better", storage=moved.store.storage_url).add_trial(create_trial(value=0.5))
    [folder] = moved.store.root.glob("artifacts/better/models/m-*")
    shutil.rmtree(folder)
    repair_store(moved.store, "better")
    assert f"done: log the network of {KEY} again" in capsys.readouterr().out.splitlines()
    assert not [finding for finding in findings(moved.store, "better") if "network" in finding.text]
    [found] = champions(moved.client)
    assert found.tags == numbers("better", 0.9)
    assert len(moved.loaded().predict(np.zeros((1, 32, 32, 3), np.uint8))) == 1
    moved.client.set_registered_model_alias(NAME, "champion", "1")
    assert [finding.text for finding in findings(moved.store, "better") if "network" in finding.text] == [
        f"{KEY}: MLflow must hold its network {folder.name}, but it was deleted"
    ]


def test_a_study_that_finds_a_better_champion_moves_the_alias(place: Place, tmp_path: Path) -> None:
    shutil.copytree(place.store.root, tmp_path / "moved")
    uri = Store.locate(tmp_path / "moved").tracking_uri
    client = MlflowClient(uri)
    [before] = champions(client)
    run = client.get_run(str(before.run_id))
    changes = (("third", 0.9, "better"), ("third", 0.95, "third"), ("third", 0.7, "better"))  # the first: a tie
    for study, accuracy, champion in changes:
        model = client.create_logged_model(run.info.experiment_id, name="any", source_run_id=run.info.run_id)
        register(uri, run.info.run_id, model, numbers(study, accuracy))
        [found] = champions(client)
        assert found.tags["study"] == champion


def test_of_two_studies_that_register_at_once_the_alias_names_the_better(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(place.store.root, tmp_path / "moved")
    uri = Store.locate(tmp_path / "moved").tracking_uri
    client = MlflowClient(uri)
    run = client.get_run(str(champions(client)[0].run_id)).info
    one, other = (client.create_logged_model(run.experiment_id, name=name, source_run_id=run.run_id) for name in "ab")
    set_alias = MlflowClient.set_registered_model_alias

    def set_late(*arguments: Any) -> None:
        monkeypatch.undo()
        register(uri, run.run_id, other, numbers("fourth", 0.97))
        set_alias(*arguments)

    monkeypatch.setattr(MlflowClient, "set_registered_model_alias", set_late)
    register(uri, run.run_id, one, numbers("third", 0.95))
    assert champions(client)[0].tags["study"] == "fourth"


def test_a_study_that_returns_to_an_earlier_champion_moves_the_alias_back(place: Place, tmp_path: Path) -> None:
    shutil.copytree(place.store.root, tmp_path / "moved")
    uri = Store.locate(tmp_path / "moved").tracking_uri
    client = MlflowClient(uri)
    run = client.get_run(str(champions(client)[0].run_id)).info
    one, other = (client.create_logged_model(run.experiment_id, name=name, source_run_id=run.run_id) for name in "ab")
    for model, accuracy in ((one, 0.95), (other, 0.97), (one, 0.95)):
        register(uri, run.run_id, model, numbers("third", accuracy))
    assert champions(client)[0].source == one.model_uri


def test_other_data_have_models_of_their_own(place: Place, tmp_path: Path) -> None:
    shutil.copytree(place.store.root, tmp_path / "store")
    store = Store.locate(tmp_path / "store")
    for study, accuracy, sha256 in (("small", 0.99, "1a2b3c4d" * 8), ("large", 0.98, "5e6f7a8b" * 8)):
        finish(store, study, accuracy, data={"data": "CIFAR-10", "data_sha256": sha256})
    found = {version.name: version.tags["study"] for version in champions(MlflowClient(store.tracking_uri))}
    assert found == {"cifar10": "better", "cifar10-1a2b3c4d": "small", "cifar10-5e6f7a8b": "large"}


def test_a_champion_is_registered_in_its_store_whatever_the_environment_says(
    empty_store: Callable[[Path], Store], tmp_path: Path, blank: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = empty_store(tmp_path / "store"), f"sqlite:///{tmp_path}/other.db"
    shutil.copyfile(blank, tmp_path / "other.db")
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", other)
    importlib.reload(sweeps)
    finish(store, "mine", 0.9)
    assert [version.tags["study"] for version in champions(MlflowClient(store.tracking_uri))] == ["mine"]
    assert champions(MlflowClient(other, other)) == []
    loaded = Place(store, torch.empty(0)).loaded()
    assert len(loaded.predict(np.zeros((1, 32, 32, 3), np.uint8))) == 1


def test_a_folder_that_was_renamed_keeps_its_better_champion(place: Place, tmp_path: Path) -> None:
    shutil.copytree(place.store.root, tmp_path / "moved")
    uri = Store.locate(tmp_path / "moved").tracking_uri
    client = MlflowClient(uri)
    run = client.get_run(str(champions(client)[0].run_id)).info
    client.set_tag(run.run_id, "data_sha256", "1a2b3c4d" * 8)
    for data, accuracy in (("My Photos", 0.9), ("my-photos", 0.8)):
        model = client.create_logged_model(run.experiment_id, name="any", source_run_id=run.run_id)
        register(uri, run.run_id, model, numbers(data, accuracy) | {"data": data})
    assert client.get_model_version_by_alias("myphotos-1a2b3c4d", "champion").tags["study"] == "My Photos"


def test_a_registry_of_many_models_is_read_to_its_end(empty_store: Callable[[Path], Store], tmp_path: Path) -> None:
    client = MlflowClient(empty_store(tmp_path / "store").tracking_uri)
    for number in range(101):  # MLflow gives 100 at once
        client.create_registered_model(f"{number:03}")
    client.create_model_version("100", "file:///nowhere")
    client.set_registered_model_alias("100", "champion", "1")
    assert [version.name for version in champions(client)] == ["100"]


def test_without_a_champion(empty_databases: Path) -> None:
    assert champions(MlflowClient(Store.locate(empty_databases).tracking_uri)) == []


@pytest.fixture
def picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`picture.jpg`, which lies on its side, in the working directory; returns the pixels that training sees."""
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    ramp = np.linspace(0, 255, 120)
    pixels = np.stack([np.tile(ramp, (80, 1)), np.full((80, 120), 90), np.tile(ramp[:80, None], (1, 120))], axis=2)
    Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "picture.jpg", exif=exif)
    monkeypatch.chdir(tmp_path)
    return read_image(tmp_path / "picture.jpg", 32).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("text", [GUIDE, registry._describe_all(NAME, "32")], ids=["guide", "MLflow"])
def test_the_instructions_prepare_a_picture_as_training_does(
    text: str, picture: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Mock()
    monkeypatch.setattr(mlflow, "set_tracking_uri", Mock())
    monkeypatch.setattr(mlflow.pyfunc, "load_model", Mock(return_value=model))
    [code] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    model.predict.return_value = ["cat"]
    exec(code, {})
    [pixels] = model.predict.call_args.args
    assert (pixels.shape, pixels.dtype) == ((1, 32, 32, 3), np.uint8)
    assert np.abs(pixels[0].astype(float) - picture).mean() < 1


def test_the_request_of_the_guide_holds_a_picture_as_training_sees_it(
    picture: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    [code] = re.findall(r'python -c "(.*?)" \|', GUIDE, re.DOTALL)
    exec(code, {})
    [pixels] = json.loads(capsys.readouterr().out)["inputs"]
    assert np.abs(np.array(pixels, dtype=float) - picture).mean() < 1
