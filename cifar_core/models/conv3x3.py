"""3x3 convolutions on CPUs: faster than torch's own, by C functions for all three passes.

In bf16 on AMX (`conv3x3_amx.c`) the gradient of the filters gains most: oneDNN, which torch uses, sums it row by row,
so that small images leave most of a matrix tile empty. Elsewhere multiplications take most of the time, and Winograd's
algorithm (`winograd.h`) needs 25 to 44 % of them, with tiles of 4x4 to 2x2 outputs. In bf16 it computes 32 channels at
once, so that fewer have kernels that take them in pairs (`conv3x3_narrow.c`).
"""

from __future__ import annotations

import functools
import itertools
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from cifar_core.hardware import has_amx, native_bf16
from cifar_core.models import native

_AMX = Path(__file__).with_name("conv3x3_amx.c")
_FEWEST_CHANNELS = 24  # of inputs and outputs; a tile of AMX, and a vector, have 32

# With fewer, at most so many, and output images of so many numbers, the kernels for few channels are no slower than
# oneDNN (measured on an EPYC, Zen 5); slopes of larger images do not stay in the second cache.
_MOST_NARROW_CHANNELS, _MOST_NARROW_NUMBERS = 32, 2**16

# Winograd's algorithm computes all outputs of a tile that reaches beyond the last row or column, and in bf16 multiples
# of 32 channels: it pays where its multiplications are at most such a share of those of the definition, and where
# enough tiles share the transforms of the filters and of their gradient, whose time is that of some 50 to 200 tiles,
# more with more channels (measured on EPYCs: Zen 5, where the latter comes from, Zen 4, and Zen 3 with AVX2).
_SIDES = (4, 3, 2)  # of a tile of outputs
_MOST_MULTIPLICATIONS = {torch.bfloat16: 0.8, torch.float32: 0.5}
_FEWEST_TILES = {torch.bfloat16: 32, torch.float32: 256}  # of 2x2 outputs
_TILES_FOR_FILTERS, _MORE_BY_CHANNELS = 32, 0.7  # the latter for each of inputs * outputs / (inputs + outputs)
_FEWEST_IN_FP32 = {"AVX2": 16, "AVX512": 24}  # channels


def is_available(dtype: torch.dtype) -> bool:
    """Return true if the kernels for images of `dtype` can be used on this machine; compiles them at the first call."""
    kernels = itertools.product((False, True), _SIDES)
    return all(_library(dtype, narrow=narrow, side=side) is not None for narrow, side in kernels)


def algorithm(dtype: torch.dtype) -> str:
    """Return the name of the algorithm that the kernels use on this machine, "AMX" or "Winograd"."""
    return "AMX" if dtype == torch.bfloat16 and amx() else "Winograd"


def is_faster(inputs: Tensor, weight: Tensor, height: int, width: int) -> bool:
    """Return true if `convolve` is faster than torch's own convolution for these arguments."""
    if not native.takes(inputs, weight):
        return False
    dtype = dtype_of(inputs)
    if dtype is None or weight.dtype != torch.float32:
        return False
    outputs, *filter_shape = weight.shape
    if inputs.ndim != 4 or filter_shape != [inputs.shape[1], 3, 3] or not height * width:
        return False  # torch takes a single image, or says what is wrong
    channels = inputs.shape[1]
    if not is_available(dtype):
        return False
    if _is_narrow(dtype, channels, outputs):
        few = max(channels, outputs) <= _MOST_NARROW_CHANNELS and outputs * height * width <= _MOST_NARROW_NUMBERS
        return few and not amx()
    if dtype == torch.bfloat16 and amx():
        return True
    return _suits_winograd(dtype, len(inputs), channels, outputs, height, width)


def dtype_of(inputs: Tensor) -> torch.dtype | None:
    """Return the type in which torch would convolve `inputs`, if there are kernels for it."""
    if torch.is_autocast_enabled("cpu"):
        return torch.bfloat16 if torch.get_autocast_dtype("cpu") == torch.bfloat16 else None
    return torch.float32 if inputs.dtype == torch.float32 else None


def _is_narrow(dtype: torch.dtype, channels: int, outputs: int) -> bool:
    return dtype == torch.bfloat16 and min(channels, outputs) < _FEWEST_CHANNELS


def _suits_winograd(dtype: torch.dtype, images: int, channels: int, outputs: int, height: int, width: int) -> bool:
    if _tiles(images, height, width, 2) < _FEWEST_TILES[dtype]:
        return False
    side = _side(images, height, width, channels, outputs)
    share = (side + 2) ** 2 * _tiles(images, height, width, side) / (9 * images * height * width)
    if dtype == torch.float32:
        vectors = native.fp32_vectors()
        assert vectors is not None  # else there are no kernels
        return share <= _MOST_MULTIPLICATIONS[dtype] and min(channels, outputs) >= _FEWEST_IN_FP32[vectors]
    padding = max(-(-count // 32) * 32 / count for count in (channels, outputs))
    return share * padding <= _MOST_MULTIPLICATIONS[dtype]


def _tiles(images: int, height: int, width: int, side: int) -> int:
    return images * -(-height // side) * -(-width // side)


def _side(images: int, height: int, width: int, channels: int, outputs: int) -> int:
    """Return the side of the tiles of outputs with which Winograd's algorithm is fastest for such outputs."""
    for_filters = _TILES_FOR_FILTERS + _MORE_BY_CHANNELS * channels * outputs / (channels + outputs)
    return min(_SIDES, key=lambda side: (side + 2) ** 2 * (_tiles(images, height, width, side) + for_filters))


def convolve(inputs: Tensor, weight: Tensor, bias: Tensor | None, height: int, width: int) -> Tensor:
    """Convolve (N, C_in, H, W), a zero around each image, with filters (C_out, C_in, 3, 3).

    Returns the first pixels of the result: (N, C_out, `height`, `width`), which are at most H and W. They are in bf16
    under autocast, else in fp32.
    """
    images = native.as_images(inputs, torch.bfloat16 if torch.is_autocast_enabled("cpu") else torch.float32)
    output: Tensor = _Convolution.apply(images, weight, bias, height, width)  # type: ignore[no-untyped-call]
    return output


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, height: int, width: int) -> Tensor:
        weight = weight.float().contiguous(memory_format=torch.channels_last)
        ctx.save_for_backward(inputs, weight)
        bias = None if bias is None else bias.float().contiguous()
        output = native.new_images((len(inputs), len(weight), height, width), inputs.dtype)
        _call("convolve", inputs, output, 0, inputs, weight, bias, output)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight = ctx.saved_tensors
        of_inputs = of_weight = of_bias = None
        narrow = _is_narrow(inputs.dtype, inputs.shape[1], len(weight))
        sums_bias = ctx.needs_input_grad[1] and narrow  # beside the weight's gradient
        gradient = native.as_images(gradient, inputs.dtype)
        if ctx.needs_input_grad[0]:
            of_inputs = native.new_images(inputs.shape, inputs.dtype)
            _call("convolve", gradient, of_inputs, 1, gradient, weight, None, of_inputs)
        if ctx.needs_input_grad[2]:
            of_bias = torch.empty(len(weight)) if sums_bias else gradient.sum((0, 2, 3), dtype=torch.float32)
        if ctx.needs_input_grad[1]:
            of_weight = torch.empty_like(weight)
            sums = (of_weight, of_bias) if sums_bias else (of_weight,)
            _call("gradient_of_weight", inputs, gradient, inputs, gradient, *sums)
        return of_inputs, of_weight, of_bias, None, None


def plain(inputs: Tensor, weight: Tensor, bias: Tensor | None, height: int, width: int) -> Tensor:
    """Return the result of `convolve` by torch's own convolution."""
    if (height, width) == inputs.shape[-2:]:
        return F.conv2d(inputs, weight, bias, padding=1)
    beyond = (1, width + 1 - inputs.shape[-1], 1, height + 1 - inputs.shape[-2])  # left, right, above, below
    return F.conv2d(F.pad(inputs, beyond), weight, bias)


def _call(name: str, images: Tensor, outputs: Tensor, *arguments: int | Tensor | None) -> None:
    count, channels, *_ = images.shape
    _, out_channels, rows, columns = outputs.shape
    narrow = _is_narrow(images.dtype, channels, out_channels)
    side = _side(count, rows, columns, channels, out_channels)
    library = _library(images.dtype, narrow=narrow, side=side)
    assert library is not None
    call(library, name, images, outputs, *arguments)


def call(library: native.Library, name: str, images: Tensor, outputs: Tensor, *arguments: int | Tensor | None) -> None:
    """Call a C function that convolves images of the shape of `images` to those of `outputs`.

    Raises:
        MemoryError: there is too little memory for its buffers.
    """
    count, channels, height, width = images.shape
    _, out_channels, rows, columns = outputs.shape
    if library.call(name, count, height, width, channels, out_channels, rows, columns, *arguments):
        raise MemoryError("a convolution found no memory for its buffers")


@functools.cache
def _library(dtype: torch.dtype, *, narrow: bool, side: int) -> native.Library | None:
    if not (native_bf16("cpu") if dtype == torch.bfloat16 else native.fp32_vectors()):
        return None
    if dtype == torch.bfloat16 and (library := amx()):
        return library
    if dtype == torch.bfloat16 and narrow:
        return native.load(Path(__file__).with_name("conv3x3_narrow.c"))
    name = "conv3x3_bf16.c" if dtype == torch.bfloat16 else "conv3x3_fp32.c"
    return native.load(Path(__file__).with_name(name), f"-DOUT={side}")


@functools.cache
def amx() -> native.Library | None:
    """Return the kernels for AMX, if it is there, the compiler knows it, and Linux lets this process use its tiles."""
    library = native.load(_AMX) if has_amx() else None
    return library if library is not None and library.functions.allow_tiles() == 0 else None
