"""Artifacts of a run: every file is there, and says what the predictions say."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from PIL import Image

from cifar_core.data import Split
from cifar_core.data.data_set import CIFAR10
from cifar_core.evaluation.metrics import Predictions
from cifar_core.recipe import Recipe
from sweeps.tracking import artifacts
from tests.synthetic import synthetic_splits

RECIPE = Recipe(model="three_conv", width=0.25, translate=4, cutout=8, color_jitter=0.4, seed=3)


@pytest.fixture(scope="module")
def split() -> Split:
    return synthetic_splits(torch.Generator().manual_seed(0), train=40, val=8).train


@pytest.fixture(scope="module")
def predictions(split: Split) -> Predictions:
    """Three quarters of the images right, the others taken for the class after theirs."""
    taken_for = (split.labels + (torch.arange(len(split)) % 4 == 0)) % len(CIFAR10.classes)
    probabilities = torch.full((len(split), len(CIFAR10.classes)), 0.05)
    probabilities[torch.arange(len(split)), taken_for] = 0.55
    return Predictions(probabilities, split.labels)


def pictures(files: Mapping[str, bytes]) -> set[str]:
    """The names of the pictures, once they have been found to be some."""
    names = {name for name in files if name.endswith(".png")}
    for name in names:
        with Image.open(io.BytesIO(files[name])) as image:
            image.load()
    return names


class TestOfTraining:
    @pytest.mark.parametrize("images", [40, 3], ids=["", "fewer than the picture has room for"])
    def test_the_network_and_its_images(self, split: Split, images: int) -> None:
        files = artifacts.of_training(RECIPE, split.head(images))
        assert set(files) == {"summary.txt", "pictures/augmented.png"}
        assert pictures(files) == {"pictures/augmented.png"}
        assert files["summary.txt"].decode().startswith("layer")

    def test_the_same_seed_gives_the_same_picture_and_draws_nothing(self, split: Split) -> None:
        generator = torch.get_rng_state()
        first, again, other = (
            artifacts.of_training(recipe, split)["pictures/augmented.png"]
            for recipe in (RECIPE, RECIPE, replace(RECIPE, seed=4))
        )
        assert first == again != other
        assert torch.equal(torch.get_rng_state(), generator)


class TestOfPredictions:
    def test_names_and_contents(self, split: Split, predictions: Predictions) -> None:
        files = artifacts.of_predictions(split, predictions)
        shown = {f"pictures/{name}.png" for name in ("classes", "confusion", "mistakes", "predictions")}
        assert set(files) == shown | {"confusion.json", "weakness.md", "predictions.csv"}
        assert artifacts.right_answers(files["predictions.csv"]) == (predictions.classes == predictions.labels).tolist()
        assert pictures(files) == shown
        content = json.loads(files["confusion.json"])
        assert content == {"classes": list(CIFAR10.classes), "matrix": predictions.confusion().tolist()}
        assert sum(map(sum, content["matrix"])) == 40
        assert sum(content["matrix"][k][k] for k in range(10)) == 30
        accuracies = predictions.class_accuracy()
        assert CIFAR10.classes[accuracies.index(min(accuracies))] in files["weakness.md"].decode()

    def test_nothing_wrong_and_a_class_without_images(self, split: Split) -> None:
        some = Split(split.images[split.labels != 3], split.labels[split.labels != 3])
        right = Predictions(torch.nn.functional.one_hot(some.labels, 10).float(), some.labels)
        files = artifacts.of_predictions(some, right)
        assert len(pictures(files)) == 3


def test_of_test(split: Split, predictions: Predictions) -> None:
    """The same in a folder of its own, and the first prediction."""
    files = artifacts.of_test(split, predictions)
    validated = artifacts.of_predictions(split, predictions)
    same = {f"test/{name.rpartition('/')[2]}": content for name, content in validated.items()}
    assert files.items() >= same.items()
    assert set(files) - set(same) == {"test/prediction.png", "test/prediction.json"}
    rows = list(csv.DictReader(io.StringIO(files["test/predictions.csv"].decode())))
    assert [int(row["index"]) for row in rows] == list(range(40))
    assert [row["true"] for row in rows] == [CIFAR10.classes[label] for label in split.labels]
    assert [row["predicted"] for row in rows] == [CIFAR10.classes[index] for index in predictions.classes]
    assert {row["probability"] for row in rows} == {"0.55"}
    assert json.loads(files["test/prediction.json"]) == {**rows[0], "index": 0, "probability": 0.55}
