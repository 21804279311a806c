"""Predictions of a user's own pictures: what becomes of a file, which run is meant, and what is said."""

from __future__ import annotations

import re
import shutil
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from cifar_core.checkpoint import load_weights, save_state
from cifar_core.data import CLASSES, Split, synthetic_splits
from cifar_core.hardware import Hardware
from cifar_core.recipe import Recipe
from cifar_core.training import TrainState, predict
from experiments import predict as command
from experiments.predict import KnownRun, UsageError, find_run, read_image
from sweeps.store import Store
from sweeps.tracking.tracker import MlflowTracker, RunLabel

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)
CPU = Hardware.detect("cpu")
RECIPE = Recipe(model="three_conv", width=0.25, normalisation="half")


def picture(path: Path, size: tuple[int, int] = (32, 32), colour: tuple[int, ...] = RED, mode: str = "RGB") -> Path:
    Image.new(mode, size, colour).save(path)
    return path


def pixel(path: Path, x: int, y: int) -> tuple[int, ...]:
    return tuple(read_image(path)[:, y, x].tolist())


class TestPictures:
    def test_one_of_the_right_size_is_left_as_it_is(self, tmp_path: Path) -> None:
        [image] = synthetic_splits(torch.Generator().manual_seed(0), train=1, val=1).train.images
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / "a.png")
        found = read_image(tmp_path / "a.png")
        assert found.dtype == torch.uint8
        assert found.is_contiguous()
        assert torch.equal(found, image)

    @pytest.mark.parametrize("size", [(1, 1), (7, 5), (100, 32), (33, 2000), (1024, 768)])
    def test_any_size(self, tmp_path: Path, size: tuple[int, int]) -> None:
        image = read_image(picture(tmp_path / "a.png", size))
        assert image.shape == (3, 32, 32)
        assert {tuple(colour) for colour in image.flatten(1).T.tolist()} == {RED}

    @pytest.mark.parametrize("size", [(300, 100), (100, 300)])
    def test_the_middle_is_what_is_looked_at(self, tmp_path: Path, size: tuple[int, int]) -> None:
        image = Image.new("RGB", size, RED)
        image.paste(GREEN, ((size[0] - 100) // 2, (size[1] - 100) // 2, (size[0] + 100) // 2, (size[1] + 100) // 2))
        image.save(tmp_path / "a.png")
        found = read_image(tmp_path / "a.png")
        assert {tuple(colour) for colour in found.flatten(1).T.tolist()} == {GREEN}

    def test_reducing_takes_the_mean_of_what_falls_together(self, tmp_path: Path) -> None:
        board = (np.indices((320, 320)).sum(0) % 2 * 255).astype(np.uint8)
        Image.fromarray(board).save(tmp_path / "a.png")
        image = read_image(tmp_path / "a.png")
        assert 120 <= image.min() <= image.max() <= 135

    def test_a_camera_that_was_turned(self, tmp_path: Path) -> None:
        image = Image.new("RGB", (64, 64), RED)
        image.paste(BLUE, (32, 0, 64, 64))
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned clockwise by 90 degrees
        image.save(tmp_path / "a.png", exif=exif)
        assert pixel(tmp_path / "a.png", 5, 5) == pixel(tmp_path / "a.png", 27, 5) == RED
        assert pixel(tmp_path / "a.png", 5, 27) == BLUE

    @pytest.mark.parametrize(
        ("mode", "colour", "expected"),
        [
            ("RGBA", (255, 0, 0, 0), WHITE),
            ("RGBA", (255, 0, 0, 255), RED),
            ("RGBA", (0, 0, 0, 51), (204, 204, 204)),
            ("LA", (0, 0), WHITE),
            ("L", (10,), (10, 10, 10)),
            ("1", (1,), WHITE),
        ],
    )
    def test_transparency_lies_on_white(
        self, tmp_path: Path, mode: str, colour: tuple[int, ...], expected: tuple[int, ...]
    ) -> None:
        assert pixel(picture(tmp_path / "a.png", colour=colour, mode=mode), 16, 16) == expected

    def test_a_palette_with_a_transparent_colour(self, tmp_path: Path) -> None:
        image = Image.new("P", (32, 32), 0)
        image.putpalette([*RED, *BLUE])
        image.paste(1, (16, 0, 32, 32))
        image.save(tmp_path / "a.gif", transparency=0)
        assert (pixel(tmp_path / "a.gif", 4, 4), pixel(tmp_path / "a.gif", 28, 4)) == (WHITE, BLUE)

    @pytest.mark.parametrize("name", ["a.jpg", "a.tiff"])
    def test_colours_of_a_press(self, tmp_path: Path, name: str) -> None:
        path = picture(tmp_path / name, colour=(0, 0, 0, 255), mode="CMYK")
        assert max(pixel(path, 16, 16)) < 5

    @pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
    def test_more_than_eight_bits(self, tmp_path: Path, kind: type[np.generic]) -> None:
        white = 1.0 if kind is np.float32 else 65_535
        ramp: npt.NDArray[np.float64] = np.tile(np.linspace(0, white, 32), (32, 1))
        Image.fromarray(ramp.astype(kind)).save(tmp_path / "a.tiff")
        assert pixel(tmp_path / "a.tiff", 0, 0) == BLACK
        assert pixel(tmp_path / "a.tiff", 31, 0) == WHITE
        assert pixel(tmp_path / "a.tiff", 16, 0) == (132, 132, 132)

    def test_an_animation_is_its_first_frame(self, tmp_path: Path) -> None:
        frames = [Image.new("RGB", (32, 32), colour) for colour in (RED, BLUE)]
        frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
        assert pixel(tmp_path / "a.gif", 16, 16) == RED


def no_picture(path: Path) -> str:
    with pytest.raises(UsageError) as error:
        read_image(path)
    return str(error.value)


class TestFilesThatCannotBe:
    def test_missing(self, tmp_path: Path) -> None:
        path = tmp_path / "a.png"
        assert no_picture(path) == f"{path}: this must be a readable picture, but got: No such file or directory"

    def test_a_folder(self, tmp_path: Path) -> None:
        assert no_picture(tmp_path) == f"{tmp_path}: this must be a readable picture, but got: Is a directory"

    @pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n"])
    def test_no_picture(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "a.png"
        path.write_bytes(content)
        assert no_picture(path) == f"{path}: this must be a readable picture, but got: no image format that is known"

    @pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.gif", "a.tiff", "a.webp", "a.bmp"])
    def test_cut_off(self, tmp_path: Path, name: str) -> None:
        path = tmp_path / name
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
        path.write_bytes(path.read_bytes()[:-2000])
        said = no_picture(path)
        assert said.startswith(f"{path}: this must be a readable picture, but got: ")
        assert "\n" not in said

    @pytest.mark.parametrize("side", [11, 40])
    def test_too_large(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: int) -> None:
        path = picture(tmp_path / "a.png", (side, side))
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
        reason = rf"Image size \({side**2} pixels\) exceeds limit of (100|200) pixels, .*"
        assert re.fullmatch(rf"{path}: this must be a readable picture, but got: {reason}", no_picture(path))

    def test_a_name_that_is_no_line(self, tmp_path: Path) -> None:
        assert no_picture(tmp_path / "a\nb\x1b.png").startswith(f"'{tmp_path}/a\\nb\\x1b.png': this must be ")

    def test_oddities_are_no_warnings(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def odd(image: Image.Image) -> Image.Image:
            warnings.warn("Corrupt EXIF data", stacklevel=1)
            return image

        monkeypatch.setattr("PIL.ImageOps.exif_transpose", odd)
        assert pixel(picture(tmp_path / "a.png"), 1, 1) == RED


@dataclass(frozen=True)
class Place:
    store: Store
    ids: dict[str, str]  # of runs by key
    images: list[Path]

    def main(self, *arguments: str) -> int:
        return command.main(["--store", str(self.store.root), "--device", "cpu", *arguments])

    def refused(self, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
        assert self.main(*arguments) == 2
        said = capsys.readouterr()
        assert said.out == ""
        [line] = said.err.splitlines()
        return line.removeprefix("predict.py: error: ")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, blank: Path) -> Place:
    """A store with a study whose one confirmed run kept its weights, and a reproduction that kept its best ones."""
    root = tmp_path_factory.mktemp("predict")
    store = Store.locate(root / "store")
    store.root.mkdir()
    shutil.copyfile(blank, store.root / "mlflow.db")
    data = synthetic_splits(torch.Generator().manual_seed(0), train=16, val=8)
    ids = {}
    for study, keys in (("a study", ("trial-0", "trial-1", "confirm-1-0")), ("systems", ("three_conv-seed0",))):
        tracker = MlflowTracker(store, study)
        tracker.open_study(RunLabel(key="study", name=study, tags={}, params={}))
        for key in keys:
            name = {"trial-0": "twins", "trial-1": "twins"}.get(key, f"{key} three_conv")
            tracker.begin(RunLabel(key=key, name=name, tags={}, params={}, files=_files(key)))
            tracker.end(key, "complete")
            ids[key] = tracker.run_id(key)
    for key, study in (("confirm-1-0", "a study"), ("three_conv-seed0", "systems")):
        state = TrainState.create(RECIPE, data, CPU)
        if study == "systems":
            state.best = TrainState.create(replace(RECIPE, seed=1), data, CPU).model.state_dict()
        save_state(state, store.weights(study, key))
    images = [root / "first.png", root / "the second.png"]
    for path, image in zip(images, data.train.images, strict=False):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    return Place(store, ids, images)


def _files(key: str) -> dict[str, bytes]:
    return {} if key == "trial-1" else {"recipe.toml": RECIPE.to_toml().encode()}


class TestWhatIsSaid:
    def expected(self, place: Place, recipe: Recipe) -> list[list[tuple[str, str]]]:
        """Classes and percentages of each picture, by fresh weights of `recipe`, the likeliest first."""
        images = torch.stack([read_image(path) for path in place.images])
        data = synthetic_splits(torch.Generator().manual_seed(0), train=16, val=8)
        model = TrainState.create(recipe, data, CPU).model
        found = predict(model, Split(images, torch.zeros(2, dtype=torch.long)), CPU, "half").probabilities
        order = found.argsort(1, descending=True)
        return [
            [(CLASSES[index], f"{100 * row[index]:.1f} %") for index in indices.tolist()]
            for row, indices in zip(found, order, strict=True)
        ]

    def test_a_line_for_each_picture_and_a_warning(self, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
        assert place.main(place.ids["confirm-1-0"], *map(str, place.images)) == 0
        said = capsys.readouterr()
        assert said.err == ""
        head, *lines, last = said.out.splitlines()
        assert head.split() == ["picture", "class", "probability", "next"]
        for path, line, likely in zip(place.images, lines, self.expected(place, RECIPE), strict=True):
            (name, share), (second, second_share), (third, third_share) = likely[:3]
            assert line.startswith(f"{path}  ")
            assert line.removeprefix(str(path)).split() == (
                f"{name} {share} {second} {second_share}, {third} {third_share}".split()
            )
        assert last == (
            "These are the classes that it knows: airplane, automobile, bird, cat, deer, dog, frog, horse, ship, "
            "truck. A picture of anything else gets one of them too."
        )

    def test_columns_stand_below_each_other(self, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
        long = place.images[0].with_name("x" * 150 + ".png")
        shutil.copyfile(place.images[0], long)
        assert place.main("confirm-1-0 three_conv", str(place.images[0]), str(long)) == 0
        head, first, second, _ = capsys.readouterr().out.splitlines()
        assert second.startswith(f"{long}  ")
        assert first[head.index("class") :] == second[head.index("class") :]

    def test_the_best_weights_speak_where_the_run_kept_them(
        self, place: Place, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert place.main("three_conv-seed0 three_conv", str(place.images[0])) == 0
        [first, _] = self.expected(place, replace(RECIPE, seed=1))
        assert first[0][1] in capsys.readouterr().out.splitlines()[1]
        best = load_weights(RECIPE, place.store.weights("systems", "three_conv-seed0")).state_dict()
        last = load_weights(RECIPE, place.store.weights("a study", "confirm-1-0")).state_dict()
        assert not all(torch.equal(best[name], last[name]) for name in best)

    @pytest.mark.parametrize(("top", "commas"), [(1, 0), (2, 0), (10, 8)])
    def test_as_many_classes_as_asked_for(
        self, place: Place, capsys: pytest.CaptureFixture[str], top: int, commas: int
    ) -> None:
        assert place.main("confirm-1-0 three_conv", str(place.images[0]), "--top", str(top)) == 0
        head, line, _ = capsys.readouterr().out.splitlines()
        assert ("next" in head) == (top > 1)
        assert line.count(",") == commas
        assert sum(name in line for name in CLASSES) >= top


class TestRunsThatAreMeant:
    RUNS = (
        KnownRun("abcd1111", "first", "a study", Path("none")),
        KnownRun("abcd2222", "second", "a study", Path("none")),
        KnownRun("ef013333", "abcd", "systems", Path("none")),
        KnownRun("ef01", "abcd1111", "systems", Path("none")),
    )

    @pytest.mark.parametrize(
        ("wanted", "run"),
        [
            ("abcd1111", "abcd1111"),
            ("abcd2", "abcd2222"),
            ("second", "abcd2222"),
            ("ef01", "ef01"),
            ("ef013", "ef013333"),
        ],
    )
    def test_by_id_by_its_beginning_and_by_name(self, wanted: str, run: str) -> None:
        assert find_run(wanted, self.RUNS).run_id == run

    @pytest.mark.parametrize("wanted", ["abc", "ef0", "", "firs", "xyzt", "abcd11111"])
    def test_none(self, wanted: str) -> None:
        with pytest.raises(UsageError) as error:
            find_run(wanted, self.RUNS)
        assert str(error.value) == (
            f"RUN must be a run's id, at least 4 of its first letters, or its name, but no run is {wanted!r}; "
            "so far none kept its weights; confirmed runs, reproductions and trials with --keep-weights do"
        )

    def test_several(self) -> None:
        with pytest.raises(UsageError) as error:
            find_run("abcd", self.RUNS)
        assert str(error.value) == (
            "RUN must be one run, but 'abcd' may be abcd1111 (first in a study), abcd2222 (second in a study), "
            "ef013333 (abcd in systems)"
        )

    def test_many(self) -> None:
        runs = [KnownRun(f"{number:08}", "same", "s", Path("none")) for number in range(8)]
        with pytest.raises(UsageError, match=r"may be 00000000 \(same in s\), (.*), 3 more$"):
            find_run("same", runs)

    def test_beginnings_are_found_in_every_experiment(self, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
        for key in ("confirm-1-0", "three_conv-seed0"):
            assert place.main(place.ids[key][:12], str(place.images[0])) == 0
            assert str(place.images[0]) in capsys.readouterr().out


class TestRefusals:
    def test_several_runs_of_a_name(self, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
        said = place.refused(capsys, "twins", str(place.images[0]))
        assert said.startswith("RUN must be one run, but 'twins' may be ")
        assert all(f"{place.ids[key]} (twins in a study)" in said for key in ("trial-0", "trial-1"))

    def test_an_unknown_run_names_those_that_would_do(self, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
        said = place.refused(capsys, "nope", str(place.images[0]))
        assert said == (
            "RUN must be a run's id, at least 4 of its first letters, or its name, but no run is 'nope'; weights were "
            f"kept by three_conv-seed0 three_conv ({place.ids['three_conv-seed0'][:8]}), "
            f"confirm-1-0 three_conv ({place.ids['confirm-1-0'][:8]})"
        )

    @pytest.mark.parametrize("wanted", ["trial-0", "a study"])
    def test_a_run_without_weights(self, place: Place, capsys: pytest.CaptureFixture[str], wanted: str) -> None:
        said = place.refused(capsys, place.ids.get(wanted, wanted), str(place.images[0]))
        name = {"trial-0": "twins"}.get(wanted, wanted)
        assert re.fullmatch(
            rf"run '{name}' \([0-9a-f]{{32}}\) kept no weights: weights were kept by three_conv-seed0 .*", said
        )

    def test_pictures_are_all_looked_at_first(self, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
        bad = place.images[0].with_name("bad.png")
        bad.write_text("hello")
        said = place.refused(capsys, "confirm-1-0 three_conv", str(place.images[0]), str(bad))
        assert said == f"{bad}: this must be a readable picture, but got: no image format that is known"

    def test_damaged_weights(self, place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        shutil.copytree(place.store.root, tmp_path / "store")
        copy = replace(place, store=Store.locate(tmp_path / "store"))
        path = copy.store.weights("a study", "confirm-1-0")
        path.write_bytes(path.read_bytes()[:-1] + b"?")
        said = copy.refused(capsys, "confirm-1-0 three_conv", str(place.images[0]))
        assert re.fullmatch(rf"{path}: SHA-256 must be [0-9a-f]{{64}}, but got [0-9a-f]{{64}}", said)

    def test_a_lost_recipe(self, place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        shutil.copytree(place.store.root, tmp_path / "store")
        copy = replace(place, store=Store.locate(tmp_path / "store"))
        weights = copy.store.weights("a study", "confirm-1-0")
        for path in (weights, weights.with_name(f"{weights.name}.sha256")):
            shutil.copyfile(path, path.with_name(path.name.replace("confirm-1-0", "trial-1")))
        said = copy.refused(capsys, place.ids["trial-1"], str(place.images[0]))
        assert said == f"a run must have the artifact recipe.toml, but {place.ids['trial-1']} has none"

    def test_no_store(self, place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        copy = replace(place, store=Store.locate(tmp_path / "none"))
        said = copy.refused(capsys, "a run", str(place.images[0]))
        assert said == f"a store must hold mlflow.db, but there is no {tmp_path}/none/mlflow.db"
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("top", ["0", "11", "x", "2.5"])
    def test_too_many_classes(self, capsys: pytest.CaptureFixture[str], top: str) -> None:
        with pytest.raises(SystemExit) as ended:
            command.main(["run", "a.png", "--top", top])
        assert ended.value.code == 2
        assert capsys.readouterr().err == (
            f"predict.py: error: argument --top: must be a whole number from 1 to 10, but got {top!r} "
            "(--help lists the options)\n"
        )
