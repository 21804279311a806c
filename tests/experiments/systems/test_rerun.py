"""A recorded run that is trained again: to the same bits, or by how much it differs."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from cifar_core.checkpoint import save_state
from cifar_core.data import Splits, source
from cifar_core.data.data_set import CIFAR10
from cifar_core.errors import UserError
from cifar_core.hardware import Hardware
from cifar_core.recipe import Recipe
from cifar_core.training import EvalSchedule, TrainState, train
from experiments import reproduce
from experiments.reading.named_runs import run_named
from experiments.reading.study_reader import StudyReader
from experiments.systems.rerun import Rerun, rerun
from sweeps.console import SweepConsole
from sweeps.store import Store, StoreError
from sweeps.tracking.provenance import provenance
from sweeps.tracking.tracker import MlflowTracker, RunLabel
from tests.conftest import Refused
from tests.synthetic import synthetic_splits

pytestmark = pytest.mark.slow

RECIPE = Recipe(model="three_conv", width=0.25, epochs=2.0, batch_size=16, learning_rate=0.02)
IMAGES: Splits = synthetic_splits(torch.Generator().manual_seed(0), train=64, val=20)
CPU = Hardware.detect("cpu")
SEEN = EvalSchedule((0.25, 0.5, 0.75, 1.0), {1.0: 10})  # of 20 validation images


@dataclass(frozen=True)
class Place:
    store: Store

    def rerun(self, wanted: str) -> Rerun:
        reader = StudyReader(self.store)
        console = SweepConsole(file=io.StringIO())
        return rerun(run_named(wanted, reader), reader, None, "cpu", console)


@pytest.fixture(autouse=True)
def small_cifar10(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "ensure_cifar10", lambda directory, progress: None)
    monkeypatch.setattr(source, "load_train_val", lambda directory: IMAGES)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, blank: Path) -> Place:
    """A store with a complete run that kept its weights, a pruned one, one on all images, and some that cannot be."""
    store = Store.locate(tmp_path_factory.mktemp("rerun") / "store")
    store.create()
    shutil.copyfile(blank, store.root / "mlflow.db")
    tracker = MlflowTracker(store, "demo")
    tracker.open_study(RunLabel(key="study", name="demo", tags={"stage": "study"}, params={}))
    everything = Splits(train=IMAGES.everything(), val=IMAGES.val.head(0))
    for key, stage, recipe, data, last in (
        ("trial-0", "search", RECIPE, IMAGES, 8),
        ("trial-1", "search", replace(RECIPE, seed=1), IMAGES, 4),
        ("final-0-0", "final", replace(RECIPE, val_fraction=0.0), everything, 10),
        ("trial-2", "search", replace(RECIPE, seed=2), IMAGES, 0),
        ("trial-3", "search", replace(RECIPE, seed=3, average="ema"), IMAGES, 8),
    ):
        tags = {"study": "demo", "stage": stage, **provenance(CIFAR10, CPU, torch.get_num_threads())}
        files = {"recipe.toml": recipe.to_toml().encode()}
        tracker.begin(RunLabel(key=key, name=key, tags=tags, params={"model": recipe.model}, files=files))
        state = TrainState.create(recipe, data, CPU)
        seen = SEEN if len(data.val) else EvalSchedule(SEEN.losses)
        for progress in train(state, data, seen) if last else ():
            tracker.point(key, progress)
            if progress.step >= last:
                break
        if state.step == state.total_steps:
            save_state(state, store.weights("demo", key))
        complete, files = state.step == state.total_steps, {}
        if complete and len(data.val):
            files = {"confusion.json": json.dumps({"classes": ["a", "b"], "matrix": [[4, 3], [2, 1]]}).encode()}
        tracker.attach(key, files, {})
        tracker.end(key, "complete" if complete else "pruned")
    assert tracker.close() == 0
    return Place(store)


@pytest.mark.parametrize(
    ("wanted", "points", "said"),
    [
        ("demo/trial-0", 4, ", the final validation accuracy and the kept weights"),
        ("demo/trial-1", 2, ""),
        ("demo/final-0-0", 4, " and the kept weights"),
        ("demo/trial-3", 4, ", the final validation accuracy and the kept weights"),
    ],
)
def test_it_comes_to_the_same_bits(place: Place, wanted: str, points: int, said: str) -> None:
    found = place.rerun(wanted)
    assert found.conditions == ()
    assert found.lines() == [f"identical to the last bit: {points} points of the training loss{said}"]
    assert found.identical


def test_it_says_by_how_much_it_differs_and_what_was_different(place: Place, tmp_path: Path) -> None:
    shutil.copytree(place.store.root, tmp_path / "store")
    store = Store.locate(tmp_path / "store")
    tracker = MlflowTracker(store, "demo")
    tracker.open()
    [path] = (path for path in store.root.rglob("recipe.toml") if path.read_bytes() == RECIPE.to_toml().encode())
    path.write_text(replace(RECIPE, seed=7).to_toml())  # not by MLflow, which remembers where a run's artifacts are
    tags = {"cpu": "another"}
    tracker.begin(RunLabel(key="trial-0", name="trial-0", tags=tags, params={}))
    assert tracker.close() == 0
    found = Place(store).rerun("demo/trial-0")
    assert not found.identical
    assert found.same_weights is False
    loss, weights, accuracy, conditions = found.lines()
    assert weights == "the kept weights are others"
    assert loss.startswith(f"it differs: the training loss by up to {found.loss_gap:.3g} nats, at step ")
    assert accuracy.startswith("final validation accuracy: ")
    assert conditions == f"what was different: cpu another, now {CPU.describe()}"


@pytest.mark.parametrize(("on_cpu", "said"), [(True, []), (False, ["a GPU need not repeat bits"])])
def test_a_gpu_need_not_repeat_bits(on_cpu: bool, said: list[str]) -> None:
    found = Rerun(8, 1e-6, 3, val_accuracy=None, same_weights=None, conditions=(), on_cpu=on_cpu)
    assert found.lines() == [
        "it differs: the training loss by up to 1e-06 nats, at step 3",
        "machine, precision, kernels, threads, torch and commit are the same, as far as recorded",
        *said,
    ]


def test_a_run_whose_recipe_is_lost(place: Place, tmp_path: Path) -> None:
    shutil.copytree(place.store.root, tmp_path / "store")
    own = Place(Store.locate(tmp_path / "store"))
    [path] = (path for path in own.store.root.rglob("recipe.toml") if path.read_bytes() == RECIPE.to_toml().encode())
    path.unlink()
    with pytest.raises(StoreError, match=r"^a run must have the artifact recipe\.toml, but \w{32} has none$"):
        own.rerun("demo/trial-0")


def test_pictures_that_are_no_longer_in_the_cache(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    shutil.copytree(place.store.root, tmp_path / "store")
    store = Store.locate(tmp_path / "store")
    tracker = MlflowTracker(store, "demo")
    tracker.open()
    tags = {"data": "flowers", "data_sha256": "ab" * 32}
    tracker.begin(RunLabel(key="trial-0", name="trial-0", tags=tags, params={}))
    assert tracker.close() == 0
    with pytest.raises(UserError) as error:
        Place(store).rerun("demo/trial-0")
    assert str(error.value) == (
        "the pictures of flowers (abababababab) must be in the cache, but are not; run_study.py --images reads them "
        "again"
    )


@pytest.mark.parametrize(("wanted", "stage"), [("demo/study", "study"), ("demo/trial-2", "search")])
def test_runs_that_trained_nothing(place: Place, wanted: str, stage: str) -> None:
    rule = "run: must name a search trial, confirmation or final with recorded points"
    with pytest.raises(UserError, match=rf"^{rule}, but '.*' has stage '{stage}' and 0 points$"):
        place.rerun(wanted)


def test_the_command_line(place: Place, refused: Refused) -> None:
    store = ("--store", str(place.store.root), "--device", "cpu")
    said = refused(reproduce.main, *store, "run:demo/trial-0", "three_conv")
    assert said == ("run:RUN must stand alone, without --epochs and --seeds, but got run:demo/trial-0 three_conv")
