"""Winograd's convolution against torch's own, and when it is used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from unittest.mock import Mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from cifar_core.models import conv3x3, winograd
from cifar_core.models.layers import Conv3x3
from cifar_core.models.winograd import convolve, is_faster
from tests.cifar_core.support import FP32, seeded


def arguments(
    images: int, channels: int, outputs: int, height: int, width: int, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    """Random inputs, filters and output gradient."""
    generator = seeded()
    inputs = torch.randn(images, channels, height, width, generator=generator, dtype=dtype)
    weight = torch.randn(outputs, channels, 3, 3, generator=generator, dtype=dtype) / (9 * channels) ** 0.5
    gradient = torch.randn(images, outputs, height, width, generator=generator, dtype=dtype)
    return inputs.requires_grad_(), weight.requires_grad_(), gradient


def torchs(inputs: Tensor, weight: Tensor) -> Tensor:
    return F.conv2d(inputs, weight, padding=1)


def results(
    convolution: Callable[[Tensor, Tensor], Tensor], inputs: Tensor, weight: Tensor, gradient: Tensor
) -> tuple[Tensor, ...]:
    """Return the output and the gradients of inputs and weight."""
    output = convolution(inputs, weight)
    return output, *torch.autograd.grad(output, (inputs, weight), gradient)


@given(
    images=st.integers(1, 4),
    channels=st.integers(1, 4),
    outputs=st.integers(1, 4),
    height=st.integers(1, 11),
    width=st.integers(1, 11),
)
@example(images=600, channels=2, outputs=3, height=4, width=5)  # more tiles than are transformed at once
def test_output_and_gradients_are_those_of_the_definition(
    images: int, channels: int, outputs: int, height: int, width: int
) -> None:
    tensors = arguments(images, channels, outputs, height, width)
    torch.testing.assert_close(results(convolve, *tensors), results(torchs, *tensors), rtol=1e-9, atol=1e-9)


def test_rounding_errors_in_fp32_are_a_few_millionths() -> None:
    tensors = arguments(8, 512, 512, 8, 8, torch.float32)
    inputs, weight, gradient = (tensor.detach().double() for tensor in tensors)
    exact = results(torchs, inputs.requires_grad_(), weight.requires_grad_(), gradient)
    for one, other in zip(results(convolve, *tensors), exact, strict=True):
        assert (one - other).norm() < 1e-5 * other.norm()


def test_first_layers_need_no_gradient_of_the_images() -> None:
    inputs, weight, gradient = arguments(2, 3, 4, 8, 8)
    convolve(inputs.detach(), weight).backward(gradient)
    assert weight.grad is not None
    assert inputs.grad is None


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_channels_come_out_last_in_memory(layout: torch.memory_format) -> None:
    inputs, weight, gradient = arguments(2, 3, 4, 7, 8)
    laid_out = inputs.detach().contiguous(memory_format=layout).requires_grad_()
    output = convolve(laid_out, weight)
    output.backward(gradient)
    assert output.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(output, torchs(inputs, weight))


@pytest.mark.parametrize("deterministic", [False, True])
def test_the_same_bits_every_time(deterministic: bool) -> None:
    tensors = arguments(16, 64, 128, 7, 7, torch.float32)
    first = results(convolve, *tensors)
    with FP32.kernels(deterministic=deterministic):
        assert all(torch.equal(one, other) for one, other in zip(first, results(convolve, *tensors), strict=True))


def of_shape(images: int, channels: int, outputs: int, size: int) -> tuple[Tensor, Tensor]:
    return torch.empty(images, channels, size, size), torch.empty(outputs, channels, 3, 3)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((64, 128, 128, 4), True),
        ((16, 128, 128, 7), True),
        ((16, 96, 256, 8), True),
        ((64, 64, 128, 32), False),  # too few channels for what the transforms cost
        ((64, 256, 256, 5), False),  # 8x8 outputs for 25
        ((15, 512, 512, 8), False),  # too few tiles for what those of the filters cost
        ((1, 512, 512, 4), False),
    ],
)
def test_taken_where_it_saves_more_than_it_costs(shape: tuple[int, int, int, int], expected: bool) -> None:
    assert is_faster(*of_shape(*shape)) is expected


def test_taken_by_cpus_in_fp32_only() -> None:
    inputs, weight = of_shape(64, 256, 256, 8)
    assert is_faster(inputs, weight)
    assert not is_faster(inputs.to("meta"), weight.to("meta"))
    assert not is_faster(inputs.double(), weight.double())
    with replace(FP32, bf16=True).autocast():
        assert not is_faster(inputs, weight)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("channels", "taken"), [(8, 0), (128, 1)])
def test_layer_computes_what_torchs_computes(
    bias: bool, channels: int, taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Mock(side_effect=convolve)
    monkeypatch.setattr(winograd, "convolve", watched)
    monkeypatch.setattr(conv3x3, "is_available", lambda dtype: False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = Conv3x3(channels, 128, bias=bias)
    assert (layer.bias is not None) is bias
    inputs = torch.randn(16, channels, 8, 8, generator=seeded())
    expected = F.conv2d(inputs, layer.weight, layer.bias, padding=1)
    torch.testing.assert_close(layer(inputs), expected, atol=1e-4, rtol=0)
    assert watched.call_count == taken


def test_a_wrong_number_of_channels_is_said_by_torch() -> None:
    with pytest.raises(RuntimeError, match="to have 128 channels, but got 64 channels"):
        Conv3x3(128, 128)(torch.zeros(16, 64, 8, 8))


def test_exported_layer_takes_batches_of_any_size() -> None:
    layer = Conv3x3(128, 128, bias=False).eval()
    images = torch.randn(16, 128, 8, 8, generator=seeded())
    program = torch.export.export(layer, (images,), dynamic_shapes=({0: torch.export.Dim("images")},)).module()
    for batch in (images, images[:3]):
        torch.testing.assert_close(program(batch), layer(batch), atol=1e-4, rtol=0)
