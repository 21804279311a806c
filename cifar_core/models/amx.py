"""3x3 convolutions of small images on CPUs with AMX: a faster gradient of the filters.

oneDNN computes that gradient row by row, so rows of eight pixels and fewer leave half of an AMX tile or more empty.
Here several images are laid side by side first, a column of zeros between them: the same sums, in longer rows.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cifar_core.hardware import has_amx

_LARGEST = 8  # pixels along a side
_ROW = 72  # pixels of images side by side, at most


def is_faster(inputs: Tensor) -> bool:
    """Return true if `convolve` trains faster than torch's own convolution on `inputs` (N, C, H, W)."""
    if inputs.device.type != "cpu" or not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    if not torch.is_autocast_enabled("cpu") or torch.get_autocast_dtype("cpu") != torch.bfloat16:
        return False
    # Measured on a Xeon with AMX: 2 times as fast at 7 pixels, 6 times at 3, no faster at 15.
    count, width = len(inputs), inputs.shape[3]
    return width <= _LARGEST and _beside(count, width + 1) > 1 and _beside(count, width) > 1 and has_amx()


def convolve(inputs: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
    """Convolve (N, C_in, H, W) with filters (C_out, C_in, 3, 3) and zero padding of 0 or 1, in bf16."""
    output: Tensor = _Convolution.apply(inputs, weight, bias, padding)  # type: ignore[no-untyped-call]
    return output


class _Convolution(torch.autograd.Function):
    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.bfloat16)  # type: ignore[untyped-decorator]
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        ctx.padding = padding
        return F.conv2d(inputs, weight, bias, padding=padding)

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        inputs, weight = ctx.saved_tensors
        of_inputs = of_weight = None
        if ctx.needs_input_grad[0]:
            of_inputs, _, _ = _gradients(gradient, inputs, weight, [ctx.padding] * 2, (True, False, False))
        if ctx.needs_input_grad[1]:
            edge = 1 - ctx.padding  # images without padding bring their own columns of zeros
            rows = _side_by_side(gradient, edge, 1), _side_by_side(inputs, 0, ctx.padding)
            _, of_weight, _ = _gradients(*rows, weight, [ctx.padding, 1], (False, True, False))
        return of_inputs, of_weight, gradient.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None, None


def _gradients(
    gradient: Tensor, inputs: Tensor, weight: Tensor, padding: list[int], wanted: tuple[bool, bool, bool]
) -> Any:
    ones = [1, 1]
    backward = torch.ops.aten.convolution_backward
    return backward(gradient, inputs, weight, None, ones, padding, ones, False, [0, 0], 1, wanted)


def _beside(count: int, width: int) -> int:
    """Return the number of images of that width in a row: the largest that divides `count` and fits."""
    return max(n for n in range(1, _ROW // width + 1) if count % n == 0)


def _side_by_side(images: Tensor, left: int, right: int) -> Tensor:
    """Lay images (N, C, H, W) side by side, with columns of zeros at both sides of each: (N / n, C, H, n * W')."""
    count, channels, height, width = images.shape
    wide = left + width + right
    beside = _beside(count, wide)
    row = images.new_zeros(count // beside, height, beside, wide, channels)
    row[:, :, :, left : left + width] = images.permute(0, 2, 3, 1).unflatten(0, (-1, beside)).transpose(1, 2)
    return row.flatten(2, 3).permute(0, 3, 1, 2)
