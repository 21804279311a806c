"""The training speed of this machine, for the estimate of a sweep's time."""

from __future__ import annotations

import time
from dataclasses import replace

import torch

from cifar_core.budget import step_flops
from cifar_core.data import Split, Splits
from cifar_core.data.data_set import DataSet
from cifar_core.errors import UserError, first_line
from cifar_core.hardware import Hardware
from cifar_core.memory import oom_context
from cifar_core.optim import schedule
from cifar_core.recipe import Recipe
from cifar_core.training import TrainState, train_step


def measure_speed(recipe: Recipe, hardware: Hardware, data_set: DataSet) -> float:
    """Measure the training FLOPs per second of this process on `hardware`, in three training steps on random pixels.

    Raises:
        OutOfMemory: a batch does not fit into the memory of the device.
        UserError: the device is a GPU that cannot train, because it is too old for this torch, for example.
    """
    try:
        with oom_context(f"a batch of {recipe.batch_size} images", recipe):
            return _speed(recipe, hardware, data_set)
    except RuntimeError as error:
        kind = hardware.device.type
        if kind == "cpu":
            raise
        raise UserError(
            f"the device {kind} must work with torch {torch.__version__}, but gave: {first_line(error)}; "
            "--device cpu trains without it"
        ) from error


def _speed(recipe: Recipe, hardware: Hardware, data_set: DataSet) -> float:
    recipe = replace(recipe, low_resolution=0.0)  # else the first step alone would be of small images
    images = torch.randint(256, (recipe.batch_size, 3, data_set.side, data_set.side), dtype=torch.uint8)
    split = Split(images, torch.arange(recipe.batch_size) % len(data_set.classes), data_set)
    # Of a run of one step, so that each step draws its own batch, in place of several at once.
    state = TrainState.create(replace(recipe, epochs=1.0), Splits(split, split), hardware)
    images, labels = images.to(hardware.device), split.labels.to(hardware.device)
    values = schedule(recipe, 0.5)
    loss, _ = train_step(state, images, labels, values)  # which also sets up kernels
    loss.item()
    started = time.perf_counter()
    for _ in range(3):
        loss, _ = train_step(state, images, labels, values)
    loss.item()
    seconds = time.perf_counter() - started  # before the first count of FLOPs, which takes a while
    return 3 * step_flops(recipe, data_set) / seconds
