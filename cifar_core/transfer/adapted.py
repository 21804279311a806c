"""A pretrained network with a head of one's own: saved and loaded like a trained network."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cifar_core.checkpoint import (
    build_network,
    data_set_of,
    read_tensors,
    recipe_of,
    restoring,
    write_tensors,
)
from cifar_core.data.data_set import DataSet
from cifar_core.transfer.backbone import Backbone, FeatureNetwork, meta_network
from cifar_core.transfer.head import Head

NORMALISATION = "half"  # of the images that an adapted network takes
TTA = "mirror"  # views that it is tested with, beside the image alone
_FACTS = "adapted"


class AdaptedNetwork(nn.Module):
    """Images normalised as "half" (N, 3, side, side) -> logits (N, classes); it scales them up itself."""

    def __init__(self, features: FeatureNetwork, head: Head) -> None:
        super().__init__()
        self.features = features
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(images))
        return logits


@dataclass(frozen=True, slots=True)
class LoadedNetwork:
    """A network on the CPU in evaluation mode, and what its images need."""

    network: nn.Module
    normalisation: str
    tta: str  # test-time augmentation that it was tested with
    data_set: DataSet  # that it was trained on


def save_adapted(backbone: Backbone, head: Head, data_set: DataSet, path: Path) -> None:
    """Write an adapted network to `path`, and the file's SHA-256 beside it.

    Raises:
        OSError: writing failed, for example on a full disk; the older file there, or the new one, is whole.
    """
    facts = {
        _FACTS: {"architecture": backbone.name, "side": backbone.side, "scaling": head.scaling},
        "data_set": data_set.to_dict(),
    }
    write_tensors(path, facts, AdaptedNetwork(backbone.network, head).state_dict())


def load_network(path: Path) -> LoadedNetwork:
    """Load the network in a file of weights, adapted or trained from nothing.

    Raises:
        CheckpointError: the file is missing or damaged, or of another version.
    """
    facts, tensors = read_tensors(path)
    if _FACTS in facts:
        return LoadedNetwork(_adapted(facts, tensors, path), NORMALISATION, TTA, data_set_of(facts, path))
    recipe = recipe_of(facts, path)
    network = build_network(recipe, facts, tensors, path).eval()
    return LoadedNetwork(network, recipe.normalisation, recipe.tta, data_set_of(facts, path))


def _adapted(facts: Mapping[str, Any], tensors: Mapping[str, Tensor], path: Path) -> AdaptedNetwork:
    with restoring(path, "an adapted network"):
        features = FeatureNetwork(facts[_FACTS]["architecture"])
        features.side = facts[_FACTS]["side"]
        classes, dimensions = tensors["head.linear.weight"].shape
        network = AdaptedNetwork(features, Head(dimensions, classes, facts[_FACTS]["scaling"]))
        network.load_state_dict(tensors)
        return network.eval()


def flops_per_image(backbone: Backbone) -> int:
    """Return the FLOPs of a forward pass: matrix products and convolutions, 2 per multiply-add."""
    return _flops(backbone.name, backbone.side)


@functools.cache
def _flops(name: str, side: int) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        meta_network(name, side)(torch.zeros(1, 3, 32, 32, device="meta"))
    return int(counter.get_total_flops())
