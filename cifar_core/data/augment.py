"""Augmentation of whole batches on their device, drawn separately for every image.

Images are (N, 3, H, W), floats in [0, 1]. What is drawn comes from a `torch.Generator` on their device; global
generators are not used.
"""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from cifar_core.recipe import Recipe

# Rec. 601 luma weights, and the matrix to YIQ in which a hue change is a rotation.
_LUMA = (0.299, 0.587, 0.114)
_TO_YIQ = ((0.299, 0.587, 0.114), (0.595716, -0.274453, -0.321263), (0.211456, -0.522591, 0.311135))


def augment(
    images: Tensor, recipe: Recipe, mean: Tensor, generator: torch.Generator, mirrored: Tensor | None = None
) -> Tensor:
    """Apply the augmentations of `recipe` in order: jitter, flip, translate, cutout (filled with `mean`, (3,)).

    Args:
        mirrored: bool (N,), the images to flip; drawn at random if not given.
    """
    if recipe.color_jitter:
        images = jitter(images, recipe.color_jitter, generator)
    if recipe.flip:
        images = flip(images, _uniform(len(images), generator) < 0.5 if mirrored is None else mirrored)
    if recipe.translate:
        images = translate(images, recipe.translate, generator, padding=recipe.padding)
    if recipe.cutout:
        images = cutout(images, recipe.cutout, mean, generator)
    return images


def flip(images: Tensor, mirrored: Tensor) -> Tensor:
    """Mirror the images for which `mirrored` (N,) is true left to right."""
    return torch.where(mirrored.view(-1, 1, 1, 1), images.flip(3), images)


def translate(images: Tensor, pixels: int, generator: torch.Generator, *, padding: str) -> Tensor:
    """Shift each image by whole pixels in [-pixels, pixels], independently in x and y.

    This is a random crop after padding with the mirrored image ("reflect") or with black ("zero").
    """
    count, colours, height, width = images.shape
    down, across = (torch.randint(2 * pixels + 1, (count,), generator=generator, device=images.device) for _ in "yx")
    framed = F.pad(images, (pixels,) * 4, mode="constant" if padding == "zero" else "reflect")
    image, colour, row, column = framed.stride()
    places = (count, 2 * pixels + 1, 2 * pixels + 1)
    crops = framed.as_strided((*places, colours, height, width), (image, row, column, colour, row, column))
    return crops[torch.arange(count, device=images.device), down, across]


def cutout(images: Tensor, side: int, fill: Tensor, generator: torch.Generator) -> Tensor:
    """Fill a square of `side` pixels with the colour `fill` (3,); it may extend beyond the edge.

    DeVries & Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout" (2017).
    """
    count, _, height, width = images.shape
    inside_rows = _window(height, side, count, generator)
    inside_columns = _window(width, side, count, generator)
    hole = inside_rows[:, None, :, None] & inside_columns[:, None, None, :]
    return torch.where(hole, fill.view(1, 3, 1, 1), images)


def jitter(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Change brightness, contrast and saturation by factors in 1 +- strength, and hue by up to strength * 36 degrees.

    Together they are one affine map of each image's colours, so they cost one small matrix product.
    """
    count = len(images)
    brightness, contrast, saturation, angle = (
        2 * _uniform(4 * count, generator).view(4, count, 1, 1).to(images.dtype) - 1
    ) * strength
    angle = angle * math.pi / 5
    luma, to_yiq, from_yiq = _colours(images.dtype, images.device)
    identity = torch.eye(3, dtype=images.dtype, device=images.device)
    rotation = identity.repeat(count, 1, 1)
    rotation[:, 1:2, 1:2], rotation[:, 1:2, 2:3] = angle.cos(), -angle.sin()
    rotation[:, 2:3, 1:2], rotation[:, 2:3, 2:3] = angle.sin(), angle.cos()
    hue = from_yiq @ rotation @ to_yiq
    saturate = (1 + saturation) * identity - saturation * luma.expand(3, 3)
    colours = (1 + brightness) * (1 + contrast) * (hue @ saturate)
    grey = (images.mean((2, 3)) @ luma).view(count, 1, 1)
    offset = -contrast * (1 + brightness) * grey
    flat = torch.baddbmm(offset, colours, images.reshape(count, 3, -1))
    return flat.view_as(images).clamp_(0, 1)


def mix(images: Tensor, targets: Tensor, recipe: Recipe, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mix each image and its target with another one of the batch, by mixup or cutmix.

    mixup (Zhang et al., 2017) blends the pixels; cutmix (Yun et al., 2019) pastes a rectangle. The ratio is drawn once
    per batch from Beta(mix_alpha, mix_alpha).

    Args:
        targets: (N, classes) probabilities.

    Returns:
        images and targets in the same shapes.
    """
    if recipe.mix == "none":
        return images, targets
    partner = torch.randperm(len(images), generator=generator, device=images.device)
    share = beta(recipe.mix_alpha, generator)
    if recipe.mix == "mixup":
        images = torch.lerp(images[partner], images, share.to(images.dtype))
    else:
        _, _, height, width = images.shape
        side = (1 - share).sqrt()
        hole = _span(height, side, generator)[None, None, :, None] & _span(width, side, generator)[None, None, None, :]
        share = 1 - hole.to(share.dtype).mean()
        images = torch.where(hole, images[partner], images)
    return images, torch.lerp(targets[partner], targets, share.to(targets.dtype))


@functools.cache
def _colours(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Luma weights (3,), and the matrices (3, 3) to YIQ and back; on the CPU first, as a GPU would wait for them."""
    luma, to_yiq = torch.tensor(_LUMA, dtype=dtype), torch.tensor(_TO_YIQ, dtype=dtype)
    return luma.to(device), to_yiq.to(device), torch.linalg.inv(to_yiq).to(device)


def _uniform(count: int, generator: torch.Generator) -> Tensor:
    return torch.rand(count, generator=generator, device=generator.device)


def _window(size: int, side: int, count: int, generator: torch.Generator) -> Tensor:
    """Masks (count, size) of `side` pixels around a random centre."""
    start = torch.randint(0, size, (count, 1), generator=generator, device=generator.device) - side // 2
    index = torch.arange(size, device=generator.device)
    return (index >= start) & (index < start + side)


def _span(size: int, fraction: Tensor, generator: torch.Generator) -> Tensor:
    """Mask (size,) of about `fraction` of the pixels around a random centre, clipped at the edges."""
    centre = _uniform(1, generator) * size
    index = torch.arange(size, device=generator.device) + 0.5
    return (index - centre).abs() < fraction * size / 2


def beta(alpha: float, generator: torch.Generator) -> Tensor:
    """Draw from Beta(alpha, alpha) with two uniform numbers and without float64, which some devices lack.

    It is a Student's t with 2 alpha degrees of freedom (Bailey, "Polar generation of random variates with the
    t-distribution", 1994), squeezed into [0, 1] (Devroye, "Random variate generation in one line of code", 1996).
    """
    radius, turn = _uniform(2, generator)
    cosine = (2 * math.pi * turn).cos()
    ratio = (-radius.log() / alpha).expm1() * cosine**2  # t squared over its degrees of freedom
    share: Tensor = 0.5 + cosine.sign() / (2 * (1 + 1 / ratio).sqrt())
    return share
