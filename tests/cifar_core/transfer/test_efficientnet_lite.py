"""Tests of EfficientNet-Lite."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from cifar_core.transfer.backbone import BackboneError, load_backbone
from cifar_core.transfer.efficientnet_lite import EfficientNetLite, fold
from tests.cifar_core.support import seeded
from tests.cifar_core.transfer.support import published_weights


def test_batch_norm_is_folded_into_the_convolution() -> None:
    stored = published_weights()
    network = EfficientNetLite(1.0, 1.0)
    network.load_state_dict(fold(stored))
    images = torch.randn(2, 3, 16, 16, generator=seeded())
    padded = F.pad(images, (0, 1, 0, 1))  # as TensorFlow does with an even side
    mean, variance, weight, bias = (
        stored[f"_bn0.{name}"] for name in ("running_mean", "running_var", "weight", "bias")
    )
    filtered = F.conv2d(padded, stored["_conv_stem.weight"], stride=2)
    expected = F.batch_norm(filtered, mean, variance, weight, bias, eps=1e-3)
    torch.testing.assert_close(network.conv_stem(images), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("width", "depth", "weights"), [(1.0, 1.0, 3_350_000), (1.0, 1.1, 4_108_848), (1.1, 1.2, 4_782_024)]
)
def test_size_is_that_of_the_published_network_without_its_classifier(width: float, depth: float, weights: int) -> None:
    with torch.device("meta"):
        network = EfficientNetLite(width, depth)
    assert sum(each.numel() for each in network.parameters()) == weights


@pytest.mark.parametrize("side", [31, 32, 33, 48])
def test_any_side_gives_the_same_number_of_features(side: int) -> None:
    with torch.device("meta"):
        assert EfficientNetLite(1.0, 1.0)(torch.zeros(2, 3, side, side)).shape == (2, 1280)


def test_published_weights_give_the_features_of_the_published_network() -> None:
    try:
        network = load_backbone("efficientnet_lite0").network.body
    except BackboneError:
        pytest.skip("the package with the weights is not installed")
    ramp = torch.linspace(-1, 1, 64)
    image = torch.stack([ramp.expand(64, 64), ramp.view(-1, 1).expand(64, 64), ramp.outer(ramp)])
    with torch.no_grad():
        [found] = network(image[None])
    # Computed with the network of efficientnet-lite-pytorch 0.1.0.
    assert found.mean().item() == pytest.approx(0.333748, abs=1e-5)
    assert found[[2, 7]].tolist() == pytest.approx([2.433148, 5.427957], abs=1e-4)
