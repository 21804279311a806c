"""Exported networks: pixels in, the probabilities of the network out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cifar_core.data import Split
from cifar_core.data.data_set import CIFAR10
from cifar_core.export import export
from cifar_core.hardware import Hardware
from cifar_core.models import build_model
from cifar_core.recipe import Recipe
from cifar_core.training import predict

CPU = Hardware(torch.device("cpu"), bf16=False)


@pytest.mark.slow
def test_a_program_answers_as_its_network_for_every_size_of_batch(tmp_path: Path) -> None:
    recipe = Recipe(model="three_conv", width=0.25)
    network = build_model(recipe).eval()
    torch.export.save(export(network, recipe.normalisation, CIFAR10), tmp_path / "network.pt2")
    program = torch.export.load(tmp_path / "network.pt2").module()
    images = torch.randint(0, 256, (7, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for count in (1, 2, 7):
        split = Split(images[:count], torch.zeros(count, dtype=torch.long))
        expected = predict(network, split, CPU).probabilities
        torch.testing.assert_close(program(split.images.permute(0, 2, 3, 1)), expected)
