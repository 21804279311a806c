"""From a folder of pictures to tensors: all kinds of files, splits, duplicates, the cache, and CIFAR-10 itself."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from cifar_core.data import DataError, Split, Splits, own_images
from cifar_core.data.data_set import CIFAR10
from cifar_core.data.decoding import status
from cifar_core.data.image_file import read_image
from cifar_core.data.own_images import SIDES, ImageSource, prepare
from cifar_core.data.picture_cache import CachedPictures, find_cached
from cifar_core.data.source import DataSource
from cifar_core.recipe import Recipe
from cifar_core.training import EvalSchedule, TrainState, train
from tests.cifar_core.support import FP32, identical, refusal, synthetic, weights
from tests.pictures import write_broken, write_oddities, write_pictures

COUNTS = {"cat": 30, "dog": 20, "a|b <i>": 12}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "cifar-sweeps" / "pictures"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("written") / "pets", COUNTS)


@pytest.fixture
def pets(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "pets"))


def made(folder: Path, **options: bool | int | Path) -> CachedPictures:
    return prepare(ImageSource(folder=folder, **options), lambda what, done, total: None)  # type: ignore[arg-type]


def read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on nothing may be decoded."""
    monkeypatch.setattr(own_images, "decode", lambda *_: pytest.fail("pictures were read again"))


@pytest.mark.parametrize("side", SIDES)
def test_a_folder_becomes_a_data_set(pets: Path, side: int) -> None:
    cached = made(pets, side=side)
    data, test = cached.load_train_val(), cached.load_test()
    data_set = cached.data_set
    assert (data_set.name, data_set.classes, data_set.side) == ("pets", ("a|b <i>", "cat", "dog"), side)
    splits = {"train": data.train, "val": data.val, "test": test}
    sizes = (data_set.train_images, data_set.val_images, data_set.test_images)
    assert tuple(map(len, splits.values())) == sizes
    assert sum(sizes) == sum(COUNTS.values())
    assert all(split.images.shape[1:] == (3, side, side) and split.data_set == data_set for split in splits.values())
    assert Counter(torch.cat([split.labels for split in splits.values()]).tolist()) == {0: 12, 1: 30, 2: 20}
    everything = data.everything().images.double() / 255
    assert torch.allclose(everything.mean((0, 2, 3)), torch.tensor(data_set.mean, dtype=torch.double))
    assert torch.allclose(everything.std((0, 2, 3), correction=0), torch.tensor(data_set.std, dtype=torch.double))
    assert cached.notes[0] == (
        f"found 62 pictures of 3 classes (12 to 30 of each): {sizes[0]} to train, {sizes[1]} to validate, "
        f"{sizes[2]} to test; 56 x 40 pixels, cropped to the square in the middle and scaled to {side} x {side}"
    )
    assert cached.notes[1].startswith("classes are uneven, from 'a|b <i>' (12) to 'cat' (30): balanced accuracy")
    assert cached.notes[2].startswith(
        "10 % to test and 20 % to validate are drawn by the content of the pictures, so that they stay when others are "
        "added, except in small classes; "
    )


def test_splits_are_the_same_for_every_size(pets: Path) -> None:
    assert (
        len({(c.data_set.train_images, c.data_set.val_images) for c in (made(pets, side=side) for side in SIDES)}) == 1
    )


def test_pictures_are_read_once_and_again_when_one_has_changed(
    pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = made(pets)
    with monkeypatch.context() as patched:
        read_once(patched)
        assert made(pets) == first
        monkeypatch.chdir(tmp_path)
        assert made(Path("pets")) == first
    write_pictures(pets, {"cat": 1}, seed=7)
    said: list[str] = []
    second = prepare(ImageSource(folder=pets), lambda what, done, total: said.append(what))
    assert second.data_set.sha256 != first.data_set.sha256
    before, now = first.data_set.sha256[:12], second.data_set.sha256[:12]
    assert said[-1] == f"the pictures have changed: their content was {before}, and is {now} now"
    shutil.rmtree(pets)
    assert len(first.load_train_val().train) == first.data_set.train_images  # a study of them can still be resumed


def test_the_same_content_in_another_folder_is_the_same_data(pets: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(pets, tmp_path / "moved"))
    one, other = made(pets).data_set, made(moved).data_set
    assert other == replace(one, name="moved")
    assert [made(folder).data_set.name for folder in (pets, moved)] == ["pets", "moved"]
    for name in ("pets", "moved"):
        found = DataSource.find(one.sha256, name, None, lambda *_: None)
        assert found.train_val().train.data_set.name == found.test().data_set.name == name


def test_a_folder_whose_name_is_not_utf8(pets: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(pets, tmp_path / os.fsdecode(b"B\xe4ume")))
    assert made(folder).data_set.name == "B_ume"


def test_given_training_pictures_whose_names_sort_them_by_class_alternate(tmp_path: Path) -> None:
    folder = tmp_path / "given"
    for split in ("train", "val", "test"):
        write_pictures(folder / split, {"cat": 6, "dog": 6}, seed=ord(split[1]))
    for path in (folder / "train").glob("*/*"):
        path.rename(path.with_name(f"{path.parent.name}-{path.name}"))
    assert made(folder).load_train_val().train.labels.tolist() == [0, 1] * 6


def test_a_damaged_cache(pets: Path) -> None:
    cached = made(pets)
    path = cached.folder / "val-images.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    assert len(cached.load_test()) == cached.data_set.test_images
    for damaged in (bytes(content), b""):
        path.write_bytes(damaged)
        said = refusal(cached.load_train_val, DataError)
        assert said.startswith(f"{path}: SHA-256 must be ")
        assert said.endswith("; delete its folder to read the pictures again")
    for facts in ("[]", "{}", ""):
        (cached.folder / "data.json").write_text(facts)
        said = refusal(cached.load_train_val, DataError)
        assert said.startswith(f"{cached.folder}: these pictures must be readable, but: ")
        assert said.endswith("; delete its folder to read the pictures again")
    shutil.rmtree(cached.folder)
    assert made(pets).load_train_val().val.images.shape == (cached.data_set.val_images, 3, 32, 32)


def test_a_cache_that_lacks_an_array_is_written_again(pets: Path) -> None:
    cached = made(pets)
    path = cached.folder / "test-images.npy"
    path.unlink()
    said = refusal(cached.load_test, DataError)
    assert said.startswith(f"{path}: these pictures must be readable, but: ")
    assert said.endswith("; delete its folder to read the pictures again")
    assert find_cached(cached.data_set.sha256) is None
    assert len(made(pets).load_test()) == cached.data_set.test_images


def test_notes_are_those_of_the_folder_and_not_of_the_same_pictures_elsewhere(pets: Path) -> None:
    plain = made(pets)
    write_broken(pets / "cat")  # left out, so that the content stays
    first = made(pets, skip_unreadable=True)
    assert first.data_set == plain.data_set
    assert any(note.startswith("4 of 66 files are left out") for note in first.notes)
    assert made(pets, skip_unreadable=True) == first


def test_pictures_of_all_kinds(pets: Path) -> None:
    (pets / "odd").mkdir()
    names = write_oddities(pets / "odd")
    cached = made(pets)
    data = cached.load_train_val()
    label = cached.data_set.classes.index("odd")
    found = [s.images[s.labels == label] for s in (data.train, data.val, cached.load_test())]
    expected = {read_image(pets / "odd" / name, 32).numpy().tobytes() for name in names}
    assert len(expected) == len(names)
    assert {image.numpy().tobytes() for image in torch.cat(found)} == expected


def test_files_that_are_no_pictures(pets: Path, cache: Path) -> None:
    broken = write_broken(pets / "cat")
    said = refusal(lambda: made(pets), DataError)
    assert said.startswith(
        f"4 of 66 files are no readable pictures: {pets}/cat/bomb.png: this must be a readable picture, but got: "
        f"it must take at most 2 GB once decoded, but takes 14.4 GB; {pets}/cat/empty.jpg: this must be a readable "
        "picture, but got: no known image format; and 2 more ("
    )
    assert said.endswith("/unreadable.txt lists them all; --skip-unreadable leaves them out)")
    cached = made(pets, skip_unreadable=True)
    [note] = [note for note in cached.notes if "left out" in note]
    listing = Path(note.rpartition("; ")[2].removesuffix(" lists them"))
    assert note == f"4 of 66 files are left out, as they are no readable pictures; {listing} lists them"
    lines = listing.read_text().splitlines()
    assert [line.partition(": this must")[0] for line in lines] == [f"{pets}/cat/{name}" for name in broken]
    assert cached.data_set.sha256 == made_without(pets, broken).data_set.sha256


def test_a_named_pipe_is_no_readable_picture(pets: Path) -> None:
    pipe = pets / "cat" / "pipe.jpg"
    os.mkfifo(pipe)
    said = refusal(lambda: made(pets), DataError)
    assert f" {pipe}: this must be a readable picture, but got: not a regular file (" in said
    assert made(pets, skip_unreadable=True).data_set.sha256 == made_without(pets, ["pipe.jpg"]).data_set.sha256


def test_a_link_that_leads_nowhere_is_no_readable_picture(pets: Path) -> None:
    (pets / "cat" / "gone.jpg").symlink_to(pets / "nothing.jpg")
    said = refusal(lambda: made(pets), DataError)
    assert said.startswith(f"1 of 63 files are no readable pictures: {pets}/cat/gone.jpg: "), said
    assert made(pets, skip_unreadable=True).data_set.sha256 == made_without(pets, ["gone.jpg"]).data_set.sha256


def test_a_link_to_itself_is_no_readable_picture(pets: Path) -> None:
    (pets / "cat" / "loop.jpg").symlink_to(pets / "cat" / "loop.jpg")
    said = refusal(lambda: made(pets), DataError)
    assert said.startswith(f"1 of 63 files are no readable pictures: {pets}/cat/loop.jpg: "), said


def test_the_share_to_validate_is_of_the_pictures_that_it_is_drawn_from(
    pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A given test split must not make the drawn validation split smaller than it would be without."""
    counted: list[int] = []

    def shares(count: int, _: object) -> dict[str, float]:
        counted.append(count)
        return {"val": 0.2}

    monkeypatch.setattr(own_images, "shares", shares)
    both = tmp_path / "both"
    shutil.copytree(pets, both / "train")
    write_pictures(both / "test", dict.fromkeys(COUNTS, 3), seed=9)
    made(both)
    assert counted == [sum(COUNTS.values())]


def made_without(folder: Path, names: list[str]) -> CachedPictures:
    for name in names:
        (folder / "cat" / name).unlink()
    return made(folder)


def test_duplicates_lie_in_one_split(pets: Path) -> None:
    for number, path in enumerate(sorted((pets / "cat").iterdir())):
        shutil.copy(path, path.with_name(f"copy-{number}.png"))
        Image.open(path).save(path.with_name(f"again-{number}.bmp"))  # other bytes, the same pixels
    cached = made(pets)
    data = cached.load_train_val()
    splits = [{image.numpy().tobytes() for image in s.images} for s in (data.train, data.val, cached.load_test())]
    assert len(set.union(*splits)) == sum(map(len, splits)) == sum(COUNTS.values())


def test_duplicates_with_two_labels_and_near_duplicates_are_listed(pets: Path) -> None:
    cats = sorted((pets / "cat").iterdir())
    shutil.copy(cats[0], pets / "dog" / "twin.png")
    for path in cats:
        Image.open(path).save(path.with_suffix(".jpg"), quality=95)  # nearly the same
    [note] = [note for note in made(pets).notes if "duplicates.txt" in note]
    lines = Path(note.rpartition("; ")[2].removesuffix(" lists them")).read_text().splitlines()
    near = len(lines) - 1
    assert note.startswith(
        f"pictures with several labels: 1, pairs of nearly the same pictures in different splits: {near};"
    )
    assert f"{cats[0]} (cat, " in lines[0]
    assert f"{pets}/dog/twin.png (dog, " in lines[0]
    assert len(lines) > 5
    assert all(line.startswith("nearly the same picture in two splits: ") for line in lines[1:])


def test_copies_in_given_splits_stay_in_the_last_one(tmp_path: Path) -> None:
    folder = tmp_path / "given"
    for seed, split in enumerate(("train", "test")):
        write_pictures(folder / split, {"cat": 6, "dog": 6}, seed=seed)
    for path in sorted((folder / "test" / "cat").iterdir())[:2]:
        shutil.copy(path, folder / "train" / "cat")
    cached = made(folder)
    sizes = cached.data_set
    assert (sizes.train_images + sizes.val_images, sizes.test_images) == (12, 12)
    assert any(note.startswith("2 pictures are left out, as val/ or test/ has them too") for note in cached.notes)


def test_a_split_without_a_readable_picture(tmp_path: Path) -> None:
    folder = tmp_path / "given"
    write_pictures(folder / "train", {"cat": 6, "dog": 6})
    (folder / "test" / "cat").mkdir(parents=True)
    write_broken(folder / "test" / "cat")
    said = refusal(lambda: made(folder, skip_unreadable=True), DataError)
    assert said == "test/ must have pictures of its own, but all of them are unreadable, or copies from a later split"


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"cat": 5, "dog": 2}, "each class must have at least 3 different training pictures of its own, one for each "
                               "split, but these have fewer: 'dog (2)'"),
        ({"cat": 10, "dog": 10}, ""),
        ({f"class {number:03d}": 3 for number in range(200)}, ""),
    ],
)  # fmt: skip
def test_few_pictures_and_many_classes(tmp_path: Path, counts: dict[str, int], message: str) -> None:
    folder = write_pictures(tmp_path / "some", counts)
    if message:
        assert refusal(lambda: made(folder), DataError) == message
        return
    cached = made(folder)
    data = cached.load_train_val()
    for split in (data.train, data.val, cached.load_test()):
        assert set(split.labels.tolist()) == set(range(len(counts)))


def test_too_few_pictures_are_told_with_what_was_left_out(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "some", {"cat": 8})
    (folder / "dog").mkdir()
    write_broken(folder / "dog")
    said = refusal(lambda: made(folder, skip_unreadable=True), DataError)
    assert "but these have fewer: 'dog (0)'; " in said
    assert " files are left out, as they are no readable pictures; " in said


def test_pictures_that_are_copies_of_another_class_do_not_count(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "some", {"cat": 8, "dog": 2})
    for path in sorted((folder / "cat").iterdir())[:4]:
        shutil.copy(path, folder / "dog" / f"copy-{path.name}")
    assert refusal(lambda: made(folder), DataError).endswith("but these have fewer: 'dog (2)'")


def test_a_plain_colour_can_be_normalised(tmp_path: Path) -> None:
    for kind, name in enumerate(("red", "also red")):
        (tmp_path / "plain" / name).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (40, 40), (90 * kind + 30 * number, 0, 255)).save(
                tmp_path / "plain" / name / f"{number}.png"
            )
    data_set = made(tmp_path / "plain").data_set
    assert data_set.mean[1:] == (0.0, 1.0)
    assert min(data_set.std) > 0


def test_cifar10_as_picture_files_gives_the_same_tensors_and_weights(tmp_path: Path) -> None:
    """Synthetic images stand in for CIFAR-10; the whole set was compared by hand (docs/own-images.md)."""
    data = synthetic(400, 100)
    # As in the fixed split: in the order of the files, and with alternating classes.
    order = torch.cat([(data.val.labels == label).nonzero().squeeze(1) for label in range(10)])
    val, test = data.val.part(order.view(10, -1).T.reshape(-1)), data.train.head(100)
    data = Splits(data.train.part(slice(100, None)), val)
    folder = write_as_files(tmp_path / "cifar-10", {"train": data.train, "val": val, "test": test})
    cached = made(folder)
    found = cached.load_train_val()
    assert cached.data_set.classes == CIFAR10.classes
    for one, other in ((found.train, data.train), (found.val, val), (cached.load_test(), test)):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
    recipe = Recipe(model="fast_resnet", width=0.125, epochs=1.0, batch_size=50, normalisation="half")
    states = [TrainState.create(recipe, each, FP32) for each in (found, data)]
    for state, each in zip(states, (found, data), strict=True):
        list(train(state, each, EvalSchedule()))
    assert identical(*(weights(state.model) for state in states))


def write_as_files(folder: Path, splits: Mapping[str, Split]) -> Path:
    """Write images as PNG files, named by their places."""
    for split, images in splits.items():
        for name in CIFAR10.classes:
            (folder / split / name).mkdir(parents=True)
        for number, (image, label) in enumerate(zip(images.images, images.labels.tolist(), strict=True)):
            path = folder / split / CIFAR10.classes[label] / f"{number:05d}.png"
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    return folder


def test_a_picture_that_vanishes_while_the_folder_is_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "gone.png"
    said = refusal(lambda: status(path), DataError)
    assert said == f"{path}: a picture must be readable, but got: No such file or directory"


def test_a_split_of_ones_own_that_lacks_classes_is_noted(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "pets" / "train", {"cat": 8, "cow": 8, "dog": 8}).parent
    write_pictures(folder / "test", {"cat": 3, "dog": 2}, seed=1)
    write_pictures(folder / "val", {"cow": 3}, seed=2)
    assert made(folder).notes[1:3] == (
        "val/ has no pictures of 'cat', 'dog', so it tells nothing of them",
        "test/ has no pictures of 'cow', so it tells nothing of them",
    )


def test_pictures_of_a_single_colour_are_listed(pets: Path) -> None:
    Image.new("RGB", (40, 40), "red").save(pets / "cat" / "red.png")
    Image.new("RGBA", (40, 40), (255, 255, 255, 0)).save(pets / "dog" / "white.png")
    (note,) = (note for note in made(pets).notes if "single colour" in note)
    count, _, path = note.removesuffix(" lists them").partition("; ")
    assert count == "pictures of a single colour: 2"
    assert Path(path).read_text().splitlines() == [f"{pets}/cat/red.png", f"{pets}/dog/white.png"]
