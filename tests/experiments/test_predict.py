"""Predictions for a user's own pictures: the table that is printed, and errors of one line."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import tomli_w
import torch
from mlflow import MlflowClient
from PIL import Image

from cifar_core import hardware
from cifar_core.checkpoint import load_weights, save_state
from cifar_core.data import Split, Splits
from cifar_core.data.data_set import CIFAR10
from cifar_core.data.image_file import read_image
from cifar_core.hardware import Hardware
from cifar_core.recipe import Recipe
from cifar_core.training import TrainState, predict
from cifar_core.transfer.adapted import AdaptedNetwork, save_adapted
from cifar_core.transfer.features import features
from cifar_core.transfer.head import HeadRecipe, fit
from experiments import predict as command
from sweeps import snapshot
from sweeps.store import Store
from sweeps.tracking.tracker import MlflowTracker, RunLabel
from tests.cifar_core.transfer.support import small_backbone
from tests.conftest import Refused
from tests.experiments.fake_store import Fake
from tests.synthetic import synthetic_splits

CPU = Hardware.detect("cpu")
RECIPE = Recipe(model="three_conv", width=0.25, normalisation="half")


@dataclass(frozen=True)
class Place:
    store: Store
    ids: dict[str, str]  # of runs by key
    images: list[Path]

    def arguments(self, run: str, *others: str) -> list[str]:
        """Arguments that predict the first picture."""
        return [run, str(self.images[0]), *others, "--store", str(self.store.root), "--device", "cpu"]

    def printed(self, capsys: pytest.CaptureFixture[str], run: str, *others: str) -> list[str]:
        """Lines of a call that succeeds."""
        assert command.main(self.arguments(run, *others)) == 0
        said = capsys.readouterr()
        assert said.err == ""
        return said.out.splitlines()

    def copy(self, folder: Path) -> Place:
        shutil.copytree(self.store.root, folder / "store")
        return replace(self, store=Store.locate(folder / "store"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, blank: Path) -> Place:
    """Store with a study whose final has weights, and a reproduction with best weights."""
    root = tmp_path_factory.mktemp("predict")
    store = Fake(root / "store", blank).place
    data = synthetic_splits(torch.Generator().manual_seed(0), train=16, val=8)
    ids = {}
    for study, keys in (("a study", ("trial-0", "trial-1", "final-1-0")), ("systems", ("three_conv-seed0",))):
        tracker = MlflowTracker(store, study)
        tracker.open_study(RunLabel(key="study", name=study, tags={}, params={}))
        for key in keys:
            name = "twins" if key.startswith("trial") else f"{key} three_conv"
            files = {} if key == "trial-1" else {"recipe.toml": RECIPE.to_toml().encode()}
            tracker.begin(RunLabel(key=key, name=name, tags={"study": study}, params={}, files=files))
            tracker.end(key, "complete")
            ids[key] = tracker.run_id(key)
    for key, study in (("final-1-0", "a study"), ("three_conv-seed0", "systems")):
        state = TrainState.create(RECIPE, data, CPU)
        if study == "systems":
            state.best = TrainState.create(replace(RECIPE, seed=1), data, CPU).model.state_dict()
        save_state(state, store.weights(study, key))
    images = [root / "first.png", root / "the second.png"]
    for path, image in zip(images, data.train.images, strict=False):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    return Place(store, ids, images)


def expected(place: Place, recipe: Recipe, tta: str = "none") -> list[list[tuple[str, str]]]:
    """Predict with the initial weights of `recipe`: (class, percentage), the likeliest first."""
    images = torch.stack([read_image(path, 32) for path in place.images])
    data = synthetic_splits(torch.Generator().manual_seed(0), train=16, val=8)
    model = TrainState.create(recipe, data, CPU).model
    found = predict(model, Split(images, torch.zeros(2, dtype=torch.long)), CPU, "half", tta=tta).probabilities
    order = found.argsort(1, descending=True)
    return [
        [(CIFAR10.classes[index], f"{100 * row[index]:.1f} %") for index in indices.tolist()]
        for row, indices in zip(found, order, strict=True)
    ]


def test_a_line_for_each_picture_and_a_warning(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    head, *lines, last = place.printed(capsys, place.ids["final-1-0"], str(place.images[1]))
    assert head.split() == ["picture", "class", "probability", "next"]
    for path, line, likely in zip(place.images, lines, expected(place, RECIPE), strict=True):
        (name, share), (second, second_share), (third, third_share) = likely[:3]
        assert line.startswith(f"{path}  ")
        words = f"{name} {share} {second} {second_share}, {third} {third_share}".split()
        assert line.removeprefix(str(path)).split() == words
    assert last == (
        "It knows only these classes: airplane, automobile, bird, cat, deer, dog, frog, horse, ship, "
        "truck. A picture of anything else gets one of them too."
    )


def test_an_adapted_network_answers_with_the_views_of_its_test(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own, study, key = place.copy(tmp_path), "a study-adapted", "final-0-0"
    tracker, backbone, recipe = MlflowTracker(own.store, study), small_backbone(tmp_path / "backbone"), HeadRecipe()
    tracker.open_study(RunLabel(key="study", name=study, tags={}, params={}))
    files = {"recipe.toml": tomli_w.dumps(recipe.to_dict()).encode()}
    tracker.begin(RunLabel(key=key, name=key, tags={"study": study}, params={}, files=files))
    tracker.end(key, "complete")
    data = synthetic_splits(torch.Generator().manual_seed(0), train=20, val=8)
    head = fit([features(backbone, data.train.images, CPU).values], data.train.labels, recipe, classes=10)
    save_adapted(backbone, head, CIFAR10, own.store.weights(study, key))
    _, line, views, _ = own.printed(capsys, tracker.run_id(key))
    picture = Split(read_image(own.images[0], 32).unsqueeze(0), torch.zeros(1, dtype=torch.long))
    found = predict(AdaptedNetwork(backbone.network, head).eval(), picture, CPU, "half", tta="mirror")
    share, index = found.probabilities[0].max(0)
    assert line.removeprefix(str(own.images[0])).split()[:3] == [CIFAR10.classes[index], f"{100 * share:.1f}", "%"]
    assert views == "Each answer is the mean of those to 2 views of the picture (test-time augmentation)."


def test_two_classes_are_named_where_there_are_no_more(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own, study, key = place.copy(tmp_path), "pets", "final-0-0"
    pets = replace(CIFAR10, name="pets", sha256="1", classes=("cat", "dog"), groups=())
    data = synthetic_splits(torch.Generator().manual_seed(0), train=20, val=8)
    data = Splits(*(replace(split, labels=split.labels % 2, data_set=pets) for split in (data.train, data.val)))
    save_state(TrainState.create(RECIPE, data, CPU), own.store.weights(study, key))
    tracker = MlflowTracker(own.store, study)
    tracker.open_study(RunLabel(key="study", name=study, tags={}, params={}))
    files = {"recipe.toml": RECIPE.to_toml().encode()}
    tracker.begin(RunLabel(key=key, name=key, tags={"study": study}, params={}, files=files))
    tracker.end(key, "complete")
    _, line, _ = own.printed(capsys, tracker.run_id(key))
    assert {name for name in ("cat", "dog") if name in line} == {"cat", "dog"}


@pytest.mark.parametrize("key", ["final-1-0", "three_conv-seed0"])
def test_beginnings_are_found_in_every_experiment(place: Place, capsys: pytest.CaptureFixture[str], key: str) -> None:
    assert str(place.images[0]) in place.printed(capsys, place.ids[key][:12])[1]


def register_champion(place: Place) -> MlflowClient:
    client = MlflowClient(place.store.tracking_uri)
    client.create_registered_model("cifar10")
    version = client.create_model_version("cifar10", "file:///nowhere", place.ids["final-1-0"])
    client.set_registered_model_alias("cifar10", "champion", version.version)
    return client


def test_the_champion_of_the_registry(place: Place, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert command.main(place.arguments("champion")) == 2
    assert "error: a store must hold a finished study to have a champion, but " in capsys.readouterr().err
    copy = place.copy(tmp_path)
    client = register_champion(copy)
    expected = copy.printed(capsys, "a study/final-1-0")
    assert copy.printed(capsys, "champion") == expected
    client.create_registered_model("pets")
    other = client.create_model_version("pets", "file:///nowhere", copy.ids["three_conv-seed0"])
    client.set_registered_model_alias("pets", "champion", other.version)
    assert command.main(copy.arguments("champion")) == 2
    ids = f"{copy.ids['final-1-0']} (cifar10) or {copy.ids['three_conv-seed0']} (pets)"
    assert f"error: the champion must be chosen by {ids}, but got none" in capsys.readouterr().err


@pytest.mark.usefixtures("settings_of_this_process")
def test_the_threads_are_at_most_the_usable_cores(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "usable_cores", lambda: 1)
    torch.set_num_threads(2)
    place.printed(capsys, "a study/final-1-0")
    assert torch.get_num_threads() == 1


def test_columns_are_aligned(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    long = place.images[0].with_name("x" * 150 + ".png")
    shutil.copyfile(place.images[0], long)
    head, first, second, _ = place.printed(capsys, "final-1-0 three_conv", str(long))
    assert second.startswith(f"{long}  ")
    assert first[head.index("class") :] == second[head.index("class") :]


def test_the_best_weights_are_used_if_kept(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    [first, _] = expected(place, replace(RECIPE, seed=1))
    assert first[0][1] in place.printed(capsys, "three_conv-seed0 three_conv")[1]
    best = load_weights(RECIPE, place.store.weights("systems", "three_conv-seed0")).state_dict()
    last = load_weights(RECIPE, place.store.weights("a study", "final-1-0")).state_dict()
    assert not all(torch.equal(best[name], last[name]) for name in best)


@pytest.mark.parametrize(("tta", "views"), [("mirror", 2), ("mirror-shift", 6)])
def test_answers_are_averaged_over_views(
    place: Place, capsys: pytest.CaptureFixture[str], tta: str, views: int
) -> None:
    _, answer, said, _ = place.printed(capsys, place.ids["final-1-0"], "--tta", tta)
    assert said == f"Each answer is the mean of those to {views} views of the picture (test-time augmentation)."
    [[(likeliest, share), *_], _] = expected(place, RECIPE, tta)
    assert f"{likeliest}  " in answer
    assert share in answer


@pytest.mark.parametrize(("top", "commas"), [(1, 0), (2, 0), (10, 8)])
def test_as_many_classes_as_asked_for(place: Place, capsys: pytest.CaptureFixture[str], top: int, commas: int) -> None:
    head, line, _ = place.printed(capsys, "final-1-0 three_conv", "--top", str(top))
    assert ("next" in head) == (top > 1)
    assert line.count(",") == commas
    assert sum(name in line for name in CIFAR10.classes) >= top


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("a study/final-1-1", ".*, but no run is 'a study/final-1-1'; did you mean 'a study/final-1-0'\\?"),
        (
            "trial-0",
            r"RUN must be a run that kept its weights, but 'twins' \(%(trial-0)s\) did not; "
            "weights were kept by systems/three_conv-seed0, a study/final-1-0",
        ),
        ("a study", r"RUN must be a run that kept its weights, but 'a study' \([0-9a-f]{32}\) did not; weights .*"),
    ],
)
def test_a_run_that_cannot_be_used(place: Place, refused: Refused, wanted: str, message: str) -> None:
    assert re.fullmatch(message % place.ids, refused(command.main, *place.arguments(place.ids.get(wanted, wanted))))


def test_a_broken_picture_among_good_ones(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    bad, missing = (place.images[0].with_name(name) for name in ("bad.png", "missing.png"))
    bad.write_text("hello")
    arguments = place.arguments("final-1-0 three_conv", str(bad), str(place.images[1]), str(missing))
    assert command.main(arguments) == 1
    said = capsys.readouterr()
    assert said.err.splitlines() == [
        f"predict.py: error: {bad}: this must be a readable picture, but got: no known image format",
        f"predict.py: error: {missing}: this must be a readable picture, but got: No such file or directory",
    ]
    _, *answers, _ = said.out.splitlines()
    assert [line.startswith(f"{path}  ") for path, line in zip(place.images, answers, strict=True)] == [True, True]


def test_a_folder_stands_for_its_pictures(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], refused: Refused
) -> None:
    folder, empty = tmp_path / "pictures", tmp_path / "empty"
    (folder / "more").mkdir(parents=True)
    empty.mkdir()
    for name in ("b.png", "a.png", ".hidden.png", "Thumbs.db", "more/c.png"):
        shutil.copy(place.images[0], folder / name)
    assert command.main(place.arguments("final-1-0 three_conv", str(folder))) == 0
    _, *answers, _ = capsys.readouterr().out.splitlines()
    named = [line.split("  ")[0] for line in answers]
    assert named == [
        str(path) for path in (place.images[0], *(folder / name for name in ("a.png", "b.png", "more/c.png")))
    ]
    (folder / "lost.png").symlink_to("nowhere")
    assert command.main(place.arguments("final-1-0 three_conv", str(empty), str(folder))) == 1
    said = capsys.readouterr()
    assert said.err.splitlines() == [
        f"predict.py: error: {empty}: a folder must have pictures in it, but this has no file",
        f"predict.py: error: {folder}/lost.png: this must be a readable picture, but got: No such file or directory",
    ]
    assert len(said.out.splitlines()) == 6
    (folder / "lost.png").unlink()
    for name in "defghijklmn":
        (folder / f"{name}.txt").write_text("no picture")
    assert command.main(place.arguments("final-1-0 three_conv", str(folder))) == 1
    assert [line.partition(": error: ")[2] for line in capsys.readouterr().err.splitlines()] == [
        *(
            f"{folder}/{name}.txt: this must be a readable picture, but got: no known image format"
            for name in "defghijklm"
        ),
        f"{folder}: 1 more file cannot be read",
    ]


def test_damaged_weights(place: Place, tmp_path: Path, refused: Refused) -> None:
    copy = place.copy(tmp_path)
    path = copy.store.weights("a study", "final-1-0")
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    said = refused(command.main, *copy.arguments("final-1-0 three_conv"))
    assert re.fullmatch(rf"{path}: SHA-256 must be [0-9a-f]{{64}}, but got [0-9a-f]{{64}}", said)


def test_weights_alone_are_enough(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = place.copy(tmp_path)
    weights = copy.store.weights("a study", "final-1-0")
    for path in (weights, weights.with_name(f"{weights.name}.sha256")):
        shutil.copyfile(path, path.with_name(path.name.replace("final-1-0", "trial-1")))
    [_, answer, _] = copy.printed(capsys, place.ids["trial-1"])  # whose recipe.toml was lost
    assert answer == copy.printed(capsys, "final-1-0 three_conv")[1]


def test_a_store_of_another_user(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = place.copy(tmp_path)
    monkeypatch.setattr(snapshot, "_writable", lambda path: False)
    assert copy.printed(capsys, "final-1-0 three_conv")[1:2] == place.printed(capsys, "final-1-0 three_conv")[1:2]


def test_an_experiment_that_was_renamed(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = place.copy(tmp_path)
    client = MlflowClient(copy.store.tracking_uri)
    experiment = client.get_experiment_by_name("a study")
    assert experiment is not None
    client.rename_experiment(experiment.experiment_id, "a nicer name")
    assert copy.printed(capsys, "final-1-0 three_conv")[1].startswith(str(copy.images[0]))


def test_the_champion_of_a_study_that_was_deleted(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = place.copy(tmp_path)
    client = register_champion(copy)
    expected = copy.printed(capsys, "champion")
    client.delete_experiment(client.get_run(place.ids["final-1-0"]).info.experiment_id)
    assert copy.printed(capsys, "champion") == expected


def test_no_store(place: Place, tmp_path: Path, refused: Refused) -> None:
    said = refused(command.main, *replace(place, store=Store.locate(tmp_path / "none")).arguments("a run"))
    ways = "'make study' runs one, --store DIR names another store"
    assert said == f"a store must hold a study, but there is no {tmp_path}/none/mlflow.db: {ways}"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("top", ["0", "x", "2.5"])
def test_too_many_classes(refused: Refused, top: str) -> None:
    said = refused(command.main, "run", "a.png", "--top", top)
    assert said == f"argument --top: must be a whole number of at least 1, but got {top!r}"


def test_more_classes_than_the_network_knows(place: Place, refused: Refused) -> None:
    said = refused(command.main, *place.arguments("final-1-0 three_conv", "--top", "11"))
    assert said == "--top must be at most 10, the classes that the network knows, but got 11"
