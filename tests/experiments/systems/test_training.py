"""Reproductions on synthetic images: files and runs that they leave, and interruptions."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Run

from cifar_core import training
from cifar_core.checkpoint import Checkpoints, load_weights
from cifar_core.data import Split, Splits, hold_out
from cifar_core.data.data_set import CIFAR10
from cifar_core.errors import UserError
from cifar_core.evaluation.metrics import Predictions
from cifar_core.hardware import Hardware
from cifar_core.recipe import Recipe
from cifar_core.training import EvalSchedule, TrainState, predict
from experiments import reproduce
from experiments.reading.results import load_results
from experiments.systems import training as systems_training
from sweeps.store import Store
from sweeps.tracking.figures import metrics_of
from sweeps.tracking.tracker import MlflowTracker
from sweeps.validation import write_json
from tests.experiments.fake_store import Fake
from tests.experiments.support import known
from tests.synthetic import synthetic_splits

pytestmark = pytest.mark.slow

# 64 images to train on and 16 for validation: 4 steps an epoch, and points of the loss after 3 of them.
WATCHING_VALIDATION = Recipe(
    model="three_conv",
    width=0.25,
    epochs=3.0,
    batch_size=16,
    val_fraction=0.2,
    learning_rate=0.02,
    schedule="constant",
    warmup=0.0,
    keep_best=True,
)
WATCHING_TEST = replace(WATCHING_VALIDATION, val_fraction=0.0, keep_best=False, batch_size=20)
RANGE_TEST = replace(WATCHING_VALIDATION, learning_rate="range-test")
RECIPES = {"validation": WATCHING_VALIDATION, "test": WATCHING_TEST}
IMAGES: Splits = synthetic_splits(torch.Generator().manual_seed(0), train=80, val=40)
CPU = Hardware.detect("cpu")


@dataclass
class Place:
    """Folder with a recipe, a store and results; each `call` runs the command on them."""

    root: Path
    folder: str = "results"
    said: list[str] = field(default_factory=list)  # lines that the last call printed

    @property
    def recipe(self) -> Path:
        return self.root / "three_conv.toml"

    @property
    def results(self) -> Path:
        return self.root / self.folder

    @property
    def store(self) -> Store:
        return Store.locate(self.root / "store")

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.store.tracking_uri)

    def call(self, *arguments: str) -> int:
        folders = ("--store", str(self.store.root), "--results", str(self.results))
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            code = reproduce.main([str(self.recipe), *folders, "--device", "cpu", *arguments])
        self.said = printed.getvalue().splitlines()
        return code

    def interrupt(
        self, target: object, name: str, call: int, *arguments: str, number: signal.Signals = signal.SIGINT
    ) -> int:
        """Run the command, and send it a signal when `name` is called for the `call`th time."""
        original: Callable[..., Any] = getattr(target, name)
        calls = itertools.count(1)
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

        def disturbed(*given: Any, **options: Any) -> Any:
            if next(calls) == call:
                os.kill(os.getpid(), number)
            return original(*given, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(target, name, disturbed)
            return self.call(*arguments)

    def written(self, seed: int = 0) -> Any:
        return json.loads((self.results / f"three_conv-seed{seed}.json").read_text())

    def run(self) -> Run:
        """The only training run in MLflow."""
        [run] = self.runs("reproduction")
        return run

    def runs(self, stage: str) -> list[Run]:
        experiment = known(self.client.get_experiment_by_name("systems"))
        return list(self.client.search_runs([experiment.experiment_id], f"tags.stage = '{stage}'"))

    def steps(self, metric: str) -> list[int]:
        return [point.step for point in self.client.get_metric_history(self.run().info.run_id, metric)]

    def files(self) -> set[str]:
        folder = Path(self.run().info.artifact_uri.removeprefix("file://"))
        return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}

    def looks(self) -> list[Any]:
        path = self.store.root / "test_looks.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def weights(self, seed: int = 0) -> Path:
        [path] = (self.store.root / "weights" / "systems").glob(f"three_conv-seed{seed}-*.safetensors")
        return path

    def checkpoints(self) -> list[Path]:
        """All checkpoints, newest first."""
        return sorted((self.store.root / "checkpoints").rglob("*.safetensors"), reverse=True)

    def tensors(self) -> dict[str, torch.Tensor]:
        return load_weights(Recipe.from_toml(self.recipe.read_text()), self.weights()).state_dict()


@pytest.fixture(scope="module", autouse=True)
def small_data() -> Iterator[None]:
    """Use synthetic images, and restore the signal handlers that the command replaces."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reproduce, "ensure_cifar10", lambda directory, progress: None)
        patch.setattr(reproduce, "load_train", lambda directory: IMAGES.train)
        patch.setattr(reproduce, "load_test", lambda directory: IMAGES.val)
        yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def prepare(root: Path, blank: Path, recipe: Recipe) -> Place:
    place = Place(root)
    Fake(root / "store", blank)
    place.recipe.write_text(recipe.to_toml())
    return place


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, blank: Path) -> dict[str, Place]:
    """A whole run for each split that can be watched."""
    places = {}
    for watched, recipe in RECIPES.items():
        places[watched] = prepare(tmp_path_factory.mktemp(watched), blank, recipe)
        assert places[watched].call() == 0
    return places


@pytest.fixture
def place(tmp_path: Path, blank: Path) -> Place:
    return prepare(tmp_path, blank, WATCHING_VALIDATION)


def check_same(place: Place, other: Place) -> None:
    """Check that both runs ended with the same bits, and that MLflow has nothing twice."""
    ours, theirs = place.written(), other.written()
    for written in (ours, theirs):
        assert all(point.pop("train_seconds") > 0 for point in written["curve"])
    for name in ("curve", "test", "epochs_run", "training_flops", "learning_rate_found", "recipe", "kept", "watched"):
        assert ours[name] == theirs[name], name
    expected, found = other.tensors(), place.tensors()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert place.steps("train/loss") == [point["step"] for point in ours["curve"]]
    run = place.run()
    assert (run.data.tags["state"], run.info.status) == ("complete", "FINISHED")
    assert "reason" not in run.data.tags
    assert metrics_of(run)["test/accuracy"] == ours["test"]["accuracy"]
    assert place.checkpoints() == []
    [parent] = place.runs("reproductions")
    assert parent.data.tags["state"] == "finished"


@pytest.mark.parametrize("watched", RECIPES)
def test_result_file_and_output(undisturbed: dict[str, Place], watched: str) -> None:
    place = undisturbed[watched]
    [result] = load_results(place.results)
    assert (result.name, result.seed, result.watched, result.complete) == ("three_conv", 0, watched, True)
    assert result.recipe == RECIPES[watched].to_dict()
    assert result.kept == ("best" if watched == "validation" else "last")
    assert result.epochs_run == result.epochs_planned == 3
    assert [point.step for point in result.curve] == [3, 4, 7, 8, 11, 12]
    assert [point.watched_loss is None for point in result.curve] == [True, False] * 3
    tested = known(result.test)
    assert (tested.images, list(tested.class_accuracy)) == (40, sorted(CIFAR10.classes))
    assert result.run_id == place.run().info.run_id
    assert result.learning_rate_found is None
    assert (result.hardware.device, result.hardware.threads) == ("cpu", torch.get_num_threads())
    looks = {(look["study"], look["key"]) for look in place.looks()}
    assert looks == {("systems", place.run().data.tags["key"])}
    assert len(place.looks()) == (1 if watched == "validation" else 4)
    first, *lines, last = place.said
    assert first == "  runs     three_conv seed 0"
    epochs = [line.partition(",")[0] for line in lines if ": epoch " in line]
    assert epochs == [f"three_conv seed 0: epoch {epoch} of 3" for epoch in (1, 2, 3)]
    path = place.results / "three_conv-seed0.json"
    assert last == f"three_conv seed 0: {100 * tested.accuracy:.2f} % of the test set after epoch 3; {path}"


def test_curves_in_mlflow_have_the_name_of_the_split(undisturbed: dict[str, Place]) -> None:
    place = undisturbed["validation"]
    run = place.run()
    assert run.info.run_name == "three_conv seed 0"
    tags = {"stage": "reproduction", "system": "three_conv", "state": "complete", "epochs_run": "3"}
    assert run.data.tags.items() >= tags.items()
    assert run.data.params["model"] == "three_conv"
    assert int(run.data.params["parameters"]) > 0
    assert place.steps("train/loss") == place.steps("lr") == [3, 4, 7, 8, 11, 12]
    assert place.steps("val/loss") == place.steps("val/accuracy") == [4, 8, 12]
    assert place.steps("test/accuracy") == [12]
    metrics = metrics_of(run)
    assert {f"test_class/{name}" for name in CIFAR10.classes} <= set(metrics)
    assert {"val_class/cat", "val_group/animals", "test_group/vehicles"} <= set(metrics)
    assert metrics["cost/epochs"] == 3
    assert metrics["cost/training_flops"] == place.written()["training_flops"] > 0

    place = undisturbed["test"]
    assert place.steps("test/loss") == place.steps("test/accuracy") == [4, 8, 12]
    assert {"test_class/airplane", "test_group/animals"} <= set(metrics_of(place.run()))
    assert not [name for name in metrics_of(place.run()) if name.startswith("val")]


def test_files_of_a_run(undisturbed: dict[str, Place]) -> None:
    always = {"recipe.toml", "summary.txt", "pictures/augmented.png"}
    shown = {"confusion.json", "weakness.md", "classes.png", "confusion.png", "mistakes.png", "predictions.csv"}
    shown |= {"predictions.png"}
    tested = {f"test/{name}" for name in (*shown, "prediction.png", "prediction.json")}
    validated = {f"pictures/{name}" if name.endswith(".png") else name for name in shown}
    assert undisturbed["test"].files() == always | tested
    assert undisturbed["validation"].files() == always | tested | validated
    folder = Path(undisturbed["validation"].run().info.artifact_uri.removeprefix("file://"))
    assert Recipe.from_toml((folder / "recipe.toml").read_text()) == WATCHING_VALIDATION
    place = undisturbed["validation"]
    assert [path.name for path in place.results.iterdir()] == ["three_conv-seed0.json"]
    assert place.checkpoints() == []
    assert place.weights().exists()


def test_the_same_again_does_nothing(undisturbed: dict[str, Place], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systems_training, "train", None)
    for watched in RECIPES:
        place = replace(undisturbed[watched])
        path = place.results / "three_conv-seed0.json"
        before, looks = path.read_bytes(), place.looks()
        for arguments in ((), ("--epochs", "2"), ("--epochs", "100")):
            assert place.call(*arguments) == 0
            left = f"nothing is left to do, {path} reaches to epoch 3; another --results trains it anew"
            assert place.said[-1] == f"three_conv seed 0: {left}"
        assert (path.read_bytes(), place.looks()) == (before, looks)


def test_another_folder_of_results_has_a_run_of_its_own(place: Place) -> None:
    assert place.interrupt(systems_training, "write_json", 5) == 130
    here = place.written()
    other = replace(place, folder="other")
    assert other.call("--epochs", "1") == 0
    assert other.written()["run_id"] != here["run_id"]
    assert place.call() == 0
    assert "resumes after epoch" in " ".join(place.said)
    assert place.written()["run_id"] == here["run_id"]
    assert len(place.runs("reproduction")) == 2


def test_seeds_are_runs_of_their_own(place: Place) -> None:
    assert place.call("--seeds", "2", "--epochs", "1") == 0
    first, second = place.written(0), place.written(1)
    assert (first["seed"], second["seed"]) == (first["recipe"]["seed"], second["recipe"]["seed"]) == (0, 1)
    assert first["run_id"] != second["run_id"]
    assert first["curve"][0]["train_loss"] != second["curve"][0]["train_loss"]
    assert len(load_results(place.results)) == 2


@pytest.mark.parametrize("watched", RECIPES)
def test_a_part_is_tested_and_resumes_to_the_same_end(
    tmp_path: Path, blank: Path, undisturbed: dict[str, Place], watched: str
) -> None:
    place = prepare(tmp_path, blank, RECIPES[watched])
    assert place.call("--epochs", "1") == 0
    assert place.said[-1] == "three_conv seed 0: 1 of 3 epochs are done; without --epochs the same command resumes"
    [result] = load_results(place.results)
    assert (result.epochs_run, result.epochs_planned, result.complete) == (1, 3, False)
    assert known(result.test).images == 40
    assert [point.step for point in result.curve] == [3, 4]
    assert place.run().data.tags["epochs_run"] == "1"
    assert len(place.checkpoints()) == 2

    assert place.call("--epochs", "1") == 0
    assert "nothing is left to do" in place.said[-1]
    assert place.call("--epochs", "1.5") == 0
    assert place.written()["epochs_run"] == 1.75
    assert place.call() == 0
    assert "three_conv seed 0: resumes after epoch 1.75" in place.said
    check_same(place, undisturbed[watched])


def test_a_part_on_another_kind_of_device_is_kept(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert place.call("--epochs", "1") == 0
    path = place.results / "three_conv-seed0.json"
    on_gpu = {**place.written(), "hardware": {**place.written()["hardware"], "device": "cuda"}}
    path.write_text(json.dumps(on_gpu))
    kept = sorted(place.store.checkpoint_folder("systems").rglob("*.safetensors"))
    assert place.call() == 2
    said = f"three_conv seed 0 must resume on cuda, where it began, but got cpu; without {path} it begins anew"
    assert said in capsys.readouterr().err
    assert place.written() == on_gpu
    assert kept
    assert kept == sorted(place.store.checkpoint_folder("systems").rglob("*.safetensors"))
    path.unlink()
    assert place.call() == 0


def test_less_than_a_step_is_a_step(place: Place) -> None:
    assert place.call("--epochs", "0.0001") == 0
    assert 0 < place.written()["epochs_run"] < 1


def test_epochs_that_are_no_whole_steps(place: Place) -> None:
    # 6.4 steps of 20 images: an epoch ends after the third, and training after the sixth.
    place.recipe.write_text(replace(WATCHING_VALIDATION, batch_size=20, epochs=2.0).to_toml())
    assert place.call("--epochs", "1") == 0
    assert place.written()["epochs_run"] == 3 * 20 / 64
    assert place.call() == 0
    assert place.written()["epochs_run"] == 6 * 20 / 64
    assert place.checkpoints() == []
    assert place.call() == 0
    assert "nothing is left to do" in place.said[-1]


@pytest.mark.parametrize(
    ("target", "name", "call", "number"),
    [
        (training, "train_step", 6, signal.SIGINT),
        (systems_training, "write_json", 3, signal.SIGINT),
        (Checkpoints, "save", 4, signal.SIGINT),
        (systems_training._Run, "_report", 2, signal.SIGTERM),
        (training, "train_step", 7, signal.SIGHUP),
        (systems_training, "predict", 1, signal.SIGINT),
        (systems_training, "write_json", 7, signal.SIGINT),
    ],
    ids=["in-an-epoch", "no-file", "no-checkpoint", "after-both", "lost-terminal", "before-the-test", "after-the-test"],
)
def test_it_resumes_to_the_same_end(
    place: Place,
    undisturbed: dict[str, Place],
    capsys: pytest.CaptureFixture[str],
    target: object,
    name: str,
    call: int,
    number: signal.Signals,
) -> None:
    assert place.interrupt(target, name, call, number=number) == 128 + number
    assert capsys.readouterr().err == "stopped; the same command resumes (run:RUN starts again)\n"
    tags = place.run().data.tags
    assert (tags["state"], tags["reason"]) == ("interrupted", "stopped by the user")
    assert place.run().info.status == "KILLED"
    [parent] = place.runs("reproductions")
    assert parent.data.tags["state"] == "interrupted"
    assert load_results(place.results)[0].test is None
    assert place.call() == 0
    check_same(place, undisturbed["validation"])


def test_what_mlflow_lacks_is_said_and_not_waited_for_after_a_stop(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(tracker: MlflowTracker, *, at_once: bool) -> int:
        waited.append(not at_once)
        return close(tracker, at_once=at_once) + 3

    close, waited = MlflowTracker.close, list[bool]()
    monkeypatch.setattr(MlflowTracker, "close", closed)
    assert place.interrupt(systems_training._Run, "_report", 1) == 130
    kept = f"kept in {place.store.queues('systems')}"
    said = f"MLflow lacks 3 entries, {kept}; once it answers, the same command sends them"
    assert place.said[-1] == said
    assert place.call("--epochs", "1") == 1
    assert place.said[-1] == said
    assert waited == [False, True]
    assert place.interrupt(MlflowTracker, "close", 1) == 130, "a stop while it waits for MLflow"
    assert place.said.count(said) == 1


def test_a_part_that_was_stopped_before_its_test_is_not_trained_further(place: Place) -> None:
    assert place.interrupt(systems_training, "predict", 1, "--epochs", "1") == 130
    assert place.call("--epochs", "1") == 0
    assert place.written()["epochs_run"] == 1
    assert place.written()["test"] is not None


@pytest.mark.parametrize("bad", [1, 2])
def test_bad_checkpoints_are_passed_over(place: Place, undisturbed: dict[str, Place], bad: int) -> None:
    assert place.call("--epochs", "2") == 0
    newest = place.checkpoints()
    assert [path.stem for path in newest] == ["step-000000008", "step-000000007"]
    for path in newest[:bad]:
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert place.call() == 0
    assert any(line.startswith(f"{newest[0]}: SHA-256 must be ") for line in place.said)
    assert ("three_conv seed 0: resumes after epoch 1.75" in place.said) == (bad == 1)
    check_same(place, undisturbed["validation"])


def test_without_its_file_a_run_begins_anew(place: Place) -> None:
    assert place.call("--epochs", "1") == 0
    earlier = place.written()["run_id"]
    (place.results / "three_conv-seed0.json").unlink()
    assert place.call("--epochs", "1") == 0
    assert {run.info.run_id for run in place.runs("reproduction")} == {earlier, place.written()["run_id"]}
    assert len(place.runs("reproduction")) == 2


def test_without_its_points_a_run_starts_again(place: Place, undisturbed: dict[str, Place]) -> None:
    assert place.call("--epochs", "1") == 0
    path = place.results / "three_conv-seed0.json"
    before = path.read_bytes()
    assert place.call("--epochs", "2") == 0
    path.write_bytes(before)
    assert place.interrupt(systems_training._Run, "_report", 1) == 130
    line = f"three_conv seed 0: starts again, as {path} does not hold its points up to step 8"
    assert line in place.said
    assert place.call() == 0
    assert "three_conv seed 0: resumes after epoch 1" in place.said
    check_same(place, undisturbed["validation"])


@pytest.mark.parametrize("content", [None, '{"schema": 2}'])
def test_a_file_of_something_else_is_replaced(place: Place, undisturbed: dict[str, Place], content: str | None) -> None:
    path = place.results / "three_conv-seed0.json"
    place.results.mkdir()
    other = undisturbed["test"].results / path.name
    path.write_text(other.read_text() if content is None else content)
    before, kept = path.read_bytes(), path.with_suffix(".json.old")
    assert place.call("--epochs", "1") == 0
    assert f"three_conv seed 0: {path} does not hold this run" in place.said
    assert f"three_conv seed 0: began anew, and keeps the earlier result as {kept}" in place.said
    assert place.written()["recipe"] == WATCHING_VALIDATION.to_dict()
    assert kept.read_bytes() == before


def test_a_result_of_another_store_is_kept(place: Place, undisturbed: dict[str, Place]) -> None:
    path = place.results / "three_conv-seed0.json"
    place.results.mkdir()
    path.write_bytes((undisturbed["validation"].results / path.name).read_bytes())
    part = json.loads(path.read_text()) | {"test": None}
    path.write_text(json.dumps(part))
    assert place.call("--epochs", "1") == 0
    kept = path.with_suffix(".json.old")
    assert f"three_conv seed 0: began anew, and keeps the earlier result as {kept}" in place.said
    assert json.loads(kept.read_text()) == part


@pytest.mark.slow
def test_the_average_of_the_weights_is_tested(place: Place) -> None:
    recipe = replace(WATCHING_VALIDATION, keep_best=False, average="ema")
    place.recipe.write_text(recipe.to_toml())
    assert place.call() == 0
    written = place.written()
    assert written["kept"] == "average"
    state = TrainState.create(recipe, hold_out(IMAGES.train, 0.2, 0), CPU)
    list(training.train(state, hold_out(IMAGES.train, 0.2, 0), EvalSchedule()))
    for model in (state.model, CPU.place(load_weights(recipe, place.weights()))):
        assert predict(model, IMAGES.val, CPU).loss == written["test"]["loss"]


@pytest.mark.slow
def test_the_best_weights_are_tested_and_found_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    original = training._validate

    def first_is_best(state: TrainState, split: Split) -> Predictions:
        predictions = original(state, split)
        state.best_loss = -1.0
        return predictions

    with monkeypatch.context() as patch:
        patch.setattr(training, "_validate", first_is_best)
        assert place.call() == 0
    written = place.written()
    assert written["kept"] == "best"
    model = CPU.place(load_weights(WATCHING_VALIDATION, place.weights()))
    again = predict(model, IMAGES.val, CPU)
    assert (again.accuracy, again.loss) == (written["test"]["accuracy"], written["test"]["loss"])
    validated = predict(model, hold_out(IMAGES.train, 0.2, 0).val, CPU)
    losses = [point["val_loss"] for point in written["curve"] if point["val_loss"] is not None]
    assert validated.loss == losses[0]
    assert losses[0] not in losses[1:], "the last weights are others"


def test_the_rate_that_it_finds_is_kept_over_an_interruption(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.recipe.write_text(RANGE_TEST.to_toml())
    assert place.interrupt(systems_training._Run, "_report", 1) == 130
    found = place.written()["learning_rate_found"]
    assert f"three_conv seed 0: the range test suggests a peak learning rate of {found:.3g}" in place.said
    monkeypatch.setattr(systems_training, "settle", None)
    assert place.call() == 0
    [result] = load_results(place.results)
    assert result.learning_rate_found == found
    assert result.recipe["learning_rate"] == "range-test"
    assert {point.learning_rate for point in result.curve} == {found}
    assert metrics_of(place.run())["range_test/suggestion"] == found
    assert {"range_test/curve.csv", "range_test/curve.html"} <= place.files()


def test_one_that_finds_none_ends_the_command(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none(*_: object) -> None:
        raise UserError("a range test must see the loss fall by more than its noise")

    monkeypatch.setattr(systems_training, "settle", none)
    place.recipe.write_text(RANGE_TEST.to_toml())
    assert place.call() == 2
    reason = "a range test must see the loss fall by more than its noise"
    assert capsys.readouterr().err == f"reproduce.py: error: {reason}\n"
    assert place.run().data.tags.items() >= {"state": "failed", "reason": reason}.items()
    assert not list(place.results.iterdir())


def test_a_run_that_diverges_has_failed(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.recipe.write_text(replace(WATCHING_VALIDATION, learning_rate=1e30).to_toml())
    assert place.call() == 1
    reason = "a loss must stay finite, but that of three_conv seed 0 did not, up to step 3"
    assert capsys.readouterr().err == f"reproduce.py: error: {reason}\n"
    assert place.run().data.tags.items() >= {"state": "failed", "reason": reason}.items()
    assert load_results(place.results) == ()


def test_a_full_disk_is_one_line_and_the_run_resumes(
    place: Place, undisturbed: dict[str, Place], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write, calls = write_json, itertools.count(1)

    def full(*arguments: Any) -> None:
        if next(calls) == 7:
            raise OSError(28, "No space left on device")
        write(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(systems_training, "write_json", full)
        assert place.call() == 2
    reason = "three_conv seed 0 must be able to write its results, but: [Errno 28] No space left on device"
    assert capsys.readouterr().err == f"reproduce.py: error: {reason}\n"
    assert place.run().data.tags.items() >= {"state": "interrupted", "reason": reason}.items()
    assert place.call() == 0
    assert any(line.startswith("three_conv seed 0: resumes after epoch ") for line in place.said)
    check_same(place, undisturbed["validation"])


def test_a_run_that_fails_at_once_leaves_an_earlier_result(place: Place, undisturbed: dict[str, Place]) -> None:
    path = place.results / "three_conv-seed0.json"
    place.results.mkdir()
    path.write_bytes((undisturbed["test"].results / path.name).read_bytes())
    before = path.read_bytes()
    place.recipe.write_text(replace(WATCHING_VALIDATION, learning_rate=1e30).to_toml())
    assert place.call() == 1
    assert (path.read_bytes(), [each.name for each in place.results.iterdir()]) == (before, [path.name])
