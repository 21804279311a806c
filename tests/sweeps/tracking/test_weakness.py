"""The table of classes, the weakest first."""

from __future__ import annotations

from dataclasses import replace

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
        "Accuracy: animals 33.33 %, vehicles 99.83 %",
        "",
        "| class | accuracy | correct / total | most often taken for |",
        "| --- | ---: | ---: | --- |",
        "| cat | 25.00 % | 1 / 4 | dog (2) |",
        "| dog | 50.00 % | 1 / 2 | cat (1) |",
        "| truck | 60.00 % | 3 / 5 | automobile (1) |",
        "| ship | 100.00 % | 1,200 / 1,200 | - |",
        *(f"| {name} | - | 0 / 0 | - |" for name in ("airplane", "automobile", "bird", "deer", "frog", "horse")),
    ]


def test_no_images() -> None:
    lines = report("")
    assert lines[0] == "Accuracy: animals -, vehicles -"
    assert lines[4:] == [f"| {name} | - | 0 / 0 | - |" for name in CIFAR10.classes]


def test_classes_without_groups_whose_names_are_no_markdown() -> None:
    own = replace(CIFAR10, classes=("![x](http://evil/p.png)", r"<b>a\|b"), groups=())
    assert weakness_report(Predictions(torch.eye(2)[[0, 1, 0]], torch.tensor([0, 1, 1]), own)).splitlines()[2:] == [
        r"| &lt;b>a\\\|b | 50.00 % | 1 / 2 | !\[x\](http://evil/p.png) (1) |",
        r"| !\[x\](http://evil/p.png) | 100.00 % | 1 / 1 | - |",
    ]
