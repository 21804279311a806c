"""3x3 convolutions in bf16 on CPUs: faster than torch's own, most of all the gradient of the filters.

oneDNN, which torch uses, sums that gradient row by row, so that small images leave most of a matrix tile empty.
`conv3x3.c` adds up one pixel of many images instead. On AMX it has the other two passes as well, which without AMX are
torch's own.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from cifar_core.hardware import native_bf16
from cifar_core.models import native

_FEWEST_CHANNELS = 24  # of inputs and outputs; a tile has 32


def is_available() -> bool:
    """Return true if the kernels can be used on this machine; compiles them at the first call."""
    return _library() is not None


def is_faster(inputs: Tensor, weight: Tensor) -> bool:
    """Return true if `convolve` is faster than torch's own convolution of `inputs` (N, C, H, W) by `weight`."""
    if inputs.device.type != "cpu" or torch.compiler.is_compiling() or min(weight.shape[:2]) < _FEWEST_CHANNELS:
        return False
    if not torch.is_autocast_enabled("cpu") or torch.get_autocast_dtype("cpu") != torch.bfloat16:
        return False
    return is_available()


def convolve(inputs: Tensor, weight: Tensor, bias: Tensor | None, height: int, width: int) -> Tensor:
    """Convolve (N, C_in, H, W), a zero around each image, with filters (C_out, C_in, 3, 3).

    Returns the first pixels of the result, in bf16: (N, C_out, `height`, `width`), which are at most H and W.
    """
    output: Tensor = _Convolution.apply(_images(inputs), weight, bias, height, width)  # type: ignore[no-untyped-call]
    return output


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, height: int, width: int) -> Tensor:
        weight = weight.float().contiguous(memory_format=torch.channels_last)
        ctx.save_for_backward(inputs, weight)
        if not _has_tiles():
            return plain(inputs, weight.bfloat16(), None if bias is None else bias.bfloat16(), height, width)
        output = _new_images(len(inputs), len(weight), height, width)
        _call("convolve", inputs, output, 0, inputs, weight, None if bias is None else bias.float(), output)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight = ctx.saved_tensors
        of_inputs = of_weight = of_bias = None
        gradient = _images(gradient)
        if ctx.needs_input_grad[0] and _has_tiles():
            of_inputs = _new_images(*inputs.shape)
            _call("convolve", gradient, of_inputs, 1, gradient, weight, None, of_inputs)
        elif ctx.needs_input_grad[0]:
            of_inputs = _plain_gradient(inputs.shape, weight.bfloat16(), gradient)
        if ctx.needs_input_grad[1]:
            of_weight = torch.empty_like(weight)
            _call("gradient_of_weight", inputs, gradient, inputs, gradient, of_weight)
        if ctx.needs_input_grad[2]:
            of_bias = gradient.sum((0, 2, 3), dtype=torch.float32)
        return of_inputs, of_weight, of_bias, None, None


def plain(inputs: Tensor, weight: Tensor, bias: Tensor | None, height: int, width: int) -> Tensor:
    """Return the result of `convolve` by torch's own convolution."""
    if (height, width) == inputs.shape[2:]:
        return F.conv2d(inputs, weight, bias, padding=1)
    beyond = (1, width + 1 - inputs.shape[3], 1, height + 1 - inputs.shape[2])  # left, right, above, below
    return F.conv2d(F.pad(inputs, beyond), weight, bias)


def _plain_gradient(shape: torch.Size, weight: Tensor, gradient: Tensor) -> Tensor:
    """Return the gradient of the inputs of `plain`, of that shape."""
    if gradient.shape[2:] == shape[2:]:
        return F.conv_transpose2d(gradient, weight, padding=1)
    return F.conv_transpose2d(gradient, weight)[:, :, 1 : 1 + shape[2], 1 : 1 + shape[3]]


def _new_images(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.bfloat16, memory_format=torch.channels_last)


def _images(images: Tensor) -> Tensor:
    return images.to(torch.bfloat16).contiguous(memory_format=torch.channels_last)


def _call(name: str, images: Tensor, outputs: Tensor, *arguments: int | Tensor | None) -> None:
    """Call a function of `conv3x3.c` that convolves images of the shape of `images` to those of `outputs`.

    Raises:
        MemoryError: there is too little memory for its buffers.
    """
    library = _library()
    assert library is not None
    count, channels, height, width = images.shape
    _, out_channels, rows, columns = outputs.shape
    if library.call(name, count, height, width, channels, out_channels, rows, columns, *arguments):
        raise MemoryError("a convolution found no memory for its buffers")


@functools.cache
def _library() -> native.Library | None:
    library = native.load(Path(__file__).with_suffix(".c")) if native_bf16("cpu") else None
    if library is not None and hasattr(library.functions, "allow_tiles") and library.functions.allow_tiles():
        return None
    return library


@functools.cache
def _has_tiles() -> bool:
    """Return true if the compiler knew AMX; else, and where the processor has none, only one pass is compiled."""
    library = _library()
    return library is not None and hasattr(library.functions, "convolve")
