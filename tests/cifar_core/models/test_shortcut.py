"""A convolution and its shortcut in one operation are torch's own but for rounding."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cifar_core.models import conv3x3, shortcut
from cifar_core.models.wide_resnet import WideResNet
from tests.cifar_core.models.emulated_amx import forget_the_processor, use_amx
from tests.cifar_core.support import seeded

if not conv3x3.is_available(torch.bfloat16):
    pytest.skip("no bf16 here, or no C compiler", allow_module_level=True)


@pytest.fixture(scope="module", autouse=True)
def _amx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        use_amx(patch, tmp_path_factory.mktemp("amx"))
        yield
    forget_the_processor()


def rounded(*shape: int) -> Tensor:
    """Return numbers that bf16 holds."""
    return torch.randn(shape, generator=seeded(sum(shape))).bfloat16().float()


def layers(inputs: int, outputs: int, stride: int, beside: int | None = None) -> tuple[nn.Conv2d, nn.Conv2d]:
    conv = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    single = nn.Conv2d(inputs, beside or outputs, 1, stride=stride, bias=False)
    for each in (conv, single):
        each.weight.data = rounded(*each.weight.shape)
    return conv, single


def results(images: Tensor, conv: nn.Conv2d, single: nn.Conv2d, *, ours: bool) -> list[Tensor]:
    """Return both outputs, and the gradients of the images and of both weights."""
    if ours:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert shortcut.is_faster(images, conv.weight, single.weight)
            outputs = shortcut.convolve(images, conv, single)
    else:
        outputs = conv(images), single(images)
    slopes = [rounded(*each.shape).to(each.dtype) for each in outputs]
    return [*outputs, *torch.autograd.grad(outputs, (images, conv.weight, single.weight), slopes)]


@settings(max_examples=40, deadline=None)
@given(
    images=st.integers(1, 70),
    height=st.integers(1, 18),
    width=st.integers(1, 18),
    channels=st.sampled_from([(16, 64, 64), (24, 40, 33), (64, 32, 72), (136, 160, 160)]),
    stride=st.sampled_from([1, 2]),
)
def test_both_are_the_convolutions(
    images: int, height: int, width: int, channels: tuple[int, int, int], stride: int
) -> None:
    inputs, outputs, beside = channels
    leaf = rounded(images, inputs, height, width).requires_grad_()
    conv, single = layers(inputs, outputs, stride, beside)
    found, expected = (results(leaf, conv, single, ours=ours) for ours in (True, False))
    names = ("output", "beside", "images", "weight", "weight beside")
    errors = (0.005, 0.005, 0.01, 1e-4, 1e-4)  # the gradient of the images is rounded to bf16 twice
    for name, one, other, error in zip(names, found, expected, errors, strict=True):
        assert one.shape == other.shape
        assert (one - other).abs().max() <= error * other.abs().max() + 1e-6, name


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.usefixtures("settings_of_this_process")
def test_bits_do_not_depend_on_the_number_of_threads(stride: int) -> None:
    leaf, both = rounded(40, 64, 9, 9).requires_grad_(), layers(64, 96, stride)
    torch.set_num_threads(1)
    expected = results(leaf, *both, ours=True)
    for count in (2, 3, 8):
        torch.set_num_threads(count)
        assert all(torch.equal(*pair) for pair in zip(results(leaf, *both, ours=True), expected, strict=True))


@pytest.mark.parametrize("stride", [1, 2])
def test_nan_reaches_only_what_it_belongs_to(stride: int) -> None:
    images, both = rounded(4, 32, 9, 8), layers(32, 32, stride)
    images[1, 0, 4, 4] = torch.nan
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = shortcut.convolve(images, *both)
    for output, layer in zip(found, both, strict=True):
        assert torch.equal(output.isnan(), layer(images).isnan())


def test_no_gradient_is_computed_that_nobody_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    monkeypatch.setattr(shortcut, "_call", lambda name, *arguments: called.append(name))
    images, (conv, single) = rounded(2, 32, 8, 8), layers(32, 32, 2)
    for wanted, calls in (
        (images, ["strided_convolve"] * 2),
        (conv.weight, ["strided_gradient_of_weight"]),
        (single.weight, ["strided_gradient_of_weight"]),
    ):
        for each in (images, conv.weight, single.weight):
            each.requires_grad_(each is wanted)
        called.clear()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            sum(each.sum() for each in shortcut.convolve(images, conv, single)).backward()  # type: ignore[union-attr]
        assert called == ["strided_convolve"] * 2 + calls


def test_wide_resnet_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    network, images = WideResNet(0.25, 10, 32), rounded(8, 3, 32, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = network(images)
        monkeypatch.setattr(shortcut, "is_faster", lambda *tensors: False)
        expected = network(images)
        monkeypatch.setattr(shortcut, "convolve", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            network(images)
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("shape", "device"),
    [((4, 33, 8, 8), "cpu"), ((32, 8, 8), "cpu"), ((0, 32, 8, 8), "cpu"), ((4, 32, 8, 8), "meta")],
)
def test_what_the_kernels_cannot_take_is_left_to_torch(shape: tuple[int, ...], device: str) -> None:
    images, (conv, single) = torch.zeros(shape, device=device), layers(32, 32, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not shortcut.is_faster(images, conv.weight, single.weight)


def test_fp32_is_left_to_torch() -> None:
    conv, single = layers(32, 32, 2)
    assert not shortcut.is_faster(torch.zeros(4, 32, 8, 8), conv.weight, single.weight)
