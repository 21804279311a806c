"""Tests of adapted networks as a whole."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch

from cifar_core.checkpoint import CheckpointError, read_tensors, save_state, write_tensors
from cifar_core.data.data_set import CIFAR10
from cifar_core.export import export
from cifar_core.recipe import Recipe
from cifar_core.training import TrainState, predict
from cifar_core.transfer.adapted import NORMALISATION, TTA, flops_per_image, load_network, save_adapted
from cifar_core.transfer.features import features
from cifar_core.transfer.head import HeadRecipe, fit
from tests.cifar_core.support import FP32, refusal, synthetic
from tests.cifar_core.transfer.support import small_backbone


def test_a_saved_network_gives_the_predictions_of_its_head(tmp_path: Path) -> None:
    data, backbone, path = synthetic(40, 20), small_backbone(tmp_path), tmp_path / "adapted.safetensors"
    views = [features(backbone, data.train.images, FP32, mirrored=mirrored).values for mirrored in (False, True)]
    head = fit(views, data.train.labels, HeadRecipe(), classes=10)
    expected = head.predict(features(backbone, data.val.images, FP32).values, data.val)
    save_adapted(backbone, head, CIFAR10, path)
    loaded = load_network(path)
    assert (loaded.normalisation, loaded.tta, loaded.data_set) == (NORMALISATION, TTA, CIFAR10)
    found = predict(loaded.network, data.val, FP32, loaded.normalisation)
    torch.testing.assert_close(found.probabilities, expected.probabilities, atol=1e-3, rtol=1e-2)
    program = export(loaded.network, loaded.normalisation, CIFAR10).module()
    served = program(data.val.images.permute(0, 2, 3, 1).contiguous())
    torch.testing.assert_close(served, found.probabilities, atol=1e-4, rtol=1e-3)
    facts, tensors = read_tensors(path)
    headless = {name: value for name, value in tensors.items() if name != "head.linear.weight"}
    for other, rest, cause in (
        ({"architecture": "zebranet"}, tensors, "zebranet"),
        ({}, headless, "head.linear.weight"),
    ):
        write_tensors(path, {**facts, "adapted": facts["adapted"] | other}, rest)
        assert refusal(functools.partial(load_network, path), CheckpointError) == (
            f"{path}: it must be an adapted network of this version, but: {cause!r}"
        )
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="SHA-256 must be"):
        load_network(path)


def test_a_trained_network_is_loaded_with_what_its_recipe_asks_for(tmp_path: Path) -> None:
    data, path = synthetic(40, 20), tmp_path / "w.safetensors"
    recipe = Recipe(model="fast_resnet", width=0.125, normalisation="half", tta="mirror-shift")
    state = TrainState.create(recipe, data, FP32)
    save_state(state, path)
    loaded = load_network(path)
    assert not loaded.network.training
    assert (loaded.normalisation, loaded.tta, loaded.data_set) == ("half", "mirror-shift", CIFAR10)
    found, expected = (predict(each, data.val, FP32, "half") for each in (loaded.network, state.model))
    assert torch.equal(found.probabilities, expected.probabilities)


def test_compute_is_that_of_the_resolution(tmp_path: Path) -> None:
    # 390 million multiply-adds are published for 224 pixels with the classifier, which has 1.3 million.
    backbone = small_backbone(tmp_path, side=224)
    assert flops_per_image(backbone) == pytest.approx(2 * 384e6, rel=0.05)
