"""Pictures: valid and small PNG, with the right images in the right places."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from cifar_core.data import Split
from cifar_core.data.data_set import CIFAR10
from cifar_core.evaluation import pictures
from cifar_core.evaluation.metrics import Predictions
from tests.cifar_core.support import seeded, synthetic

GREEN, RED = (26, 127, 55), (198, 40, 40)


@pytest.fixture(scope="module")
def split() -> Split:
    return synthetic(0, 60).val


@pytest.fixture(scope="module")
def predictions(split: Split) -> Predictions:
    """Half of them right."""
    logits = torch.randn(len(split), 10, generator=seeded())
    logits[torch.arange(30), split.labels[:30]] += 10
    return Predictions(logits.softmax(1), split.labels)


def pixels(png: bytes) -> Tensor:
    """uint8 (3, H, W)"""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.mode == "RGB"
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def holds(picture: Tensor, image: Tensor, scale: int) -> bool:
    """Return true if `picture` contains `image`, enlarged by `scale`."""
    large = image.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    _, height, width = large.shape
    corners = (picture[:, : -height + 1, : -width + 1] == large[:, :1, :1]).all(0).nonzero().tolist()
    return any(torch.equal(picture[:, y : y + height, x : x + width], large) for y, x in corners)


def has_colour(picture: Tensor, colour: tuple[int, int, int]) -> bool:
    return bool((picture == torch.tensor(colour).view(3, 1, 1)).all(0).any())


def test_artifacts_of_a_trial_fit_in_310_kb() -> None:
    # Noise is the worst case for PNG.
    generator = seeded()
    noise = torch.randint(0, 256, (32, 3, 32, 32), dtype=torch.uint8, generator=generator)
    split = Split(noise, torch.arange(32) % 10)
    wrong = Predictions(torch.rand(32, 10, generator=generator).softmax(1), (torch.arange(32) + 5) % 10)
    parts = (
        pictures.confident_mistakes(split, wrong),
        pictures.unlabelled(noise.float() / 255),
        pictures.confusion(torch.randint(0, 500, (10, 10), generator=generator), CIFAR10.classes),
        pictures.class_accuracies(dict.fromkeys(CIFAR10.classes, 0.5)),
    )
    assert sum(map(len, parts)) < 310_000


def test_first_images_are_shown(split: Split, predictions: Predictions) -> None:
    for png, count in (
        (pictures.samples(split), 32),
        (pictures.predictions_grid(split, predictions), 20),
    ):
        picture = pixels(png)
        assert [holds(picture, image, 3) for image in split.images[: count + 1]] == [True] * count + [False]


def test_mistakes_are_the_most_confident_ones(split: Split, predictions: Predictions) -> None:
    picture = pixels(pictures.confident_mistakes(split, predictions))
    shown = predictions.confident_mistakes(19).tolist()
    assert [holds(picture, split.images[index], 3) for index in shown] == [True] * 18 + [False]
    assert has_colour(picture, RED)
    assert not has_colour(picture, GREEN)


def test_titles_are_green_where_right_and_red_where_wrong(split: Split) -> None:
    right, wrong = (torch.eye(10)[(split.labels + shift) % 10] for shift in (0, 1))
    mixed = torch.cat([right[:1], wrong[1:]])
    for probabilities, colours in ((right, (True, False)), (wrong, (False, True)), (mixed, (True, True))):
        picture = pixels(pictures.predictions_grid(split, Predictions(probabilities, split.labels)))
        assert (has_colour(picture, GREEN), has_colour(picture, RED)) == colours
    for probabilities, colours in ((right, (True, False)), (wrong, (False, True))):
        picture = pixels(pictures.first_prediction(split, Predictions(probabilities, split.labels)))
        assert holds(picture, split.images[0], 6)
        assert (has_colour(picture, GREEN), has_colour(picture, RED)) == colours


def test_bars_are_as_long_as_the_accuracies_and_begin_with_the_weakest() -> None:
    picture = pixels(pictures.class_accuracies({"cat": 0.5, "ship": 1.0, "frog": float("nan"), "dog": 0.25}))
    green = (picture == torch.tensor(GREEN).view(3, 1, 1)).all(0).sum(1)
    lengths = [length for length, before in zip(green.tolist(), [0, *green.tolist()], strict=False) if length > before]
    assert lengths == [121, 241, 481]


def test_of_hundreds_of_classes_the_weakest_are_drawn() -> None:
    few, many = ({f"class {n}": n / count for n in range(count)} for count in (50, 200))
    assert pixels(pictures.class_accuracies(many)).shape[1] == pixels(pictures.class_accuracies(few)).shape[1] + 22


@pytest.mark.parametrize("count", [1, 5, 32])
def test_unlabelled_shows_all_images(split: Split, count: int) -> None:
    picture = pixels(pictures.unlabelled(split.images[:count].float() / 255))
    assert all(holds(picture, image, 3) for image in split.images[:count])


def test_unlabelled_clips_what_is_out_of_range() -> None:
    images = torch.tensor([-0.5, 1.5]).view(2, 1, 1, 1).expand(2, 3, 32, 32)
    picture = pixels(pictures.unlabelled(images))
    assert holds(picture, torch.zeros(3, 32, 32, dtype=torch.uint8), 3)
    assert holds(picture, torch.full((3, 32, 32), 255, dtype=torch.uint8), 3)


@pytest.mark.parametrize("matrix", [torch.eye(10, dtype=torch.int64) * 500, torch.zeros(10, 10, dtype=torch.int64)])
def test_confusion_of_nothing_wrong_and_of_nothing_at_all(matrix: Tensor) -> None:
    picture = pixels(pictures.confusion(matrix, CIFAR10.classes))
    assert has_colour(picture, (46, 125, 50)) == bool(matrix.any())
    assert not has_colour(picture, RED)


def test_confusion_shades_the_cell_of_true_row_and_predicted_column() -> None:
    matrix = torch.eye(10, dtype=torch.int64)
    matrix[2, 7], matrix[2, 2] = 1, 0
    reds = (pixels(pictures.confusion(matrix, CIFAR10.classes)) == torch.tensor(RED).view(3, 1, 1)).all(0)
    plain = pixels(pictures.confusion(torch.eye(10, dtype=torch.int64), CIFAR10.classes))
    greens = (plain == torch.tensor([46, 125, 50]).view(3, 1, 1)).all(0).nonzero()
    size = greens.max(0).values - greens.min(0).values  # of the ten cells together
    row, column = ((reds.nonzero().float().mean(0) - greens.min(0).values) / size * 10).int().tolist()
    assert (row, column) == (2, 7)
    matrix[2, 2] = 2
    third = pictures.confusion(matrix, CIFAR10.classes)
    assert not has_colour(pixels(third), RED), "a third is not as red as all"


@pytest.mark.parametrize(("count", "numbers"), [(10, True), (22, True), (50, True), (51, False)])
def test_a_confusion_matrix_has_numbers_while_its_cells_have_room(count: int, numbers: bool) -> None:
    one, two = (pictures.confusion(torch.eye(count, dtype=torch.int64) * n, ["a"] * count) for n in (1, 2))
    assert (one != two) == numbers


@pytest.mark.parametrize(("name", "turned"), [("cat", False), ("signs and symbols", True)])
def test_names_above_a_confusion_matrix_are_turned_where_they_are_wider_than_a_cell(name: str, turned: bool) -> None:
    plain, named = (
        pixels(pictures.confusion(torch.zeros(10, 10, dtype=torch.int64), [*["a"] * 9, last])) for last in ("a", name)
    )
    assert (named.shape[1] > plain.shape[1]) == turned
    assert bool((named[:, : named.shape[1] - 624, -60:] < 128).any()), "the last column has a name"


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_images_still_make_a_picture(split: Split, count: int) -> None:
    few = split.head(count)
    wrong = Predictions(torch.eye(10)[(few.labels + 1) % 10], few.labels)
    for png in (
        pictures.samples(few),
        pictures.confident_mistakes(few, wrong),
        pictures.predictions_grid(few, wrong),
    ):
        picture = pixels(png)
        assert all(holds(picture, image, 3) for image in few.images)


@pytest.mark.parametrize("count", [2, 20, 21, 80, 200])
def test_a_confusion_matrix_of_any_number_of_classes_is_small(count: int) -> None:
    names = [f"{number} {'ö' * 150}" for number in range(count)]
    content = pictures.confusion(torch.eye(count, dtype=torch.int64) * 20, names)
    picture = pixels(content)
    assert has_colour(picture, (46, 125, 50))
    assert max(picture.shape) < 1700
    assert len(content) < 100_000


def test_letters_of_other_languages_differ() -> None:
    """A font without them draws the same box for each."""
    matrix = torch.eye(2, dtype=torch.int64)
    drawn = {pictures.confusion(matrix, (name, "b")) for name in ("ß", "ж", "λ", "ø")}
    assert len(drawn) == 4
