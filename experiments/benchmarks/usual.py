"""Speed of the trainer against the usual way: a DataLoader, transforms of PIL images, and fp32."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cifar_core.data import Split
from cifar_core.data.data_set import CIFAR10
from cifar_core.hardware import Hardware
from cifar_core.models import build_model, conv3x3, fused, shortcut, winograd
from cifar_core.models.layers import draw_from
from cifar_core.optim import build_optimizers
from cifar_core.recipe import Recipe
from cifar_core.recipes import read_recipe
from cifar_core.training import EvalSchedule, TrainState, train
from cifar_core.transfer.backbone import load_torchvision
from experiments.benchmarks import Line, data_to_train, without

_SYSTEMS = ("five_conv", "three_conv")
_IMAGES, _WARM_UP = 5_120, 1_280  # trained on, the first of which are not timed
WORKERS = 2  # of the DataLoader


def bench_usual(hardware: Hardware) -> Iterator[Line]:
    """Compare images a second of two published systems with those of a loop as tutorials have it."""
    yield Line(
        f"usual: speed over that of the same network with a DataLoader of {WORKERS} workers, PIL transforms and fp32, "
        "on as many threads (rule: >= 2.5)"
    )
    data = data_to_train()
    for name in _SYSTEMS:
        recipe = replace(read_recipe(name), flip=True, translate=4, padding="zero", keep_best=False)
        recipe = replace(recipe, epochs=_IMAGES / len(data.train))
        state = TrainState.create(recipe, data, hardware)
        points = EvalSchedule((_WARM_UP / _IMAGES, 1.0))
        first, last = (progress.train_seconds for progress in train(state, data, points))
        ours = (_IMAGES - _WARM_UP) / (last - first)
        theirs = _usual_speed(recipe, data.train.head(_IMAGES), hardware)
        figures = {"ratio": ours / theirs, "images_per_second": ours, "usual_images_per_second": theirs}
        yield Line(f"  {name:20} {ours / theirs:.2f}; {ours:,.0f} against {theirs:,.0f} images a second", name, figures)


class Pictures(Dataset[tuple[Tensor, int]]):
    """Images as PIL pictures, normalised and, if asked, augmented one by one."""

    def __init__(self, split: Split, *, augmented: bool) -> None:
        self._pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in split.images]
        self._labels = split.labels.tolist()
        transforms = load_torchvision("transforms")
        steps = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()] if augmented else []
        self._transform = transforms.Compose(
            [*steps, transforms.ToTensor(), transforms.Normalize(CIFAR10.mean, CIFAR10.std)]
        )

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._transform(self._pictures[index]), self._labels[index]


def _usual_speed(recipe: Recipe, split: Split, hardware: Hardware) -> float:
    """Return the images a second of a plain loop in fp32, without our own algorithms."""
    model = build_model(recipe).to(hardware.device).train()
    draw_from(model, torch.Generator(hardware.device))
    optimizers = build_optimizers(model, recipe)
    loader: DataLoader[Any] = DataLoader(
        Pictures(split, augmented=True), recipe.batch_size, shuffle=True, num_workers=WORKERS
    )
    seen, started = 0, 0.0
    with without(conv3x3, shortcut, winograd, fused):
        for images, labels in loader:
            if not started and seen >= _WARM_UP:
                started, seen = time.perf_counter(), 0
            loss = F.cross_entropy(model(images.to(hardware.device)), labels.to(hardware.device))
            model.zero_grad()
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
            loss.item()  # tutorials print it
            seen += len(labels)
    return seen / (time.perf_counter() - started)
