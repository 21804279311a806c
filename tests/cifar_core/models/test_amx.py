"""The gradient of filters from images side by side is that of torch's own convolution."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cifar_core.models import amx
from cifar_core.models.layers import Conv3x3
from tests.cifar_core.support import seeded


def gradients(output: Tensor, *leaves: Tensor) -> list[Tensor]:
    slopes = torch.linspace(-1, 1, output[0].numel()).view_as(output[0])
    return list(torch.autograd.grad((output.float() * slopes).sum(), leaves))


@settings(max_examples=40, deadline=None)
@given(
    images=st.integers(1, 70),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    channels=st.sampled_from([(8, 16), (3, 8), (16, 8)]),
    biased=st.booleans(),
    padding=st.integers(0, 1),
)
def test_it_is_the_convolution(
    images: int, height: int, width: int, channels: tuple[int, int], biased: bool, padding: int
) -> None:
    height, width = (side + 2 * (1 - padding) for side in (height, width))
    generator = seeded()
    inputs = torch.randn(images, channels[0], height, width, generator=generator).requires_grad_()
    weight = torch.randn(channels[1], channels[0], 3, 3, generator=generator).requires_grad_()
    bias = torch.randn(channels[1], generator=generator).requires_grad_()
    leaves = (inputs, weight, bias) if biased else (inputs, weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = amx.convolve(inputs, weight, bias if biased else None, padding)
    reference = F.conv2d(inputs, weight, bias if biased else None, padding=padding)
    assert ours.dtype == torch.bfloat16
    assert (ours - reference).abs().max() <= 0.02 * reference.abs().max()
    for found, expected in zip(gradients(ours, *leaves), gradients(reference, *leaves), strict=True):
        assert found.dtype == expected.dtype
        assert (found - expected).abs().max() <= 0.02 * expected.abs().max() + 1e-6


@pytest.mark.parametrize(
    ("images", "side", "amx_here", "autocast", "grad", "taken"),
    [
        (64, 7, True, True, True, True),
        (64, 8, True, True, True, True),
        (64, 9, True, True, True, False),
        (67, 7, True, True, True, False),  # a prime number, which does not divide into rows
        (64, 7, False, True, True, False),
        (64, 7, True, False, True, False),
        (64, 7, True, True, False, False),
    ],
)
def test_it_is_taken_where_it_is_faster(
    monkeypatch: pytest.MonkeyPatch, images: int, side: int, amx_here: bool, autocast: bool, grad: bool, taken: bool
) -> None:
    monkeypatch.setattr(amx, "has_amx", lambda: amx_here)
    calls: list[Tensor] = []
    monkeypatch.setattr(amx, "convolve", lambda inputs, *rest: calls.append(inputs))
    layer = Conv3x3(8, 8)
    with torch.set_grad_enabled(grad), torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        layer(torch.zeros(images, 8, side, side))
    assert bool(calls) == taken


def test_exported_layer_takes_batches_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(amx, "has_amx", lambda: True)
    layer, images = Conv3x3(8, 8), torch.randn(16, 8, 7, 7, generator=seeded())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        dimensions = ({0: torch.export.Dim("images")},)
        program = torch.export.export(layer, (images,), dynamic_shapes=dimensions).module()
        for batch in (images, images[:3]):
            torch.testing.assert_close(program(batch), layer(batch))
