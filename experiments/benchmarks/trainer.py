"""Speed of the trainer: against a bare loop, the machine's ceiling, and without each of its own algorithms."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from statistics import median

import torch
import torch.nn.functional as F

from cifar_core.budget import step_flops
from cifar_core.data import Splits
from cifar_core.data.data_set import CIFAR10
from cifar_core.hardware import Hardware
from cifar_core.models import conv3x3, fused, shortcut, winograd
from cifar_core.recipe import Recipe
from cifar_core.training import EvalSchedule, TrainState, evenly, normalise, train
from experiments.benchmarks import Line, data_to_train, without
from sweeps.planning.space_file import SPACES

_ROUNDS = 6
_GPU_STEPS = 10  # of a round, and convolutions that the ceiling is timed over; on a CPU one takes a second
_TURNS = 4
_AUGMENTED = Recipe(optimizer="muon", learning_rate=0.1, momentum=0.6, cutout=8, color_jitter=0.2, mix="cutmix")
_CONVOLUTIONS = ((64, 256, 16), (256, 256, 8), (512, 512, 8))  # input and output channels, pixels along a side


def bench_trainer(hardware: Hardware) -> Iterator[Line]:
    """Compare the trainer, with all augmentations, with a bare forward-backward-step loop and with the ceiling."""
    data = data_to_train()
    yield Line(
        "trainer: time of a step over that of a bare loop on resident batches (rule: <= 1.05), and its share of the "
        "ceiling, the fastest convolution of this machine"
    )
    steps = _repeats(hardware)
    for model in SPACES["full"].models:
        recipe = replace(_AUGMENTED, model=model, batch_size=256, epochs=(_ROUNDS + 1) * steps * 256 / len(data.train))
        state = TrainState.create(recipe, data, hardware)
        bare, ceiling = _bare_loop(recipe, data, hardware, steps), _convolutions(hardware)
        rates, ratios, shares = [], [], []
        before = 0.0
        for progress in train(state, data, EvalSchedule(evenly(_ROUNDS + 1))):
            trained, before = progress.train_seconds - before, progress.train_seconds
            ratio, rate = trained / bare(), steps * step_flops(recipe, CIFAR10) / trained
            share = rate / ceiling()
            if progress.step > steps:  # the first round sets up kernels
                rates.append(rate)
                ratios.append(ratio)
                shares.append(share)
        rate, share, ratio = median(rates), median(shares), median(ratios)
        figures = {"over_bare_loop": ratio, "share_of_ceiling": share, "flops_per_second": rate}
        spread = f"{ratio:.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
        shown = f"{share:.2f} ({min(shares):.2f} to {max(shares):.2f}) of the ceiling, {rate / 1e9:,.0f} GFLOP/s"
        yield Line(f"  {model:20} {spread}; {shown}", model, figures)


def _convolutions(hardware: Hardware) -> Callable[[], float]:
    """Return a function that measures the highest FLOP/s of a few wide 3x3 convolutions, forward."""
    cases, repeats = [], _repeats(hardware)
    for inputs, outputs, side in _CONVOLUTIONS:
        images, filters = torch.randn(256, inputs, side, side), torch.randn(outputs, inputs, 3, 3)
        placed = [
            each.to(hardware.device, hardware.dtype, memory_format=torch.channels_last) for each in (images, filters)
        ]
        cases.append((2 * 256 * side * side * 9 * inputs * outputs, placed))

    def measure() -> float:
        rates = []
        for flops, (images, filters) in cases:
            started = time.perf_counter()
            for _ in range(repeats):
                output = F.conv2d(images, filters, padding=1)
            output[0, 0, 0, 0].item()  # waits for the device
            rates.append(repeats * flops / (time.perf_counter() - started))
        return max(rates)

    return measure


def _repeats(hardware: Hardware) -> int:
    return 1 if hardware.device.type == "cpu" else _GPU_STEPS


def _bare_loop(recipe: Recipe, data: Splits, hardware: Hardware, steps: int) -> Callable[[], float]:
    """Return a function that times `steps` steps on one resident batch, in seconds."""
    state = TrainState.create(recipe, data, hardware)
    images = normalise(data.train.images[: recipe.batch_size].to(hardware.device).float() / 255)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = data.train.labels[: recipe.batch_size].to(hardware.device)

    def run() -> float:
        state.model.train()
        started = time.perf_counter()
        for _ in range(steps):
            with hardware.autocast():
                loss = F.cross_entropy(state.model(images).float(), labels)
            state.model.zero_grad(set_to_none=True)
            loss.backward()
            for optimizer in state.optimizers:
                optimizer.step()
        loss.item()  # waits for the device
        return time.perf_counter() - started

    return run


def bench_algorithms(hardware: Hardware) -> Iterator[Line]:
    """Compare bare loops with and without our own algorithms, in turns."""
    data = data_to_train()
    ours = (
        ("3x3 convolutions of our own", (conv3x3, shortcut, winograd), conv3x3.is_available(hardware.dtype)),
        ("pool, norm and activation in one", (fused,), fused.is_available(hardware.dtype)),
    )
    for name, modules, here in ours:
        yield Line(f"algorithms: time of a step with {name} over that without, batch 256")
        if hardware.device.type != "cpu" or not here:
            yield Line("  not used on this machine")
            continue
        for model in (*SPACES["full"].models, "custom_resnet"):
            run = _bare_loop(Recipe(model=model, batch_size=256), data, hardware, steps=1)
            ratios: list[float] = []
            for _ in range(1 + _TURNS):
                fast = run()
                with without(*modules):
                    ratios.append(fast / run())
            _, *ratios = ratios  # the first turn sets up kernels
            text = f"  {model:20} {median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
            yield Line(text, f"{model}, {name}", {"ratio": median(ratios)})
