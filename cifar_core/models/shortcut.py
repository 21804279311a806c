"""A 3x3 convolution and a 1x1 shortcut of the same images, in one operation on CPUs with AMX.

oneDNN, which torch uses, takes two to three times as long for gradients with stride 2, and autograd adds the two
gradients of the images in a pass through memory of its own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from cifar_core.models import conv3x3, native


def convolve(images: Tensor, conv: nn.Conv2d, shortcut: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """Return `conv(images), shortcut(images)` of (N, C, H, W), by the faster kernels.

    Args:
        conv: of 3x3 pixels, without bias, with zero padding.
        shortcut: of 1x1 pixel, without bias, with the stride of `conv`, which is 1 or 2.
    """
    if is_faster(images, conv.weight, shortcut.weight):
        return _Both.apply(images, conv.weight, shortcut.weight, conv.stride[0])  # type: ignore[no-untyped-call, no-any-return]
    return conv(images), shortcut(images)


def is_faster(images: Tensor, *weights: Tensor) -> bool:
    """Return true if the kernels are there for `images` (N, C, H, W) and the filters of both convolutions."""
    if not native.takes(images, *weights) or conv3x3.dtype_of(images) != torch.bfloat16 or conv3x3.amx() is None:
        return False
    usual = all(weight.dtype == torch.float32 and weight.shape[1] == images.shape[1] for weight in weights)
    return images.ndim == 4 and images.numel() > 0 and usual


class _Both(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, shortcut: Tensor, stride: int) -> tuple[Tensor, ...]:
        images = native.as_images(images, torch.bfloat16)
        weights = [each.contiguous(memory_format=torch.channels_last) for each in (weight, shortcut)]
        ctx.save_for_backward(images, *weights)
        ctx.stride = stride
        rows, columns = (-(-side // stride) for side in images.shape[2:])
        outputs = [native.new_images((len(images), len(each), rows, columns), images.dtype) for each in weights]
        for each, output in zip(weights, outputs, strict=True):
            _call("strided_convolve", images, output, stride, each.shape[2], 0, 0, images, each, None, output)
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        images, *weights = ctx.saved_tensors
        of_images = native.new_images(images.shape, images.dtype) if ctx.needs_input_grad[0] else None
        of_weights: list[Tensor | None] = [None, None]
        for i, weight in enumerate(weights):
            gradient = native.as_images(gradients[i], images.dtype)
            of_filter = (ctx.stride, weight.shape[2])
            if of_images is not None:  # the second is added to the first
                _call("strided_convolve", gradient, of_images, *of_filter, 1, i, gradient, weight, None, of_images)
            if ctx.needs_input_grad[1 + i]:
                of_weights[i] = of_weight = torch.empty_like(weight)
                _call("strided_gradient_of_weight", images, gradient, *of_filter, images, gradient, of_weight)
        return of_images, *of_weights, None


def _call(name: str, images: Tensor, outputs: Tensor, *arguments: int | Tensor | None) -> None:
    library = conv3x3.amx()
    assert library is not None
    conv3x3.call(library, name, images, outputs, *arguments)
