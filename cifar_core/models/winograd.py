"""3x3 convolutions by Winograd's algorithm in torch's operations, for CPUs in fp32 without the kernels of `conv3x3`.

Winograd's minimal filtering F(4x4, 3x3), after Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks"
(2016). The image is cut into 6x6 tiles, four pixels apart. Transformed tiles and transformed filters are multiplied
element by element, as 36 matrix products over the channels. The inverse transform gives 4x4 tiles of the output: 36
multiplications in place of 144. Rounding errors are a few millionths of the result.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cifar_core.models import native

_STRIDE = 4  # pixels between tiles, and side of an output tile
_SIDE = 6  # of an input tile
_POINTS = _SIDE * _SIDE
_TILES_AT_ONCE = 512  # limits the memory of the transformed images

# Section 4.2 of the paper: transforms of input tiles, of filters and of output tiles.
_OF_INPUT = torch.tensor(
    [[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0],
     [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]], dtype=torch.float64,
)  # fmt: skip
_OF_FILTER = torch.tensor(
    [[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]], dtype=torch.float64
) / 24  # fmt: skip
_OF_OUTPUT = torch.tensor(
    [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]], dtype=torch.float64
)


def is_faster(inputs: Tensor, weight: Tensor) -> bool:
    """Return true if `convolve` is faster than torch's own convolution for these arguments.

    The cost of the transforms grows with the number of channels, and the saving with the product of input and output
    channels; the transform of the filters only pays if many tiles share it.
    """
    if not native.takes(inputs, weight) or inputs.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
        return False
    outputs, channels = weight.shape[:2]
    if inputs.ndim != 4 or inputs.shape[1] != channels:  # torch takes a single image, or says what is wrong
        return False
    images, _, height, width = inputs.shape
    tiles = images * _tiles_along(height) * _tiles_along(width)
    if _STRIDE**2 * tiles > 2 * images * height * width:  # most outputs lie beyond the edge, as at 5x5
        return False
    # Measured on a Xeon with AVX-512: both are about equally fast a little below these bounds.
    return tiles >= 64 and outputs * channels >= 64 * (outputs + channels)


def convolve(inputs: Tensor, weight: Tensor) -> Tensor:
    """Convolve (N, C_in, H, W) with filters (C_out, C_in, 3, 3) and zero padding of 1: (N, C_out, H, W).

    The output is in channels-last memory format.
    """
    output: Tensor = _Convolution.apply(inputs, weight)  # type: ignore[no-untyped-call]
    return output


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        images = inputs.permute(0, 2, 3, 1)
        count, height, width, _ = images.shape
        rows, columns = _tiles_along(height), _tiles_along(width)
        filters = _transformed_filters(weight)
        output = images.new_empty(count, rows, _STRIDE, columns, _STRIDE, len(weight))
        for part in _parts(count, rows * columns):
            product = torch.bmm(_transformed_images(images[part]), filters)
            tiles = _transform(_OF_OUTPUT, product.view(_POINTS, -1))
            output[part] = tiles.view(_STRIDE, _STRIDE, -1, rows, columns, len(weight)).permute(2, 3, 0, 4, 1, 5)
        pixels = output.view(count, rows * _STRIDE, columns * _STRIDE, len(weight))[:, :height, :width]
        return pixels.contiguous().permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor]:
        """Transpose each step of the forward pass; transformed images are recomputed, as they are large."""
        inputs, weight = ctx.saved_tensors
        images, gradients = inputs.permute(0, 2, 3, 1), gradient.permute(0, 2, 3, 1)
        count, height, width, channels = images.shape
        rows, columns = _tiles_along(height), _tiles_along(width)
        filters = _transformed_filters(weight).transpose(1, 2)
        of_filters = images.new_zeros(_POINTS, channels, len(weight))
        of_images = torch.empty_like(images, memory_format=torch.contiguous_format)
        for part in _parts(count, rows * columns):
            uncropped = _framed(gradients[part], 0, rows * _STRIDE, columns * _STRIDE)
            of_product = _transform(_OF_OUTPUT.T, _cut(uncropped, _STRIDE, rows, columns)).view(
                _POINTS, -1, len(weight)
            )
            of_filters.baddbmm_(_transformed_images(images[part]).transpose(1, 2), of_product)
            if ctx.needs_input_grad[0]:
                of_tiles = _transform(_OF_INPUT.T, torch.bmm(of_product, filters).view(_POINTS, -1))
                of_images[part] = _pasted(of_tiles, rows, columns, channels)[:, 1 : height + 1, 1 : width + 1]
        of_weight = _transform(_OF_FILTER.T, of_filters.view(_POINTS, -1)).view(3, 3, channels, -1).permute(3, 2, 0, 1)
        return of_images.permute(0, 3, 1, 2) if ctx.needs_input_grad[0] else None, of_weight


def _tiles_along(pixels: int) -> int:
    return -(-pixels // _STRIDE)


def _parts(images: int, tiles_each: int) -> list[slice]:
    """Slices of `images` images, each of at most `_TILES_AT_ONCE` tiles."""
    step = max(1, _TILES_AT_ONCE // tiles_each)
    return [slice(first, first + step) for first in range(0, images, step)]


def _transformed_filters(weight: Tensor) -> Tensor:
    """(C_out, C_in, 3, 3) -> (36, C_in, C_out)."""
    outputs, channels = weight.shape[:2]
    return _transform(_OF_FILTER, weight.permute(2, 3, 1, 0).reshape(9, -1)).view(_POINTS, channels, outputs)


def _transformed_images(images: Tensor) -> Tensor:
    """(N, H, W, C) -> (36, tiles, C)."""
    rows, columns = _tiles_along(images.shape[1]), _tiles_along(images.shape[2])
    framed = _framed(images, 1, rows * _STRIDE + 2, columns * _STRIDE + 2)
    return _transform(_OF_INPUT, _cut(framed, _SIDE, rows, columns)).view(_POINTS, -1, images.shape[3])


def _transform(matrix: Tensor, tiles: Tensor) -> Tensor:
    """Multiply tiles (before * before, X) by `matrix` (after, before) from both sides: (after * after, X)."""
    matrix = matrix.to(tiles.dtype)
    after, before = matrix.shape
    halfway = torch.mm(matrix, tiles.reshape(before, -1)).view(after, before, -1)
    return torch.bmm(matrix.expand(after, after, before), halfway).view(after * after, -1)


def _framed(images: Tensor, border: int, height: int, width: int) -> Tensor:
    """Zero-pad (N, H, W, C) to (N, height, width, C): `border` rows and columns before, the rest after."""
    below, right = height - border - images.shape[1], width - border - images.shape[2]
    return F.pad(images, (0, 0, border, right, border, below)).contiguous()


def _cut(images: Tensor, side: int, rows: int, columns: int) -> Tensor:
    """Cut (N, H, W, C) into tiles, the position in the tile first: (side * side, N * rows * columns * C)."""
    count, _, _, channels = images.shape
    image, row, column, _ = images.stride()
    tiles = images.as_strided(
        (side, side, count, rows, columns, channels), (row, column, image, _STRIDE * row, _STRIDE * column, 1)
    )
    return tiles.reshape(side * side, -1)


def _pasted(tiles: Tensor, rows: int, columns: int, channels: int) -> Tensor:
    """Invert `_cut`, adding tiles where they overlap: (N, 4 * rows + 4, 4 * columns + 4, C)."""
    tiles = tiles.view(_SIDE, _SIDE, -1, rows, columns, channels).permute(2, 3, 0, 4, 1, 5)
    images = tiles.new_empty(len(tiles), rows + 1, _STRIDE, columns + 1, _STRIDE, channels)
    images[:, rows] = images[:, :, :, columns] = 0
    inner, outer, overlap = slice(None, _STRIDE), slice(_STRIDE, None), slice(None, _SIDE - _STRIDE)
    images[:, :rows, :, :columns] = tiles[:, :, inner, :, inner]
    images[:, 1:, overlap, :columns] += tiles[:, :, outer, :, inner]
    images[:, :rows, :, 1:, overlap] += tiles[:, :, inner, :, outer]
    images[:, 1:, overlap, 1:, overlap] += tiles[:, :, outer, :, outer]
    return images.view(len(tiles), (rows + 1) * _STRIDE, (columns + 1) * _STRIDE, channels)
