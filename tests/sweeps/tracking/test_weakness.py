"""The report on weaknesses: true sentences in every case, and the classes in order."""

from __future__ import annotations

import pytest
import torch

from cifar_core.data import CLASSES
from cifar_core.evaluation.metrics import Predictions
from sweeps.tracking.weakness import weakness_report


def judged(counts: dict[tuple[str, str], int]) -> Predictions:
    """So many images of each (true class, predicted class)."""
    pairs = [
        (CLASSES.index(true), CLASSES.index(predicted))
        for true, predicted in counts
        for _ in range(counts[true, predicted])
    ]
    labels = torch.tensor([true for true, _ in pairs], dtype=torch.int64)
    return Predictions(torch.eye(10)[torch.tensor([predicted for _, predicted in pairs], dtype=torch.int64)], labels)


def first(counts: dict[tuple[str, str], int]) -> str:
    return weakness_report(judged(counts)).split("\n")[0]


def last(counts: dict[tuple[str, str], int]) -> str:
    return weakness_report(judged(counts)).rstrip("\n").split("\n")[-1]


def test_whole_report() -> None:
    counts = {
        ("cat", "cat"): 1,
        ("cat", "dog"): 2,
        ("cat", "frog"): 1,
        ("dog", "dog"): 1,
        ("dog", "cat"): 1,
        ("ship", "ship"): 1_200,
        ("truck", "truck"): 3,
        ("truck", "ship"): 1,
        ("truck", "automobile"): 1,
    }
    assert weakness_report(judged(counts)) == (
        "Animals are the weaker group: accuracy 33.33 % (2 of 6), on vehicles 99.83 % (1,203 of 1,205).\n"
        "\n"
        "| class | group | accuracy in % | correct / total | most often taken for |\n"
        "| --- | --- | ---: | ---: | --- |\n"
        "| cat | animal | 25.00 | 1 / 4 | dog (2) |\n"
        "| dog | animal | 50.00 | 1 / 2 | cat (1) |\n"
        "| truck | vehicle | 60.00 | 3 / 5 | automobile and ship (1 each) |\n"
        "| ship | vehicle | 100.00 | 1,200 / 1,200 | - |\n"
        "| airplane | vehicle | - | 0 / 0 | - |\n"
        "| automobile | vehicle | - | 0 / 0 | - |\n"
        "| bird | animal | - | 0 / 0 | - |\n"
        "| deer | animal | - | 0 / 0 | - |\n"
        "| frog | animal | - | 0 / 0 | - |\n"
        "| horse | animal | - | 0 / 0 | - |\n"
        "\n"
        "The weakest class is cat, with an accuracy of 25.00 %; the pair most often confused with each other is cat "
        "and dog, with 3 mistakes: 2 cat images taken for dog and 1 dog image taken for cat.\n"
    )


def test_no_images() -> None:
    assert weakness_report(judged({})) == "There are no images to judge.\n"


@pytest.mark.parametrize(
    ("counts", "sentence"),
    [
        (
            {("ship", "cat"): 1, ("cat", "cat"): 1},
            "Vehicles are the weaker group: accuracy 0.00 % (0 of 1), on animals 100.00 % (1 of 1).",
        ),
        (
            {("ship", "ship"): 1, ("ship", "cat"): 2, ("cat", "cat"): 2, ("dog", "cat"): 4},
            "Animals and vehicles are recognised equally well: 33.33 % (2 of 6) and 33.33 % (1 of 3).",
        ),
        (
            {("cat", "cat"): 1, ("cat", "ship"): 1},
            "Accuracy on animals is 50.00 % (1 of 2); there are no vehicles among the images.",
        ),
        (
            {("ship", "ship"): 3},
            "Accuracy on vehicles is 100.00 % (3 of 3); there are no animals among the images.",
        ),
    ],
    ids=["vehicles", "equal", "animals only", "vehicles only"],
)
def test_first_sentence(counts: dict[tuple[str, str], int], sentence: str) -> None:
    assert first(counts) == sentence


@pytest.mark.parametrize(
    ("counts", "sentence"),
    [
        (
            {(name, name): 2 for name in CLASSES},
            "All classes are equally strong, with an accuracy of 100.00 %; no image is taken for another class.",
        ),
        (
            {("cat", "dog"): 1},
            "The only class with images is cat, with an accuracy of 0.00 %; the pair most often confused with each "
            "other is cat and dog, with 1 mistake: 1 cat image taken for dog and 0 dog images taken for cat.",
        ),
        (
            {("cat", "dog"): 1, ("ship", "truck"): 1},
            "The 2 classes with images are equally strong, with an accuracy of 0.00 %; the pairs most often confused "
            "with each other are cat/dog and ship/truck, with 1 mistake each.",
        ),
        (
            {("cat", "dog"): 2, ("ship", "truck"): 1, ("truck", "ship"): 1, ("bird", "bird"): 1, ("truck", "truck"): 2},
            "The weakest classes are cat and ship, each with an accuracy of 0.00 %; the pairs most often confused with "
            "each other are cat/dog and ship/truck, with 2 mistakes each.",
        ),
        (
            {(name, "cat"): 1 for name in CLASSES},
            "The weakest classes are airplane, automobile, bird and 6 more, each with an accuracy of 0.00 %; the pairs "
            "most often confused with each other are airplane/cat, automobile/cat, bird/cat and 6 more, with "
            "1 mistake each.",
        ),
    ],
    ids=["perfect", "one class", "all equal", "two weakest", "many equal"],
)
def test_last_sentence(counts: dict[tuple[str, str], int], sentence: str) -> None:
    assert last(counts) == sentence


def test_both_directions_of_a_confusion_count() -> None:
    counts = {("cat", "dog"): 3, ("bird", "deer"): 2, ("deer", "bird"): 2, ("cat", "cat"): 9, ("deer", "deer"): 9}
    assert "bird and deer, with 4 mistakes: 2 bird images taken for deer and 2 deer images taken for bird." in last(
        counts
    )
