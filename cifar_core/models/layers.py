"""Layers that several networks share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifar_core.models import conv3x3, fused, winograd


def channels(base: int, width: float) -> int:
    """Scale `base` channels by `width`, to a multiple of 8 (fast on vector units and tensor cores), at least 8."""
    return max(8, round(base * width / 8) * 8)


class Conv3x3(nn.Conv2d):
    """3x3 convolution with zero padding, by the faster algorithm: (N, C_in, H, W) -> (N, C_out, H, W).

    Args:
        pooled: a 2x2 pooling follows, which drops the last row and column of an odd height and width. They may be
            left out then: (N, C_out, H - 1, W - 1).
    """

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True, pooled: bool = False) -> None:
        super().__init__(inputs, outputs, 3, padding=1, bias=bias)
        self.pooled = pooled

    def forward(self, inputs: Tensor) -> Tensor:
        height, width = inputs.shape[-2:]
        if self.pooled:
            height, width = height - height % 2, width - width % 2
        if conv3x3.is_faster(inputs, self.weight, height, width):
            return conv3x3.convolve(inputs, self.weight, self.bias, height, width)
        if winograd.is_faster(inputs, self.weight):  # where there are no kernels
            output = winograd.convolve(inputs, self.weight)
            return output if self.bias is None else output + self.bias[:, None, None]
        return conv3x3.plain(inputs, self.weight, self.bias, height, width)


class GlobalMaxPool(nn.Module):
    """Largest value of each channel: (N, C, H, W) -> (N, C). Adaptive pooling has no deterministic gradient on GPUs."""

    def forward(self, inputs: Tensor) -> Tensor:
        return F.max_pool2d(inputs, inputs.shape[-2:]).flatten(1)


class Head(nn.Linear):
    """Last layer: features (N, C) to logits (N, classes), in fp32 under autocast too, as logits in bf16 have ties."""

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast("cpu" if features.is_meta else features.device.type, enabled=False):
            return F.linear(features.float(), self.weight, self.bias)


class GELU(nn.GELU):
    """The exact GELU of images (N, C, H, W) or tokens (N, T, C), by the faster algorithm."""

    def forward(self, inputs: Tensor) -> Tensor:
        if inputs.ndim == 3:  # as images of one column
            return self.forward(inputs.transpose(1, 2).unsqueeze(3)).squeeze(3).transpose(1, 2)
        return fused.gelu(inputs) if fused.is_faster(inputs) else super().forward(inputs)


class FusedSequential(nn.Sequential):
    """Sequential that does batch norm and ReLU, with a 2x2 pool before or after them, and ReLU and a 2x2 pool, by the
    faster kernels."""

    def forward(self, inputs: Tensor) -> Tensor:
        layers = list(self)
        while layers:
            match layers:
                case [nn.MaxPool2d() as pool, nn.BatchNorm2d() as norm, nn.ReLU() as relu, *layers] if _halves(pool):
                    inputs = fused.norm_activation(inputs, norm, relu, pool)
                case [nn.BatchNorm2d() as norm, nn.ReLU() as relu, nn.MaxPool2d() as pool, *layers] if _halves(pool):
                    inputs = fused.norm_activation(inputs, norm, relu, pool, last=True)
                case [nn.BatchNorm2d() as norm, nn.ReLU() as relu, *layers]:
                    inputs = fused.norm_activation(inputs, norm, relu)
                case [nn.ReLU() as relu, nn.MaxPool2d() as pool, *layers] if _halves(pool):
                    inputs = fused.relu_pool(inputs, relu, pool)
                case [layer, *layers]:
                    inputs = layer(inputs)
        return inputs


def _halves(pool: nn.MaxPool2d) -> bool:
    """Return true if `pool` is of 2x2 pixels, as the kernels have it."""
    return (pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode) == (2, 2, 0, 1, False)


class Dropout(nn.Module):
    """Dropout that draws from `generator`, so that a run's state holds all of its randomness.

    Set `generator`, on the device of the input, before the first training step.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability
        self.generator: torch.Generator | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        if not self.training or not self.probability or inputs.is_meta:
            return inputs
        if self.generator is None:
            raise RuntimeError("Dropout.generator must be set before training")
        kept = kept_elements(inputs.device.type, inputs.numel(), self.probability, self.generator)
        kept = kept.view(torch.uint8).to(inputs.dtype)  # on a CPU bools take four to seven times as long
        kept.div_(1 - self.probability)  # in the memory layout of the input
        return inputs * kept.as_strided(inputs.shape, torch.empty_like(inputs, device="meta").stride())


def kept_elements(kind: str, count: int, probability: float, generator: torch.Generator) -> Tensor:
    """Return bools (count,), each false with `probability`, from `generator`, whose device is of `kind`."""
    if kind == "mps":  # draws no integers of 64 bits
        return torch.rand(count, generator=generator, device=generator.device) >= probability
    # 16 random bits per element: at least twice as fast as a float for each.
    words = torch.empty(-(-count // 4), dtype=torch.int64, device=generator.device)
    bits = words.random_(-(2**63), None, generator=generator).view(torch.int16)[:count]
    return bits >= round(probability * 2**16) - 2**15


def draw_from(model: nn.Module, generator: torch.Generator) -> None:
    """Let all `Dropout` of `model` draw from `generator`, which is on the model's device."""
    for module in model.modules():
        if isinstance(module, Dropout):
            module.generator = generator
