"""Batch norm with GELU or ReLU, and a 2x2 max-pool before or after them, in one operation, on CPUs; or ReLU and a 2x2
max-pool without a norm.

torch's own operations go through memory one after the other, and its pool keeps an index of eight bytes for each
pixel. `fused.h` needs two passes forward and two backward, and keeps one byte.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from cifar_core.models import native

_MOST_CHANNELS = 1024  # `WIDEST` in fused.h
_VECTOR = 16  # channels
_CHUNKS = 64  # of a batch, which threads take in turns
_PRECISIONS = {torch.bfloat16: "bf16", torch.float32: "fp32"}


class _Pool(IntEnum):
    """The place of the pool: FIRST is before the norm, LAST after the activation."""

    NEVER = 0
    FIRST = 1
    LAST = 2


def gelu(inputs: Tensor) -> Tensor:
    """Return the GELU of images (N, C, H, W) for which `is_faster` is true."""
    return _Gelu.apply(inputs)  # type: ignore[no-untyped-call, no-any-return]


def norm_activation(
    inputs: Tensor, norm: nn.BatchNorm2d, activation: nn.Module, pool: nn.MaxPool2d | None = None, *, last: bool = False
) -> Tensor:
    """Return `activation(norm(pool(inputs)))` of (N, C, H, W), by the faster kernels.

    Args:
        activation: the exact GELU, or ReLU.
        pool: of 2x2 pixels, if any.
        last: return `pool(activation(norm(inputs)))` instead.
    """
    place = _Pool.NEVER if pool is None else _Pool.LAST if last else _Pool.FIRST
    is_gelu = isinstance(activation, nn.GELU)
    if is_faster(inputs) and _fits(inputs, norm, place) and not (is_gelu and place is _Pool.LAST):
        return _normalised(inputs, norm, place, is_gelu=is_gelu)
    output: Tensor = activation(norm(pool(inputs) if pool is not None and not last else inputs))
    return pool(output) if pool is not None and last else output


def relu_pool(inputs: Tensor, relu: nn.ReLU, pool: nn.MaxPool2d) -> Tensor:
    """Return `pool(relu(inputs))` of (N, C, H, W), for a pool of 2x2 pixels, by the faster kernels."""
    channels, height, width = inputs.shape[-3:]
    if is_faster(inputs) and channels % _VECTOR == height % 2 == width % 2 == 0:
        return _ReluPool.apply(inputs)  # type: ignore[no-untyped-call, no-any-return]
    return pool(relu(inputs))  # type: ignore[no-any-return]


def is_available(dtype: torch.dtype) -> bool:
    """Return true if the kernels for images of `dtype` can be used on this machine; compiles them at the first call."""
    return _library(dtype) is not None


def is_faster(inputs: Tensor) -> bool:
    """Return true if the kernels are there for `inputs` (N, C, H, W)."""
    if not native.takes(inputs):
        return False
    if inputs.dtype not in _PRECISIONS or not inputs.is_contiguous(memory_format=torch.channels_last):
        return False
    return is_available(inputs.dtype)


def _fits(inputs: Tensor, norm: nn.BatchNorm2d, pool: _Pool) -> bool:
    """Return true if `norm` trains in the usual way, on more than one value per channel, or needs no gradients."""
    images, channels, height, width = inputs.shape
    if pool is _Pool.LAST and (height % 2 or width % 2):  # the norm counts pixels that the pool leaves out
        return False
    side = 2 if pool is _Pool.FIRST else 1
    values = images * (height // side) * (width // side)
    if channels > _MOST_CHANNELS or channels % _VECTOR or values < (2 if norm.training else 1):
        return False
    if not native.takes(*norm.parameters(), *norm.buffers()):
        return False
    usual = norm.affine and norm.track_running_stats and norm.momentum is not None
    return usual and norm.weight.dtype == torch.float32 and (norm.training or not torch.is_grad_enabled())


def _normalised(inputs: Tensor, norm: nn.BatchNorm2d, pool: _Pool, *, is_gelu: bool) -> Tensor:
    if not norm.training:
        return _evaluate(inputs, norm, pool, is_gelu=is_gelu)
    output, mean, variance = _Norm.apply(inputs, norm.weight, norm.bias, float(norm.eps), pool, is_gelu)  # type: ignore[no-untyped-call]
    counted = output if pool is _Pool.FIRST else inputs
    _update_statistics(norm, mean, variance, counted.numel() // counted.shape[1])
    return output  # type: ignore[no-any-return]


class _Gelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        ctx.save_for_backward(inputs)
        output = torch.empty_like(inputs)
        _call("gelu", inputs.dtype, inputs.shape, _gelu_table(), inputs, None, output)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (inputs,) = ctx.saved_tensors
        of_inputs = torch.empty_like(inputs)
        gradient = native.as_images(gradient, inputs.dtype)
        _call("gelu", inputs.dtype, inputs.shape, _gelu_slope_table(), inputs, gradient, of_inputs)
        return of_inputs


class _ReluPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        _, winners, output = _allocate(inputs, _Pool.LAST)
        _call("relu_pool", inputs.dtype, inputs.shape, inputs, winners, None, output)
        ctx.save_for_backward(winners)
        ctx.shape, ctx.dtype = inputs.shape, inputs.dtype
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (winners,) = ctx.saved_tensors
        of_inputs = native.new_images(ctx.shape, ctx.dtype)
        _call("relu_pool", ctx.dtype, ctx.shape, None, winners, native.as_images(gradient, ctx.dtype), of_inputs)
        return of_inputs


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor, epsilon: float, pool: _Pool, is_gelu: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        pixels, winners, output = _allocate(inputs, pool)
        mean, variance, scale = torch.empty(3, inputs.shape[1]).unbind()
        table = _gelu_table() if is_gelu else None
        given = (pool, epsilon, table, weight, bias, inputs)
        found = (pixels, winners, _sum_buffer(inputs.shape), mean, variance, scale, output)
        _call("norm_forward", inputs.dtype, inputs.shape, *given, *found)
        ctx.save_for_backward(pixels, winners, bias, mean, variance, scale)
        ctx.shape, ctx.epsilon, ctx.pool, ctx.is_gelu = inputs.shape, epsilon, pool, is_gelu
        ctx.mark_non_differentiable(mean, variance)
        return output, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: object) -> tuple[Tensor | None, ...]:
        pixels, winners, bias, mean, variance, scale = ctx.saved_tensors
        of_inputs = native.new_images(ctx.shape, pixels.dtype) if ctx.needs_input_grad[0] else None
        of_weight, of_bias = torch.empty(2, len(bias)).unbind()
        table = _gelu_slope_table() if ctx.is_gelu else None
        given = (ctx.pool, ctx.epsilon, table, bias, pixels, winners, _sum_buffer(ctx.shape), mean, variance, scale)
        gradient = native.as_images(gradient, pixels.dtype)
        _call("norm_backward", pixels.dtype, ctx.shape, *given, gradient, of_weight, of_bias, of_inputs)
        return of_inputs, of_weight, of_bias, None, None, None


def _evaluate(inputs: Tensor, norm: nn.BatchNorm2d, pool: _Pool, *, is_gelu: bool) -> Tensor:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    pixels, winners, output = _allocate(inputs, pool)
    table = _gelu_table() if is_gelu else None
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    given = (pool, float(norm.eps), table, norm.weight, norm.bias, inputs)
    statistics = (None, norm.running_mean, norm.running_var, scale)
    _call("norm_forward", inputs.dtype, inputs.shape, *given, pixels, winners, *statistics, output)
    return output


@torch.no_grad()
def _update_statistics(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, count: int) -> None:
    norm.num_batches_tracked.add_(1)  # type: ignore[union-attr]
    norm.running_mean.lerp_(mean, norm.momentum)  # type: ignore[union-attr, arg-type]
    norm.running_var.lerp_(variance * (count / (count - 1)), norm.momentum)  # type: ignore[union-attr, arg-type]


def _allocate(inputs: Tensor, pool: _Pool) -> tuple[Tensor, Tensor | None, Tensor]:
    """Return the input of the norm, which a first pool has to fill, and room for the pool's winners and the output."""
    if pool is _Pool.NEVER:
        return inputs, None, torch.empty_like(inputs)
    images, channels, height, width = inputs.shape
    output = native.new_images((images, channels, height // 2, width // 2), inputs.dtype)
    pixels = torch.empty_like(output) if pool is _Pool.FIRST else inputs
    return pixels, torch.empty(output.numel(), dtype=torch.uint8), output


def _sum_buffer(shape: tuple[int, ...]) -> Tensor:
    """Return room for two sums of each chunk and channel."""
    return torch.empty(_chunks(shape), 2, shape[1])


def _chunks(shape: tuple[int, ...]) -> int:
    return min(shape[0], _CHUNKS)


def _call(name: str, dtype: torch.dtype, shape: tuple[int, ...], *arguments: float | Tensor | None) -> None:
    """Call a function of `fused.h` on images of `shape` (N, C, H, W)."""
    library = _library(dtype)
    assert library is not None
    images, channels, height, width = shape
    library.call(name, images, height, width, channels, _chunks(shape), *arguments)


@functools.cache
def _library(dtype: torch.dtype) -> native.Library | None:
    if dtype == torch.float32 and not native.fp32_vectors():
        return None
    return native.load(Path(__file__).with_name(f"fused_{_PRECISIONS[dtype]}.c"))


@functools.cache
def _gelu_table() -> Tensor:
    """Return the table of `curve` of `fused_bf16.c` for GELU(x) / x, the normal distribution function."""
    return _table(torch.special.ndtr)


@functools.cache
def _gelu_slope_table() -> Tensor:
    """Return the table of `curve` of `fused_bf16.c` for the derivative of GELU."""
    return _table(lambda x: torch.special.ndtr(x) + x * (-x.square() / 2).exp() / math.sqrt(2 * math.pi))


def _table(function: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the coefficients (5, 32) of polynomials through `function` at the Chebyshev nodes of each piece.

    They are in the order of the last five bits of the pieces' numbers, which run from -16 to 15. The first piece is 0
    and the last is 1.
    """
    numbers = torch.arange(32, dtype=torch.float64)
    numbers = torch.where(numbers < 16, numbers, numbers - 32)
    nodes = (torch.arange(1, 10, 2, dtype=torch.float64) * math.pi / 10).cos() / 2
    values = function((numbers + nodes[:, None]) * 3 / 8)
    values[:, 16], values[:, 15] = 0, 1
    coefficients: Tensor = torch.linalg.solve(torch.vander(nodes, increasing=True), values)
    return coefficients.float().contiguous()
