"""fast_resnet and airbench: the whitening layer, the groups and the scale of the logits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cifar_core.models import build_model
from cifar_core.models.fast_resnet import FastResNet
from cifar_core.recipe import Recipe
from cifar_core.training import normalise
from tests.cifar_core.support import identical, seeded, synthetic

pytestmark = pytest.mark.usefixtures("global_generator_unused")

EXAMPLES = normalise(synthetic(200, 0).train.images.float() / 255)


def whitened(seed: int = 0, examples: Tensor = EXAMPLES) -> tuple[FastResNet, Tensor]:
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


@pytest.mark.parametrize("kept", [[[1, 0, 0], [1, 0, 0], [1, 0, 0]], [[0, 0, 0], [0, 1, 0], [0, 0, 0]]])
def test_each_channel_varies_whatever_the_images_lack(kept: list[list[float]]) -> None:
    examples = torch.einsum("oc,ncyx->noyx", torch.tensor(kept, dtype=torch.float32), EXAMPLES)  # grey, and green alone
    model, _ = whitened(examples=examples)
    with torch.no_grad():
        outputs = model.whitening(examples).transpose(0, 1).flatten(1)
    torch.testing.assert_close(outputs.square().mean(1), torch.ones(24), atol=0.01, rtol=0)


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


@pytest.mark.parametrize(("name", "residual"), [("fast_resnet", True), ("airbench", False)])
def test_groups_are_residual_in_fast_resnet_alone(name: str, residual: bool) -> None:
    model = build_model(Recipe(model=name, width=0.25)).eval()
    group = model.get_submodule("groups.1")
    torch.nn.init.zeros_(group.get_parameter("refine.weight"))
    assert bool(group(torch.randn(2, 24, 8, 8, generator=seeded())).any()) == residual


def test_convolutions_begin_as_identities_on_their_first_channels() -> None:
    model, images = build_model(Recipe(model="fast_resnet", width=0.5)), torch.randn(2, 32, 8, 8, generator=seeded())
    for path in ("groups.2.widen", "groups.2.refine"):
        convolution = model.get_submodule(path)
        inputs = images.repeat(1, len(convolution.get_parameter("weight")[0]) // 32, 1, 1)
        torch.testing.assert_close(convolution(inputs)[:, : inputs.shape[1]], inputs)


def test_logits_are_a_ninth_of_the_last_layer() -> None:
    model, found = build_model(Recipe(model="fast_resnet", width=0.25)).eval(), list[Tensor]()
    model.get_submodule("head").register_forward_hook(lambda _, __, logits: found.append(logits))
    torch.testing.assert_close(model(torch.randn(2, 3, 32, 32, generator=seeded())), found[0] / 9)
