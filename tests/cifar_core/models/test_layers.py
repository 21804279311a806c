"""Channel counts, convolutions and dropout."""

from __future__ import annotations

import copy
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cifar_core.models import fused
from cifar_core.models.layers import GELU, Conv3x3, Dropout, FusedSequential, channels, kept_elements
from tests.cifar_core.support import seeded

pytestmark = pytest.mark.usefixtures("global_generator_unused")


@given(base=st.integers(1, 64).map(lambda k: 8 * k), width=st.floats(0, 8, exclude_min=True))
def test_channels_are_the_nearest_multiple_of_8(base: int, width: float) -> None:
    count = channels(base, width)
    assert count >= 8
    assert count % 8 == 0
    assert count == 8 or abs(count - base * width) <= 4
    assert channels(base, 1.0) == base


def test_dropout_needs_its_generator() -> None:
    with pytest.raises(RuntimeError, match=r"Dropout\.generator must be set before training"):
        Dropout(0.5)(torch.ones(3))


def test_dropout_is_identity_outside_training_and_without_probability() -> None:
    inputs = torch.randn(5, 7, generator=seeded())
    assert torch.equal(Dropout(0.5).eval()(inputs), inputs)
    assert torch.equal(Dropout(0.0).train()(inputs), inputs)


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.8])
def test_dropout_keeps_the_expectation(probability: float) -> None:
    dropout = Dropout(probability)
    dropout.generator = seeded()
    result = dropout(torch.ones(100_000))
    kept = result != 0
    assert kept.float().mean() == pytest.approx(1 - probability, abs=0.01)
    torch.testing.assert_close(result[kept], torch.full_like(result[kept], 1 / (1 - probability)))


@pytest.mark.parametrize("kind", ["cpu", "mps"])
def test_elements_are_kept_on_devices_of_each_kind(kind: str) -> None:
    kept = kept_elements(kind, 100_001, 0.3, seeded())
    assert (kept.shape, kept.dtype) == ((100_001,), torch.bool)
    assert kept.float().mean() == pytest.approx(0.7, abs=0.01)
    assert torch.equal(kept_elements(kind, 100_001, 0.3, seeded()), kept)


def test_dropout_follows_its_generator() -> None:
    dropout, inputs = Dropout(0.5), torch.ones(1_000)
    dropout.generator = seeded(1)
    first, second = dropout(inputs), dropout(inputs)
    dropout.generator = seeded(1)
    assert torch.equal(dropout(inputs), first)
    assert not torch.equal(second, first)


@pytest.mark.parametrize("side", [5, 6, 7, 15])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_pooled_convolution_gives_what_pooling_keeps(side: int, precision: torch.dtype) -> None:
    with torch.random.fork_rng():
        pooled, plain = Conv3x3(64, 128, pooled=True), Conv3x3(64, 128)
    pooled.load_state_dict(plain.state_dict())
    images = torch.randn(64, 64, side, side, generator=seeded()).requires_grad_()
    kept = slice(side // 2 * 2)  # a maximum itself would be of another pixel where two differ by their rounding alone
    with torch.autocast("cpu", dtype=precision, enabled=precision != torch.float32):
        found, expected = (layer(images)[:, :, kept, kept].float() for layer in (pooled, plain))
    rounding = 1e-4 if precision == torch.float32 else 0.06
    torch.testing.assert_close(found, expected, rtol=rounding, atol=rounding)
    slopes = torch.linspace(-1, 1, found.numel()).view_as(found)
    for ours, theirs in zip(
        *(
            torch.autograd.grad((x * slopes).sum(), (images, *layer.parameters()))
            for x, layer in ((found, pooled), (expected, plain))
        ),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=0.02, atol=0.05 * float(theirs.abs().max()))


@pytest.mark.parametrize("side", [7, 32])  # 32: rows could be taken for channels
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_single_image_is_left_to_torch(side: int, precision: torch.dtype) -> None:
    image = torch.randn(32, side, side, generator=seeded())
    with torch.random.fork_rng():
        layers = [Conv3x3(32, 32, pooled=True), nn.ReLU(), nn.MaxPool2d(2)]
    with torch.autocast("cpu", dtype=precision, enabled=precision != torch.float32):
        found, expected = FusedSequential(*layers)(image), nn.Sequential(*layers)(image[None])[0]
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.05)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_fused_layers_compute_what_they_do_one_by_one(precision: torch.dtype) -> None:
    layers = (
        *(nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.MaxPool2d(2), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
    )
    images = torch.randn(16, 32, 16, 16, generator=seeded()).contiguous(memory_format=torch.channels_last)
    ours, reference = FusedSequential(*layers), nn.Sequential(*copy.deepcopy(layers))
    assert list(ours.state_dict()) == list(reference.state_dict())
    with (
        mock.patch.object(fused, "norm_activation", wraps=fused.norm_activation) as with_norm,
        mock.patch.object(fused, "relu_pool", wraps=fused.relu_pool) as without,
    ):
        found = ours(images.to(precision)).float()
    assert (with_norm.call_count, without.call_count) == (3, 1)
    torch.testing.assert_close(found, reference(images), rtol=0.02, atol=0.02)
    for one, other in zip(ours.buffers(), reference.buffers(), strict=True):
        torch.testing.assert_close(one, other, rtol=0.02, atol=0.01)


@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d(3),
        nn.MaxPool2d(2, stride=1),
        nn.MaxPool2d(2, padding=1),
        nn.MaxPool2d(2, dilation=2),
        nn.MaxPool2d(2, ceil_mode=True),
    ],
)
def test_other_pools_are_left_to_torch(pool: nn.MaxPool2d) -> None:
    images = torch.randn(2, 32, 7, 7, generator=seeded()).bfloat16().contiguous(memory_format=torch.channels_last)
    for layers in ((nn.ReLU(), pool), (nn.BatchNorm2d(32), nn.ReLU(), pool), (pool, nn.BatchNorm2d(32), nn.ReLU())):
        ours, reference = FusedSequential(*layers), nn.Sequential(*copy.deepcopy(layers))
        torch.testing.assert_close(ours(images), reference(images), rtol=0.02, atol=0.02)


def test_gelu_of_tokens() -> None:
    tokens = torch.randn(4, 9, 16, generator=seeded()).bfloat16()
    with mock.patch.object(fused, "gelu", wraps=fused.gelu) as kernel:
        torch.testing.assert_close(GELU()(tokens), nn.GELU()(tokens))
    assert kernel.called == fused.is_available(torch.bfloat16)
