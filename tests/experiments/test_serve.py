"""The server of the champion: a real one, sound and wrong requests, and what it says."""

from __future__ import annotations

import http.client
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from mlflow import MlflowClient

from cifar_core import hardware
from cifar_core.data import Split
from cifar_core.data.data_set import CIFAR10
from cifar_core.training import predict
from experiments import serve
from experiments.reading.study import HttpSpeed
from experiments.reading.study_reader import HTTP_SPEED, StudyReader
from experiments.serve import main
from experiments.serving.champion import better_tested, record_speed, registered
from sweeps.store import Store, StoreError
from tests.champions import RECIPE, finish, numbers
from tests.experiments.support import known
from tests.sweeps.small_data import CPU

ROOT = Path(__file__).parents[2]
IMAGES = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Server:
    process: subprocess.Popen[str]
    port: int
    probabilities: torch.Tensor  # of IMAGES

    def ask(self, body: bytes, path: str = "/invocations") -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=50)
        try:
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, blank: Path) -> Store:
    """A store without a study yet."""
    store = Store.locate(tmp_path_factory.mktemp("serve") / "a store")
    store.create()
    shutil.copyfile(blank, store.root / "mlflow.db")
    return store


@pytest.fixture(scope="module")
def server(store: Store) -> Iterator[Server]:
    state = finish(store, "a study", 0.8)
    command = [sys.executable, str(ROOT / "experiments" / "serve.py"), "--store", str(store.root), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    lines: list[str] = []
    while not lines or not lines[-1].startswith("Serving"):
        lines.append(process.stdout.readline())
        assert lines[-1], "".join(lines)
    assert lines[-2].startswith(
        "Version 1 of cifar10: trial 3 of study a study, fast_resnet; 79.00 % of the test images"
    )
    split = Split(IMAGES, torch.zeros(len(IMAGES), dtype=torch.long))
    port = int(lines[-1].split("127.0.0.1:")[1].partition("/")[0])
    yield Server(process, port, predict(state.model, split, CPU, RECIPE.normalisation).probabilities)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    said = process.stdout.read()
    process.stdout.close()
    assert said == "stopped\n"


def pixels(images: torch.Tensor) -> bytes:
    return json.dumps({"inputs": images.tolist()}).encode()


@pytest.mark.timeout(120)
def test_a_server_labels_images_and_outlives_wrong_requests(server: Server) -> None:
    images = IMAGES.permute(0, 2, 3, 1)
    said = (
        'the body must be {"inputs": [image, ...]} alone, where an image is a list of 32 rows, a row one of 32 pixels'
    )
    for body in (pixels(IMAGES), pixels(images[:, :28, :28]), pixels(images.int() + 256), pixels(images / 255), b""):
        status, answer = server.ask(body)
        assert (status, answer["message"].startswith(said)) == (400, True), answer
    status, answer = server.ask(pixels(images))
    assert status == 200
    found = torch.tensor([[row["probabilities"][name] for name in CIFAR10.classes] for row in answer["predictions"]])
    torch.testing.assert_close(found, server.probabilities, atol=1e-5, rtol=1e-4)
    assert [CIFAR10.classes.index(row["class"]) for row in answer["predictions"]] == server.probabilities.argmax(
        1
    ).tolist()


@pytest.mark.usefixtures("server")
def test_the_champion_goes_by_the_name_of_its_model(store: Store) -> None:
    assert registered(store).tags == registered(store, "cifar10").tags == numbers("a study", 0.8)
    with pytest.raises(
        StoreError, match=r"^the champion must be chosen by --model cifar10 \(.*\), but got --model mine$"
    ):
        registered(store, "mine")
    client = MlflowClient(store.tracking_uri)
    client.create_registered_model("mine")
    version = client.create_model_version("mine", "file:///nowhere", registered(store).run_id)
    client.set_registered_model_alias("mine", "champion", version.version)
    with pytest.raises(StoreError) as error:
        registered(store)
    assert str(error.value) == (
        "the champion must be chosen by --model cifar10 or --model mine (make serve ARGS='--model NAME'), but got none"
    )
    client.delete_registered_model("mine")


@pytest.mark.usefixtures("server")
def test_a_version_that_is_not_the_champion_can_be_served(store: Store) -> None:
    assert better_tested(store, registered(store)) is None
    finish(store, "longer", 0.7, data={"test_accuracy": "0.8500"})
    champion, other = registered(store), registered(store, "cifar10/2")
    assert (champion.tags["study"], other.tags["study"]) == ("a study", "longer"), "validation images decide"
    assert known(better_tested(store, champion)).version == other.version
    assert better_tested(store, other) is None
    with pytest.raises(StoreError, match=r"^--model must name a version of cifar10 \(1, 2\), but got 'cifar10/3'$"):
        registered(store, "cifar10/3")


def test_without_the_alias_a_version_is_served_by_its_number(tmp_path: Path, blank: Path) -> None:
    store = Store.locate(tmp_path)
    shutil.copyfile(blank, tmp_path / "mlflow.db")
    client = MlflowClient(store.tracking_uri)
    client.create_registered_model("cifar10")
    for _ in range(2):
        client.create_model_version("cifar10", "file:///nowhere", "a run")
    client.set_registered_model_alias("cifar10", "champion", "1")
    client.delete_model_version("cifar10", "1")
    assert str(registered(store, "cifar10/2").version) == "2"
    for name in (None, "cifar10", "pets/2", "pet's/2", "'\"/2"):
        with pytest.raises(StoreError) as error:
            registered(store, name)
        assert str(error.value) == (
            f"a registered model must have the alias champion, but none in {tmp_path} has it any more; the command of "
            "a study, given again, sets it, and --model NAME/VERSION does without it"
        )
    with pytest.raises(StoreError, match=r"^--model must name a version of cifar10 \(2\), but got 'cifar10/1'$"):
        registered(store, "cifar10/1")


@pytest.mark.usefixtures("server")
def test_the_speed_over_http_is_kept_with_the_champion(store: Store) -> None:
    version, speed = registered(store), HttpSpeed(0.01, 0.02, 4, 90.0, 64, 300.0)
    assert record_speed(store, version, lambda: speed) == speed
    assert HttpSpeed(**StudyReader(store).json(str(version.run_id), HTTP_SPEED)) == speed
    client = MlflowClient(store.tracking_uri)
    experiment = client.get_experiment_by_name("a study")
    assert experiment is not None
    client.rename_experiment(experiment.experiment_id, "nicer")
    assert record_speed(store, version, lambda: replace(speed, clients=8)).clients == 8
    assert StudyReader(store).json(str(version.run_id), HTTP_SPEED)["clients"] == 8
    assert client.get_experiment_by_name("a study") is None, "no new one in the place of the renamed one"
    client.rename_experiment(experiment.experiment_id, "a study")


@pytest.mark.usefixtures("server", "settings_of_this_process")
def test_the_threads_are_at_most_the_usable_cores(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []
    monkeypatch.setattr(serve, "run", lambda *_, **__: threads.append(torch.get_num_threads()))
    monkeypatch.setattr(hardware, "usable_cores", lambda: 1)
    torch.set_num_threads(2)
    before = mlflow.get_tracking_uri()
    assert main(["--port", "0", "--store", str(store.root)]) == 0
    mlflow.set_tracking_uri(before)
    assert threads == [1]


def test_a_port_in_use_is_one_line(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--port", str(server.port), "--store", "nowhere"]) == 2
    said = f"serve.py: error: --port must be free, but 127.0.0.1:{server.port} gave: Address already in use\n"
    assert capsys.readouterr().err == said


def test_a_store_without_a_finished_study_is_one_line(tmp_path: Path, blank: Path) -> None:
    store = Store.locate(tmp_path)
    with pytest.raises(StoreError, match=r"^a store must hold a study, but there is no "):
        registered(store)
    shutil.copyfile(blank, tmp_path / "mlflow.db")
    with pytest.raises(StoreError, match=rf"^a store must hold a finished study to have a champion, but {tmp_path} "):
        registered(store)
