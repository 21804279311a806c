"""fast_resnet: its whitening layer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cifar_core.models import build_model
from cifar_core.models.fast_resnet import FastResNet
from cifar_core.recipe import Recipe
from cifar_core.training import normalise
from tests.cifar_core.support import identical, synthetic

pytestmark = pytest.mark.usefixtures("global_generator_unused")


def whitened(seed: int = 0) -> tuple[FastResNet, Tensor]:
    examples = normalise(synthetic(200, 0).train.images.float() / 255)
    model = build_model(Recipe(model="fast_resnet", width=0.25, seed=seed), examples)
    assert isinstance(model, FastResNet)
    return model, examples


def test_whitened_patches_are_uncorrelated_with_unit_variance() -> None:
    model, examples = whitened()
    with torch.no_grad():
        outputs = model.whitening(examples).transpose(0, 1).flatten(1).double()
    first, second = outputs[:12], outputs[12:]
    moments = first @ first.T / first.shape[1]
    torch.testing.assert_close(moments, torch.eye(12, dtype=torch.float64), atol=0.01, rtol=0)
    torch.testing.assert_close(second, -first, atol=1e-5, rtol=0)


def test_whitening_is_frozen_and_follows_the_data_alone() -> None:
    model, _ = whitened(seed=1)
    other, _ = whitened(seed=2)
    assert not model.whitening.weight.requires_grad
    assert torch.equal(model.whitening.weight, other.whitening.weight)
    assert not torch.equal(model.head.weight, other.head.weight)


def test_examples_change_nothing_else() -> None:
    model, examples = whitened()
    plain = build_model(Recipe(model="fast_resnet", width=0.25)).state_dict()
    changed = [key for key, value in model.state_dict().items() if not torch.equal(value, plain[key])]
    assert changed == ["whitening.weight"]
    recipe = Recipe(model="wide_resnet", width=0.25)
    assert identical(build_model(recipe, examples).state_dict(), build_model(recipe).state_dict())
