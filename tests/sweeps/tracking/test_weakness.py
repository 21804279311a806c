"""The report on weaknesses: true sentences in every case, and the classes in order."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cifar_core.data.data_set import CIFAR10
from cifar_core.evaluation.metrics import Predictions
from sweeps.tracking.weakness import weakness_report


def report(counts: str) -> list[str]:
    """Lines of the report on so many images of each true and predicted class, as in "3 cat dog, 1 ship ship"."""
    images = [image.split() for image in counts.split(", ") if image]
    pairs = [
        (CIFAR10.classes.index(true), CIFAR10.classes.index(taken)) for n, true, taken in images for _ in range(int(n))
    ]
    labels, predicted = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).T
    return weakness_report(Predictions(torch.eye(10)[predicted], labels)).splitlines()


def test_whole_report() -> None:
    cats, dogs = "1 cat cat, 2 cat dog, 1 cat frog", "1 dog dog, 1 dog cat"
    assert report(f"{cats}, {dogs}, 1200 ship ship, 3 truck truck, 1 truck ship, 1 truck automobile") == [
        "Animals are the weaker group: accuracy 33.33 % (2 of 6), on vehicles 99.83 % (1,203 of 1,205).",
        "",
        "| class | group | accuracy in % | correct / total | most often taken for |",
        "| --- | --- | ---: | ---: | --- |",
        "| cat | animal | 25.00 | 1 / 4 | dog (2) |",
        "| dog | animal | 50.00 | 1 / 2 | cat (1) |",
        "| truck | vehicle | 60.00 | 3 / 5 | automobile and ship (1 each) |",
        "| ship | vehicle | 100.00 | 1,200 / 1,200 | - |",
        "| airplane | vehicle | - | 0 / 0 | - |",
        "| automobile | vehicle | - | 0 / 0 | - |",
        "| bird | animal | - | 0 / 0 | - |",
        "| deer | animal | - | 0 / 0 | - |",
        "| frog | animal | - | 0 / 0 | - |",
        "| horse | animal | - | 0 / 0 | - |",
        "",
        "The weakest class is cat, with an accuracy of 25.00 %; the pair most often confused with each other is cat "
        "and dog, with 3 mistakes: 2 cat images taken for dog and 1 dog image taken for cat.",
    ]


def test_no_images() -> None:
    assert report("") == ["There are no images to judge."]


@pytest.mark.parametrize(
    ("counts", "sentence"),
    [
        (
            "1 ship cat, 1 cat cat",
            "Vehicles are the weaker group: accuracy 0.00 % (0 of 1), on animals 100.00 % (1 of 1).",
        ),
        (
            "1 ship ship, 2 ship cat, 2 cat cat, 4 dog cat",
            "Animals and vehicles are recognised equally well: 33.33 % (2 of 6) and 33.33 % (1 of 3).",
        ),
        ("1 cat cat, 1 cat ship", "Accuracy on animals is 50.00 % (1 of 2); there are no vehicles among the images."),
        ("3 ship ship", "Accuracy on vehicles is 100.00 % (3 of 3); there are no animals among the images."),
    ],
)
def test_first_sentence(counts: str, sentence: str) -> None:
    assert report(counts)[0] == sentence


def test_classes_without_groups_and_with_any_letters() -> None:
    own = replace(CIFAR10, classes=("a|b", "rose"), groups=())
    assert weakness_report(Predictions(torch.eye(2)[[0, 1, 0]], torch.tensor([0, 1, 1]), own)).splitlines() == [
        "| class | accuracy in % | correct / total | most often taken for |",
        "| --- | ---: | ---: | --- |",
        r"| rose | 50.00 | 1 / 2 | a\|b (1) |",
        r"| a\|b | 100.00 | 1 / 1 | - |",
        "",
        "The weakest class is rose, with an accuracy of 50.00 %; the pair most often confused with each other is "
        r"a\|b and rose, with 1 mistake: 0 a\|b images taken for rose and 1 rose image taken for a\|b.",
    ]


def test_names_of_classes_are_no_markdown() -> None:
    own = replace(CIFAR10, classes=("![x](http://evil/p.png)", r"<b>a\|b"), groups=())
    lines = weakness_report(Predictions(torch.eye(2), torch.tensor([0, 1]), own)).splitlines()
    assert lines[2:4] == [
        r"| !\[x\](http://evil/p.png) | 100.00 | 1 / 1 | - |",
        r"| &lt;b>a\\\|b | 100.00 | 1 / 1 | - |",
    ]


@pytest.mark.parametrize(
    ("counts", "sentence"),
    [
        (
            ", ".join(f"2 {name} {name}" for name in CIFAR10.classes),
            "All classes are equally strong, with an accuracy of 100.00 %; no image is taken for another class.",
        ),
        (
            "1 cat dog",
            "The only class with images is cat, with an accuracy of 0.00 %; the pair most often confused with each "
            "other is cat and dog, with 1 mistake: 1 cat image taken for dog and 0 dog images taken for cat.",
        ),
        (
            "1 cat dog, 1 ship truck",
            "The 2 classes with images are equally strong, with an accuracy of 0.00 %; the pairs most often confused "
            "with each other are cat/dog and ship/truck, with 1 mistake each.",
        ),
        (
            "2 cat dog, 1 ship truck, 1 truck ship, 1 bird bird, 2 truck truck",
            "The weakest classes are cat and ship, each with an accuracy of 0.00 %; the pairs most often confused with "
            "each other are cat/dog and ship/truck, with 2 mistakes each.",
        ),
        (
            ", ".join(f"1 {name} cat" for name in CIFAR10.classes),
            "The weakest classes are airplane, automobile, bird and 6 more, each with an accuracy of 0.00 %; the pairs "
            "most often confused with each other are airplane/cat, automobile/cat, bird/cat and 6 more, with "
            "1 mistake each.",
        ),
        (  # both directions of a confusion count
            "3 cat dog, 2 bird deer, 2 deer bird, 9 cat cat, 9 deer deer",
            "The weakest class is bird, with an accuracy of 0.00 %; the pair most often confused with each other is "
            "bird and deer, with 4 mistakes: 2 bird images taken for deer and 2 deer images taken for bird.",
        ),
    ],
)
def test_last_sentence(counts: str, sentence: str) -> None:
    assert report(counts)[-1] == sentence
