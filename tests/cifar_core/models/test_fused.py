"""The fused kernels give the result of torch's own pool, batch norm, GELU and ReLU but for rounding."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cifar_core.models import fused, native
from cifar_core.models.layers import GELU
from tests.cifar_core.support import seeded


@pytest.fixture(scope="module", params=[torch.bfloat16, torch.float32], ids=["bf16", "fp32"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """A type for which the kernels are there."""
    if not fused.is_available(request.param):
        pytest.skip("no bf16 here, no C compiler, or no GCC OpenMP")
    chosen: torch.dtype = request.param
    return chosen


def images(dtype: torch.dtype, *shape: int, seed: int = 0) -> Tensor:
    """Return images of numbers that bf16 holds."""
    values = torch.randn(shape, generator=seeded(seed)) * 2 + 1
    return values.bfloat16().to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_()


def norm_of(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, momentum=0.3)
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 1.5, channels))
        norm.bias.copy_(torch.linspace(-1, 1, channels))
    return norm


@dataclass(frozen=True)
class Case:
    activation: nn.Module
    pool: nn.MaxPool2d | None = None
    last: bool = False

    def __call__(self, inputs: Tensor, norm: nn.BatchNorm2d) -> Tensor:
        return fused.norm_activation(inputs, norm, self.activation, self.pool, last=self.last)


GELU_ALONE, POOL_GELU = Case(GELU()), Case(GELU(), nn.MaxPool2d(2))
RELU_ALONE, POOL_RELU, RELU_POOL = (
    Case(nn.ReLU()),
    Case(nn.ReLU(), nn.MaxPool2d(2)),
    Case(nn.ReLU(), nn.MaxPool2d(2), last=True),
)
CASES = pytest.mark.parametrize("case", [GELU_ALONE, POOL_GELU, RELU_ALONE, POOL_RELU, RELU_POOL])


def train(inputs: Tensor, norm: nn.BatchNorm2d, case: Case) -> list[Tensor]:
    """Return the output, the gradients of inputs, weight and bias, and the running statistics."""
    output = case(inputs, norm)
    slopes = torch.linspace(-1, 1, output.numel()).bfloat16().view_as(output).to(output.dtype)
    gradients = torch.autograd.grad(output, (inputs, norm.weight, norm.bias), slopes)
    return [output.detach(), *gradients, norm.running_mean, norm.running_var]  # type: ignore[list-item]


def distance(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    largest = expected.abs().max().item()
    return (found.float() - expected.float()).abs().max().item() / largest if largest else found.abs().max().item()


@settings(max_examples=8, deadline=None)
@given(
    count=st.integers(1, 70),
    height=st.integers(2, 9),
    width=st.integers(2, 9),
    channels=st.sampled_from([16, 48, 64]),
    case=st.sampled_from([GELU_ALONE, POOL_GELU, RELU_ALONE, POOL_RELU, RELU_POOL]),
)
def test_it_is_pool_norm_and_activation(
    dtype: torch.dtype, count: int, height: int, width: int, channels: int, case: Case
) -> None:
    if case.pool and count * (height // 2) * (width // 2) < 8:
        return  # the gradient of so few is a small difference of large numbers, in torch as well
    if case.last:
        height, width = height - height % 2, width - width % 2
    inputs, norm, reference = images(dtype, count, channels, height, width), norm_of(channels), norm_of(channels)
    found = train(inputs, norm, case)
    expected = train(inputs.detach().double().requires_grad_(), reference.double(), case)
    assert found[0].dtype == found[1].dtype == dtype
    assert found[0].is_contiguous(memory_format=torch.channels_last)
    tolerances = (0.004, 0.02, 0.01, 0.01) if dtype == torch.bfloat16 else (1e-6, 1e-4, 1e-4, 1e-4)
    for one, other, tolerance in zip(found, expected, (*tolerances, 1e-5, 1e-5), strict=True):
        assert distance(one, other) <= tolerance
    assert norm.num_batches_tracked == reference.num_batches_tracked


@CASES
def test_it_is_as_exact_as_torch(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch, case: Case) -> None:
    inputs = images(dtype, 64, 32, 12 if case.last else 11, 10)
    expected = train(inputs.detach().double().requires_grad_(), norm_of(32).double(), case)
    found = train(inputs, norm_of(32), case)
    monkeypatch.setattr(fused, "is_faster", lambda inputs: False)
    theirs = train(inputs, norm_of(32), case)
    for ours, torchs, exact in zip(found, theirs, expected, strict=True):
        allowed = 1.05 if dtype == torch.bfloat16 else 4
        assert (ours - exact).square().mean() <= allowed * (torchs - exact).square().mean() + 1e-13


@CASES
@torch.no_grad()
def test_evaluation_takes_the_running_statistics(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch, case: Case
) -> None:
    inputs, norm = images(dtype, 5, 32, 8, 6), norm_of(32).eval()
    norm.running_mean.copy_(torch.linspace(-1, 2, 32))  # type: ignore[union-attr]
    norm.running_var.copy_(torch.linspace(0.5, 3, 32))  # type: ignore[union-attr]
    before = [buffer.clone() for buffer in norm.buffers()]
    found = case(inputs, norm)
    assert all(map(torch.equal, before, norm.buffers()))
    monkeypatch.setattr(fused, "is_faster", lambda inputs: False)
    exact = case(inputs.double(), norm.double())
    assert distance(found, exact) < (0.004 if dtype == torch.bfloat16 else 1e-6)


@CASES
@pytest.mark.usefixtures("settings_of_this_process")
def test_bits_do_not_depend_on_threads(dtype: torch.dtype, case: Case) -> None:
    results = []
    for count in (1, 2, 3, 1):
        torch.set_num_threads(count)
        results.append(train(images(dtype, 70, 32, 8, 6), norm_of(32), case))
    for result in results[1:]:
        assert all(map(torch.equal, results[0], result))


@settings(max_examples=8, deadline=None)
@given(count=st.integers(1, 70), height=st.integers(1, 5), width=st.integers(1, 5), channels=st.sampled_from([16, 48]))
def test_relu_and_pool_are_exact(dtype: torch.dtype, count: int, height: int, width: int, channels: int) -> None:
    inputs = images(dtype, count, channels, 2 * height, 2 * width).detach().round().requires_grad_()  # many are equal
    expected = inputs.detach().float().requires_grad_()
    with mock.patch.object(fused, "_call", wraps=fused._call) as kernel:
        found = fused.relu_pool(inputs, nn.ReLU(), nn.MaxPool2d(2))
    assert kernel.call_count == 1
    reference = nn.MaxPool2d(2)(nn.ReLU()(expected))
    assert torch.equal(found.float(), reference)
    slopes = torch.linspace(-1, 1, found.numel()).bfloat16().view_as(found)
    (of_inputs,), (of_expected,) = (
        torch.autograd.grad(output, given, slopes.to(output.dtype))
        for output, given in ((found, inputs), (reference, expected))
    )
    assert torch.equal(of_inputs.float(), of_expected)


@pytest.mark.parametrize("shape", [(2, 8, 4, 4), (2, 16, 5, 4), (2, 16, 4, 5)])
def test_relu_and_pool_of_other_shapes_are_torchs(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    inputs = images(dtype, *shape).detach()
    expected = nn.MaxPool2d(2)(nn.ReLU()(inputs))
    assert torch.equal(fused.relu_pool(inputs, nn.ReLU(), nn.MaxPool2d(2)), expected)


def test_gelu_of_every_bf16_number_is_right(dtype: torch.dtype) -> None:
    numbers = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    inputs = numbers[numbers.isfinite()].to(dtype).view(1, 1, 1, -1).contiguous(memory_format=torch.channels_last)
    rounding = 2**-7.99 if dtype == torch.bfloat16 else 1e-6
    x = inputs.double()
    share = torch.special.erfc(-x / 2**0.5) / 2
    found = GELU()(inputs.requires_grad_())
    assert ((found - x * share).abs() <= rounding * (x * share).abs() + 1e-6).all()
    (slope,) = torch.autograd.grad(found, inputs, torch.ones_like(found))
    expected = share + x * (-x.square() / 2).exp() / (2 * torch.pi) ** 0.5
    assert ((slope - expected).abs() <= rounding * expected.abs() + 1e-6).all()


def test_nan_passes(dtype: torch.dtype) -> None:
    assert GELU()(torch.full((1, 1, 1, 50), float("nan"), dtype=dtype)).isnan().all()
    for place in range(4):
        inputs = images(dtype, 2, 16, 2, 2).detach()
        inputs[0, 3, place // 2, place % 2] = float("nan")
        pooled = fused.relu_pool(inputs, nn.ReLU(), nn.MaxPool2d(2))
        assert pooled.isnan().nonzero().tolist() == [[0, 3, 0, 0]]
        for case in (POOL_GELU, RELU_POOL):
            output = case(inputs.requires_grad_(), norm_of(16))
            assert output[:, 3].isnan().all()
            assert not output[:, 4:].isnan().any()


def test_first_of_equal_pixels_takes_the_gradient(dtype: torch.dtype) -> None:
    inputs = images(dtype, 8, 16, 4, 4).detach().round().requires_grad_()  # many are equal
    (gradient, *_), expected = train(inputs, norm_of(16), POOL_GELU)[1:], inputs.detach().double().requires_grad_()
    reference = train(expected, norm_of(16).double(), POOL_GELU)[1]
    assert torch.equal(gradient != 0, reference != 0)


def test_weights_on_another_device_are_refused_by_torch(dtype: torch.dtype) -> None:
    with pytest.raises(RuntimeError, match="meta"):
        GELU_ALONE(images(dtype, 4, 16, 6, 6), norm_of(16).to("meta"))


def test_channel_without_variance_stays_finite(dtype: torch.dtype) -> None:
    norm = nn.BatchNorm2d(16, eps=1e-12)
    output, gradient, *_ = train(torch.full((4, 16, 3, 3), 7.0, dtype=dtype).requires_grad_(), norm, GELU_ALONE)
    assert not output.any()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("training", [True, False])
def test_epsilon_may_be_a_whole_number(dtype: torch.dtype, training: bool) -> None:
    inputs, norm = images(dtype, 4, 16, 4, 4).detach(), nn.BatchNorm2d(16, eps=1).train(training)
    with torch.set_grad_enabled(training):
        found, expected = GELU_ALONE(inputs, norm), GELU_ALONE(inputs.double(), copy.deepcopy(norm).double())
    assert distance(found, expected) < (0.01 if dtype == torch.bfloat16 else 1e-6)


@torch.no_grad()
def test_channel_constant_but_for_a_pixel_of_each_chunk_stays_finite(dtype: torch.dtype) -> None:
    inputs = images(dtype, 1024, 16, 32, 32).detach().zero_()
    inputs[::16, :, 0, 0] = 1.046875  # the first of each of the 64 chunks
    norm = nn.BatchNorm2d(16, eps=1e-12)
    assert fused.norm_activation(inputs, norm, nn.ReLU()).isfinite().all()


def test_frozen_weight_and_gradient_in_another_layout(dtype: torch.dtype) -> None:
    inputs, norm, other = images(dtype, 4, 16, 6, 6), norm_of(16), norm_of(16)
    norm.weight.requires_grad = False
    slopes = torch.randn(4, 16, 3, 3, generator=seeded()).to(dtype)
    for each, layout in ((norm, torch.contiguous_format), (other, torch.channels_last)):
        output = fused.norm_activation(inputs, each, GELU(), nn.MaxPool2d(2))
        output.backward(slopes.contiguous(memory_format=layout))
    assert norm.weight.grad is None
    assert norm.bias.grad is not None
    assert other.bias.grad is not None
    assert torch.equal(norm.bias.grad, other.bias.grad)


def test_images_that_need_no_gradient_get_none(dtype: torch.dtype) -> None:
    inputs, norm, other = images(dtype, 4, 16, 6, 6), norm_of(16), norm_of(16)
    POOL_GELU(inputs, other).float().sum().backward()
    with mock.patch.object(native, "new_images", wraps=native.new_images) as room:
        POOL_GELU(inputs.detach(), norm).float().sum().backward()
    assert room.call_count == 1  # for the output
    assert torch.equal(norm.weight.grad, other.weight.grad)  # type: ignore[arg-type]
    assert torch.equal(norm.bias.grad, other.bias.grad)  # type: ignore[arg-type]


@pytest.mark.parametrize("function", [GELU(), lambda inputs: fused.relu_pool(inputs, nn.ReLU(), nn.MaxPool2d(2))])
def test_gradient_in_another_layout(dtype: torch.dtype, function: Callable[[Tensor], Tensor]) -> None:
    inputs = images(dtype, 4, 16, 6, 6)
    output = function(inputs)
    slopes = torch.randn(output.shape, generator=seeded()).to(dtype)
    (found,), (expected,) = (
        torch.autograd.grad(output, inputs, slopes.contiguous(memory_format=layout), retain_graph=True)
        for layout in (torch.contiguous_format, torch.channels_last)
    )
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("case", "taken"),
    [
        ("usual", True),
        ("fp16", False),
        ("evaluation", True),
        ("evaluation with gradients", False),
        ("no gradients", True),
        ("another layout", False),
        ("8 channels", False),
        ("no kernels", False),
    ],
)
def test_it_is_taken_where_it_fits(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch, case: str, taken: bool) -> None:
    calls: list[str] = []
    call = fused._call

    def record(name: str, *rest: Any) -> None:
        calls.append(name)
        call(name, *rest)

    monkeypatch.setattr(fused, "_call", record)
    channels = 8 if case == "8 channels" else 16
    inputs, norm = images(dtype, 4, channels, 6, 6).detach(), norm_of(channels)
    if case == "fp16":
        inputs = inputs.half()
    if case == "another layout":
        inputs = inputs.contiguous()
    if case == "no kernels":
        monkeypatch.setattr(fused, "is_available", lambda dtype: False)
    norm.train("evaluation" not in case)
    with torch.set_grad_enabled(case not in ("evaluation", "no gradients")):
        output = fused.norm_activation(inputs, norm, GELU(), nn.MaxPool2d(2))
    assert ("norm_forward" in calls) == taken
    assert output.shape == (4, channels, 3, 3)


@pytest.mark.parametrize(
    ("case", "shape", "options"),
    [
        (Case(nn.GELU(), nn.MaxPool2d(2), last=True), (16, 6, 6), {}),
        (RELU_POOL, (16, 5, 6), {}),  # the norm counts pixels that the pool leaves out
        (RELU_POOL, (16, 6, 5), {}),
        (RELU_ALONE, (1040, 2, 2), {}),
        (RELU_ALONE, (16, 6, 6), {"affine": False}),
        (RELU_ALONE, (16, 6, 6), {"track_running_stats": False}),
        (RELU_ALONE, (16, 6, 6), {"momentum": None}),
    ],
)
def test_what_the_kernels_cannot_do_is_torchs(
    dtype: torch.dtype, case: Case, shape: tuple[int, int, int], options: dict[str, Any]
) -> None:
    inputs, norm, reference = images(dtype, 4, *shape), *(nn.BatchNorm2d(shape[0], **options) for _ in range(2))
    with mock.patch.object(fused, "_call") as kernel:
        found = case(inputs, norm)
    assert not kernel.called
    assert distance(found, case(inputs.float(), reference)) < 0.01
    for one, other in zip(norm.buffers(), reference.buffers(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("case", "side"), [(GELU_ALONE, 1), (POOL_GELU, 2)])
def test_one_value_per_channel_is_refused_by_torch(dtype: torch.dtype, case: Case, side: int) -> None:
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        case(images(dtype, 1, 16, side, side), norm_of(16))


@pytest.mark.slow
def test_exported_network_takes_batches_of_any_size(dtype: torch.dtype) -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.gelu, self.pool = norm_of(16), GELU(), nn.MaxPool2d(2)

        def forward(self, inputs: Tensor) -> Tensor:
            return fused.norm_activation(inputs, self.norm, self.gelu, self.pool)

    network, inputs = Network().eval(), images(dtype, 4, 16, 6, 6).detach()
    program = torch.export.export(network, (inputs,), dynamic_shapes=({0: torch.export.Dim("images")},)).module()
    for batch in (inputs, inputs[:3]):
        torch.testing.assert_close(program(batch), network(batch))
