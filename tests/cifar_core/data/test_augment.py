"""Augmentation: properties of every single image, and slow reference implementations."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from cifar_core.data.augment import augment, cutout, flip, jitter, mix, translate
from cifar_core.data.data_set import CIFAR10
from cifar_core.recipe import CHOICES, Recipe, RecipeError
from tests.cifar_core.support import seeded

pytestmark = pytest.mark.usefixtures("global_generator_unused")

FILL = torch.tensor([2.0, 3.0, 4.0])  # outside [0, 1], so that painted pixels are known
FLIPPED = Recipe(flip=True, translate=0)
PLAIN = Recipe(flip=False, translate=0, cutout=0, color_jitter=0.0, mix="none")

OTHER_FIELDS = {
    *("model", "width", "bn_momentum", "epochs", "batch_size", "val_fraction", "normalisation", "optimizer"),
    *("learning_rate", "bias_lr_multiple", "momentum", "nesterov", "weight_decay", "decay_all", "clip_norm"),
    *("label_smoothing", "keep_best", "schedule", "warmup", "start_factor", "end_factor", "momentum_at_peak"),
    *("step_every", "step_factor", "schedule_per_epoch", "seed", "deterministic", "tta", "alternate_flip"),
    *("aux_optimizer", "aux_momentum", "head_lr_multiple", "reset_norms", "freeze_first", "average", "average_decay"),
    *("orthogonalization", "low_resolution"),
}

SEEDS = st.integers(0, 2**32)

AUGMENTATIONS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "flip": lambda images, generator: augment(images, FLIPPED, FILL, generator),
    "translate": lambda images, generator: translate(images, 4, generator, padding="reflect"),
    "cutout": lambda images, generator: cutout(images, 8, FILL, generator),
    "jitter": lambda images, generator: jitter(images, 0.4, generator),
    "augment": lambda images, generator: augment(
        images, Recipe(flip=True, translate=4, cutout=8, color_jitter=0.4), FILL, generator
    ),
}


def random_images(count: int, height: int = 32, width: int = 32, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, height, width, generator=seeded(seed))


# What holds for all of them


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_every_image_has_its_own_draw_from_the_generator(name: str) -> None:
    augmentation, copies = AUGMENTATIONS[name], random_images(1).repeat(32, 1, 1, 1)
    before = copies.clone()
    result = augmentation(copies, seeded())
    assert torch.equal(copies, before)
    assert (result.shape, result.dtype) == (copies.shape, copies.dtype)
    different = len(torch.unique(result.flatten(1), dim=0))
    assert different == 2 if name == "flip" else different > 20
    assert torch.equal(augmentation(copies, seeded()), result)
    assert not torch.equal(augmentation(copies, seeded(1)), result)


# Each of them


@given(seed=SEEDS)
def test_flip_leaves_or_mirrors_each_image(seed: int) -> None:
    images = random_images(64, 6, 5, seed)
    result = augment(images, FLIPPED, FILL, seeded(seed))
    mirrored, kept = ((result == expected).flatten(1).all(1) for expected in (images.flip(3), images))
    assert torch.equal(mirrored, ~kept)
    assert 8 < mirrored.sum() < 56  # chances of failing: 1e-10
    assert torch.equal(flip(result, mirrored), images)


@pytest.mark.slow
@pytest.mark.parametrize(("padding", "mode"), [("reflect", "reflect"), ("zero", "constant")])
@given(seed=SEEDS, pixels=st.integers(0, 5))
def test_translate_shifts_each_image_and_fills_the_edge(padding: str, mode: Any, seed: int, pixels: int) -> None:
    images = random_images(12, 6, 8, seed)
    result = translate(images, pixels, seeded(seed), padding=padding)
    for image, shifted in zip(images.numpy(), result.numpy(), strict=True):
        padded = np.pad(image, ((0, 0), (pixels, pixels), (pixels, pixels)), mode=mode)
        assert any(
            np.array_equal(shifted, padded[:, top : top + 6, left : left + 8])
            for top in range(2 * pixels + 1)
            for left in range(2 * pixels + 1)
        )


def test_translate_uses_all_shifts_independently() -> None:
    # Where the centre of the image comes from says how it was shifted.
    rows, columns = torch.meshgrid(torch.arange(5.0), torch.arange(5.0), indexing="ij")
    images = torch.stack([rows, columns, rows]).repeat(300, 1, 1, 1)
    centres = translate(images, 1, seeded(), padding="reflect")[:, :2, 2, 2]
    where, counts = torch.unique(centres, dim=0, return_counts=True)
    assert where.tolist() == [[row, column] for row in (1, 2, 3) for column in (1, 2, 3)]
    assert counts.min() > 15


@given(seed=SEEDS, side=st.integers(0, 32))
@settings(max_examples=50)
def test_cutout_paints_a_rectangle_and_nothing_else(seed: int, side: int) -> None:
    images = random_images(16, seed=seed)
    result = cutout(images, side, FILL, seeded(seed))
    painted = result[:, 0] == FILL[0]
    rows, columns = painted.any(2), painted.any(1)
    assert torch.equal(painted, rows[:, :, None] & columns[:, None, :])
    for line in (*rows, *columns):
        where = line.nonzero().flatten().tolist()
        assert where == list(range(where[0], where[-1] + 1)) if where else side == 0
        assert side / 2 <= len(where) <= side
    hole = painted[:, None].expand_as(images)
    assert torch.equal(result[hole], FILL.view(1, 3, 1, 1).expand_as(images)[hole])
    assert torch.equal(result[~hole], images[~hole])


def test_cutout_square_is_mostly_whole() -> None:
    painted = cutout(random_images(200), 8, FILL, seeded())[:, 0] == FILL[0]
    areas = painted.sum((1, 2))
    assert areas.max() == 64
    assert (areas == 64).float().mean() == pytest.approx((25 / 32) ** 2, abs=0.1)


def test_jitter_of_strength_zero_is_identity() -> None:
    images = random_images(8)
    torch.testing.assert_close(jitter(images, 0.0, seeded()), images, atol=1e-5, rtol=0)


@given(seed=SEEDS, strength=st.floats(0, 1))
def test_jitter_stays_in_range_and_leaves_grey_images_grey(seed: int, strength: float) -> None:
    images = random_images(8, 4, 4, seed)
    images[:4] = images[:4, :1]
    result = jitter(images, strength, seeded(seed))
    assert result.isfinite().all()
    assert result.min() >= 0
    assert result.max() <= 1
    torch.testing.assert_close(result[:4], result[:4, :1].expand(-1, 3, -1, -1), atol=1e-5, rtol=0)


def test_jitter_changes_brightness_contrast_and_colour_by_as_much_as_it_says() -> None:
    strength = 0.3
    images = 0.45 + 0.1 * random_images(200, 8, 8)  # far from 0 and 1, where values would be cut off
    result = jitter(images, strength, seeded())
    luma = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    before, after = (images * luma).sum(1), (result * luma).sum(1)

    # Contrast turns about the mean luma, and hue and saturation keep luma: brightness alone moves the mean.
    brightness = after.mean((1, 2)) / before.mean((1, 2))
    assert 1 - strength - 1e-3 < brightness.min() < 1 - 0.8 * strength
    assert 1 + 0.8 * strength < brightness.max() < 1 + strength + 1e-3
    contrast = after.std((1, 2)) / before.std((1, 2)) / brightness
    assert 1 - strength - 1e-3 < contrast.min() < 1 - 0.8 * strength
    assert 1 + 0.8 * strength < contrast.max() < 1 + strength + 1e-3

    # In the plane of colours (I and Q of YIQ) saturation is a length and hue an angle.
    to_plane = torch.tensor([[0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])
    plane = torch.view_as_complex(torch.einsum("pc,nchw->nhwp", to_plane, images).contiguous())
    turned = torch.view_as_complex(torch.einsum("pc,nchw->nhwp", to_plane, result).contiguous())
    ratio = (turned * plane.conj()).sum((1, 2)) / plane.abs().square().sum((1, 2))
    saturation = ratio.abs() / brightness / contrast
    assert 1 - strength - 1e-2 < saturation.min() < 1 - 0.8 * strength
    assert 1 + 0.8 * strength < saturation.max() < 1 + strength + 1e-2
    degrees = ratio.angle().rad2deg().abs()
    assert 0.8 * strength * 36 < degrees.max() < strength * 36 + 0.1


# All together, as a recipe asks


def test_only_what_the_recipe_enables_is_applied() -> None:
    images, mean, generator = random_images(16), torch.tensor(CIFAR10.mean), seeded()
    assert torch.equal(augment(images, PLAIN, mean, generator), images)
    targets = torch.eye(16)
    for plain, mixed in zip((images, targets), mix(images, targets, PLAIN, generator), strict=True):
        assert torch.equal(mixed, plain)
    assert torch.equal(generator.get_state(), seeded().get_state())
    alone = {
        "flip": (FLIPPED, flip(images, torch.rand(16, generator=seeded(3)) < 0.5)),
        "translate": (Recipe(flip=False, translate=3), translate(images, 3, seeded(3), padding="reflect")),
        "cutout": (Recipe(flip=False, translate=0, cutout=7), cutout(images, 7, mean, seeded(3))),
        "jitter": (Recipe(flip=False, translate=0, color_jitter=0.2), jitter(images, 0.2, seeded(3))),
    }
    for recipe, expected in alone.values():
        assert torch.equal(augment(images, recipe, mean, seeded(3)), expected)


@pytest.mark.parametrize("name", sorted({field.name for field in fields(Recipe)} - OTHER_FIELDS))
def test_every_augmentation_of_a_recipe_changes_the_images(name: str) -> None:
    everything = Recipe(flip=True, translate=4, cutout=8, color_jitter=0.4, mix="cutmix")

    def changed(recipe: Recipe) -> bool:
        parts = [
            mix(augment(random_images(8), each, FILL, seeded()), torch.eye(8), each, seeded(1))
            for each in (everything, recipe)
        ]
        return not all(torch.equal(one, other) for one, other in zip(*parts, strict=True))

    values: tuple[Any, ...] = (*CHOICES.get(name, ()), True, False, 1, 3, 0.5, 1.0)
    for value in values:
        with contextlib.suppress(RecipeError):
            if changed(replace(everything, **{name: value})):
                return
    pytest.fail(
        f"no value of {name} changes the images: augment() or mix() of cifar_core/data/augment.py must apply it, or if "
        "it is no augmentation, OTHER_FIELDS in this file must list it"
    )


# Blends of two images


def blend(kind: str, alpha: float, seed: int, count: int = 10) -> tuple[Tensor, list[int], float]:
    """A blended batch whose image i has the value i everywhere and class i, the partners, and the own share.

    The share and the partners are read off the targets.
    """
    images = torch.arange(float(count)).view(-1, 1, 1, 1).expand(-1, 3, 32, 32)
    blended, targets = mix(images, torch.eye(count), Recipe(mix=kind, mix_alpha=alpha), seeded(seed))
    assert blended.shape == images.shape
    assert targets.shape == (count, count)
    torch.testing.assert_close(targets.sum(1), torch.ones(count))
    assert targets.min() >= 0
    others = targets - torch.diag(targets.diagonal())
    partners = [int(row.argmax()) if row.any() else own for own, row in enumerate(others)]
    share = float(targets.diagonal().min())  # 1 for the images that are their own partner
    return blended, partners, share


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
@given(seed=SEEDS, alpha=st.floats(0.01, 10))
@example(seed=0, alpha=0.01)
def test_blended_targets_are_distributions(kind: str, seed: int, alpha: float) -> None:
    images = random_images(6, 8, 8, seed)
    targets = torch.softmax(torch.randn(6, 10, generator=seeded(seed)), 1)
    blended, mixed = mix(images, targets, Recipe(mix=kind, mix_alpha=alpha), seeded(seed))
    torch.testing.assert_close(mixed.sum(1), torch.ones(6))
    assert mixed.min() >= 0
    assert images.min() <= blended.min()
    assert blended.max() <= images.max()


@given(seed=SEEDS, alpha=st.floats(0.1, 10))
def test_mixup_blends_pixels_as_it_blends_targets(seed: int, alpha: float) -> None:
    blended, partners, share = blend("mixup", alpha, seed)
    for own, partner in enumerate(partners):
        expected = share * own + (1 - share) * partner
        torch.testing.assert_close(blended[own], torch.full((3, 32, 32), expected), atol=1e-4, rtol=0)


@given(seed=SEEDS, alpha=st.floats(0.1, 10))
@settings(max_examples=50)
def test_cutmix_pastes_a_rectangle_as_large_as_its_share_of_the_target(seed: int, alpha: float) -> None:
    blended, partners, share = blend("cutmix", alpha, seed)
    moved = [own for own, partner in enumerate(partners) if own != partner]
    pasted = {own: blended[own] != own for own in moved}
    for own in moved:
        mask = pasted[own]
        rows, columns = mask[0].any(1), mask[0].any(0)
        assert torch.equal(mask, (rows[:, None] & columns).expand(3, 32, 32))
        assert torch.equal(mask, pasted[moved[0]])
        assert (blended[own][mask] == partners[own]).all()
        assert mask.float().mean() == pytest.approx(1 - share, abs=1e-6)
    for own in set(range(len(partners))) - set(moved):
        assert (blended[own] == own).all()


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_partners_share_out_the_batch_as_the_generator_draws_them(kind: str) -> None:
    blended, partners, share = blend(kind, 1.0, seed=1)
    assert 0 < share < 1
    assert sorted(partners) == list(range(10))
    assert partners != list(range(10))
    again = blend(kind, 1.0, seed=1)
    assert torch.equal(again[0], blended)
    assert again[1:] == (partners, share)
    assert not torch.equal(blend(kind, 1.0, seed=6)[0], blended)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 5.0])
def test_share_is_beta_distributed(alpha: float) -> None:
    shares = torch.tensor([blend("mixup", alpha, seed, count=4)[2] for seed in range(400)])
    shares = shares[shares < 1]  # the batches in which nobody has a partner
    # By symmetry the mean is 1/2; the variance of Beta(a, a) is 1 / (4 (2 a + 1)).
    assert shares.mean() == pytest.approx(0.5, abs=0.08)
    assert shares.std() == pytest.approx((4 * (2 * alpha + 1)) ** -0.5, abs=0.05)
