"""Optional 2x2 max-pool, batch norm and GELU in one operation, on CPUs in bf16.

torch's own operations go through memory one after the other, and its pool keeps an index of eight bytes for each
pixel. `fused.c` needs two passes forward and two backward, and keeps one byte.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from cifar_core.models import native

_SOURCE = Path(__file__).with_suffix(".c")
_MOST_CHANNELS = 1024  # `WIDEST` in fused.c
_VECTOR = 16  # channels; others would be computed one by one
_CHUNKS = 64  # of a batch, which threads take in turns


def gelu(inputs: Tensor) -> Tensor:
    """Return the GELU of bf16 images (N, C, H, W) for which `is_faster` is true."""
    return _Gelu.apply(inputs)  # type: ignore[no-untyped-call, no-any-return]


def norm_gelu(inputs: Tensor, norm: nn.BatchNorm2d, activation: nn.GELU, pool: nn.MaxPool2d | None = None) -> Tensor:
    """Return `activation(norm(pool(inputs)))` of (N, C, H, W), by the faster kernels.

    `activation` is the exact GELU; `pool`, if any, takes 2x2 pixels.
    """
    if not is_faster(inputs) or not _fits(inputs, norm, 1 if pool is None else 2):
        return activation(norm(inputs if pool is None else pool(inputs)))  # type: ignore[no-any-return]
    if not norm.training:
        return _evaluate(inputs, norm, pooled=pool is not None)
    output, mean, variance = _NormGelu.apply(inputs, norm.weight, norm.bias, norm.eps, pool is not None)  # type: ignore[no-untyped-call]
    _update_statistics(norm, mean, variance, output.numel() // output.shape[1])
    return output  # type: ignore[no-any-return]


def is_available() -> bool:
    """Return true if the kernels can be used on this machine; compiles them at the first call."""
    return native.load(_SOURCE) is not None


def is_faster(inputs: Tensor) -> bool:
    """Return true if the kernels are there for `inputs` (N, C, H, W)."""
    if inputs.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    if inputs.dtype != torch.bfloat16 or not inputs.is_contiguous(memory_format=torch.channels_last):
        return False
    return is_available()


def _fits(inputs: Tensor, norm: nn.BatchNorm2d, side: int) -> bool:
    """Return true if `norm` trains in the usual way, on more than one value per channel, or needs no gradients."""
    images, channels, height, width = inputs.shape
    values = images * (height // side) * (width // side)
    if channels > _MOST_CHANNELS or channels % _VECTOR or values < (2 if norm.training else 1):
        return False
    usual = norm.affine and norm.track_running_stats and norm.momentum is not None
    return usual and norm.weight.dtype == torch.float32 and (norm.training or not torch.is_grad_enabled())


class _Gelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        ctx.save_for_backward(inputs)
        output = torch.empty_like(inputs)
        _call("gelu_forward", inputs.shape, inputs, output)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (inputs,) = ctx.saved_tensors
        of_inputs = torch.empty_like(inputs)
        _call("gelu_backward", inputs.shape, inputs, _like_images(gradient), of_inputs)
        return of_inputs


class _NormGelu(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor, epsilon: float, pooled: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        pixels, winners = _pool_room(inputs) if pooled else (inputs, None)
        output = torch.empty_like(pixels)
        mean, variance, scale = torch.empty(3, inputs.shape[1]).unbind()
        statistics = (_sums(inputs.shape), mean, variance, scale)
        _call("norm_gelu_forward", inputs.shape, epsilon, weight, bias, inputs, pixels, winners, *statistics, output)
        ctx.save_for_backward(pixels, winners, bias, mean, variance, scale)
        ctx.shape, ctx.epsilon = inputs.shape, epsilon
        ctx.mark_non_differentiable(mean, variance)
        return output, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: object) -> tuple[Tensor | None, ...]:
        pixels, winners, bias, mean, variance, scale = ctx.saved_tensors
        of_inputs = _new_images(ctx.shape)
        of_pixels = of_inputs if winners is None else torch.empty_like(pixels)
        of_weight, of_bias = torch.empty(2, len(bias)).unbind()
        saved = (bias, pixels, winners, _sums(ctx.shape), mean, variance, scale)
        gradients = (_like_images(gradient), of_weight, of_bias, of_pixels, of_inputs)
        _call("norm_gelu_backward", ctx.shape, ctx.epsilon, *saved, *gradients)
        return of_inputs, of_weight, of_bias, None, None


def _evaluate(inputs: Tensor, norm: nn.BatchNorm2d, *, pooled: bool) -> Tensor:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    pixels, winners = _pool_room(inputs) if pooled else (inputs, None)
    output = torch.empty_like(pixels)
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    statistics = (None, norm.running_mean, norm.running_var, scale)
    affine = (norm.eps, norm.weight, norm.bias)
    _call("norm_gelu_forward", inputs.shape, *affine, inputs, pixels, winners, *statistics, output)
    return output


@torch.no_grad()
def _update_statistics(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, count: int) -> None:
    norm.num_batches_tracked.add_(1)  # type: ignore[union-attr]
    norm.running_mean.lerp_(mean, norm.momentum)  # type: ignore[union-attr, arg-type]
    norm.running_var.lerp_(variance * (count / (count - 1)), norm.momentum)  # type: ignore[union-attr, arg-type]


def _pool_room(inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return room for the pooled `inputs`, and for which of four pixels is the largest."""
    images, channels, height, width = inputs.shape
    pixels = _new_images((images, channels, height // 2, width // 2))
    return pixels, torch.empty(pixels.numel(), dtype=torch.uint8)


def _new_images(shape: tuple[int, ...]) -> Tensor:
    return torch.empty(shape, dtype=torch.bfloat16, memory_format=torch.channels_last)


def _like_images(gradient: Tensor) -> Tensor:
    return gradient.to(torch.bfloat16).contiguous(memory_format=torch.channels_last)


def _sums(shape: tuple[int, ...]) -> Tensor:
    """Return room for two sums of each chunk and channel."""
    return torch.empty(_chunks(shape), 2, shape[1])


def _chunks(shape: tuple[int, ...]) -> int:
    return min(shape[0], _CHUNKS)


def _call(name: str, shape: tuple[int, ...], *arguments: float | Tensor | None) -> None:
    """Call a function of `fused.c` on images of `shape` (N, C, H, W)."""
    library = native.load(_SOURCE)
    assert library is not None
    images, channels, height, width = shape
    library.call(name, images, height, width, channels, _chunks(shape), *arguments)
