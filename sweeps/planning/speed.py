"""The training speed of this machine, for the estimate of a sweep's time."""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F

from cifar_core.budget import step_flops
from cifar_core.data.data_set import DataSet
from cifar_core.errors import UserError, first_line
from cifar_core.hardware import Hardware
from cifar_core.memory import oom_context
from cifar_core.models import build_model
from cifar_core.models.layers import draw_from
from cifar_core.optim import build_optimizers
from cifar_core.recipe import Recipe


def measure_speed(recipe: Recipe, hardware: Hardware, data_set: DataSet) -> float:
    """Measure the training FLOPs per second of this process on `hardware`, in three steps on noise.

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
    model = hardware.place(build_model(recipe, data_set=data_set))
    draw_from(model, torch.Generator(hardware.device))
    optimizers = build_optimizers(model, recipe, bf16=hardware.bf16)
    images = torch.rand(recipe.batch_size, 3, data_set.side, data_set.side)
    images = images.to(hardware.device, memory_format=torch.channels_last)
    labels = torch.arange(recipe.batch_size, device=hardware.device) % len(data_set.classes)
    loss = torch.zeros(())
    for step in range(4):
        if step == 1:  # after the first step, which sets up kernels
            loss.item()
            started = time.perf_counter()
        with hardware.autocast():
            loss = F.cross_entropy(model(images).float(), labels)
        model.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
    loss.item()
    seconds = time.perf_counter() - started  # before the first count of FLOPs, which takes a while
    return 3 * step_flops(recipe, data_set) / seconds
