"""Summary of a network: its layers with output shapes and weights, and the multiply-adds of an image."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

_HEAD = ("layer", "kind", "output", "weights")


def model_summary(model: nn.Module, side: int) -> str:
    """Return a plain-text table with a line per layer, in the order of the forward pass, and the totals.

    A layer is a module without submodules; shared weights count where they are first used. Shapes are those of one
    image, such as "64 x 32 x 32". Multiply-adds are those of convolutions and matrix products in a forward pass.
    `model` is on the meta device and takes images (N, 3, side, side). It is changed: to evaluation, with hooks.
    """
    layers = [_HEAD]
    listed: set[nn.Parameter] = set()

    def note(name: str, layer: nn.Module, _inputs: object, output: Tensor) -> None:
        new = set(layer.parameters()) - listed
        listed.update(new)
        layers.append((name, type(layer).__name__, " x ".join(map(str, output.shape[1:])), f"{_weights(new):,}"))

    for name, module in model.named_modules():
        if not list(module.children()):
            module.register_forward_hook(functools.partial(note, name))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(torch.zeros(1, 3, side, side, device="meta"))

    total = _weights(model.parameters())
    elsewhere = total - _weights(listed)
    totals = {
        "weights": total,
        **({"  in none of these layers": elsewhere} if elsewhere else {}),
        "  trained": _weights(parameter for parameter in model.parameters() if parameter.requires_grad),
        "multiply-adds an image": counter.get_total_flops() // 2,
    }
    lines = [*_aligned(layers), "", *_aligned([(label, f"{number:,}") for label, number in totals.items()])]
    return "\n".join(lines) + "\n"


def _weights(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Align `rows` in columns two spaces apart: the last one to the right, the others to the left."""
    *lefts, right = (max(map(len, column)) for column in zip(*rows, strict=True))
    return [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row[:-1], lefts, strict=True)), row[-1].rjust(right)])
        for row in rows
    ]
