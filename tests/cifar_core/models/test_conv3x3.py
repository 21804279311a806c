"""Convolutions of our own are torch's own but for rounding."""

from __future__ import annotations

from collections.abc import Iterator
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from cifar_core.hardware import has_amx
from cifar_core.models import conv3x3, native
from cifar_core.models.layers import Conv3x3
from tests.cifar_core.models.emulated_amx import forget_the_processor, use_amx
from tests.cifar_core.support import seeded

NARROW = [(3, 16), (16, 32), (1, 5), (23, 8)]
TYPES = {"AMX": torch.bfloat16, "Winograd": torch.bfloat16, "fp32": torch.float32}


@pytest.fixture(scope="module", params=list(TYPES) if conv3x3.is_available(torch.bfloat16) else ["Winograd", "fp32"])
def algorithm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Use each algorithm in turn: two in bf16, one of which is emulated where there is no AMX, and one in fp32."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "AMX":
            use_amx(patch, tmp_path_factory.mktemp("amx"))
        else:
            patch.setattr(conv3x3, "has_amx", lambda: False)
            forget_the_processor()
        assert (conv3x3.amx() is not None) == (request.param == "AMX")
        yield request.param
    forget_the_processor()


@pytest.fixture(scope="module")
def kernels(algorithm: str) -> str:
    if not conv3x3.is_available(TYPES[algorithm]):
        pytest.skip("no bf16 here, or no C compiler")
    return algorithm


def leaves(images: int, channels: tuple[int, int], height: int, width: int) -> list[Tensor]:
    """Return inputs, weight and bias whose numbers bf16 holds."""
    shapes = ((images, channels[0], height, width), (channels[1], channels[0], 3, 3), (channels[1],))
    generator = seeded()
    return [torch.randn(shape, generator=generator).bfloat16().float().requires_grad_() for shape in shapes]


def results(output: Tensor, tensors: list[Tensor]) -> list[Tensor]:
    """Return the output, and the gradients of `tensors` from slopes whose numbers bf16 holds."""
    slopes = torch.linspace(-1, 1, output.numel()).view_as(output).bfloat16().to(output.dtype)
    return [output.detach(), *torch.autograd.grad(output, tensors, slopes)]


def precision(algorithm: str) -> torch.autocast:
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=TYPES[algorithm] == torch.bfloat16)


def ours(algorithm: str, tensors: list[Tensor], *, cut: int = 0, biased: bool = True) -> list[Tensor]:
    height, width = (side - cut for side in tensors[0].shape[2:])
    with precision(algorithm):
        output = conv3x3.convolve(tensors[0], tensors[1], tensors[2] if biased else None, height, width)
    return results(output, tensors if biased else tensors[:2])


@settings(max_examples=40, deadline=None)
@given(
    images=st.integers(1, 40),
    height=st.integers(1, 18),
    width=st.integers(1, 18),
    channels=st.sampled_from([(24, 64), (32, 32), (25, 33), (40, 24), (64, 72), (136, 160), *NARROW]),
    biased=st.booleans(),
    cut=st.integers(0, 1),
)
def test_it_is_the_convolution(
    kernels: str, images: int, height: int, width: int, channels: tuple[int, int], biased: bool, cut: int
) -> None:
    narrow = channels in NARROW
    assume(not narrow or kernels != "AMX")
    tensors = leaves(images, channels, height + cut, width + cut)
    found = ours(kernels, tensors, cut=cut, biased=biased)
    used = tensors if biased else tensors[:2]
    whole = F.conv2d(tensors[0], tensors[1], tensors[2] if biased else None, padding=1)
    expected = results(whole[:, :, :height, :width], used)
    assert found[0].dtype == TYPES[kernels]
    assert [each.dtype for each in found[1:]] == [torch.float32] * len(used)
    # Outputs and the gradient of inputs are rounded to bf16; the others are sums in fp32. Winograd's algorithm rounds
    # its transformed images, slopes and filters to bf16 too, but not in fp32.
    errors = (0.005, 0.005, 1e-4, 1e-4) if kernels == "AMX" or narrow else (0.05, 0.05, 0.05, 1e-4)
    if kernels == "fp32":
        errors = (1e-4, 1e-4, 1e-4, 1e-4)
    for name, one, other, error in zip(("output", "inputs", "weight", "bias"), found, expected, errors, strict=False):
        assert one.shape == other.shape
        assert (one - other).abs().max() <= error * other.abs().max() + 1e-6, name


@pytest.mark.parametrize(("images", "side", "tile"), [(4, 7, 2), (40, 6, 3), (40, 7, 4)])
@pytest.mark.parametrize("channels", [(24, 32), (24, 64), (64, 64), (256, 256), *NARROW])
@pytest.mark.usefixtures("settings_of_this_process")
def test_bits_do_not_depend_on_the_number_of_threads(
    kernels: str, channels: tuple[int, int], images: int, side: int, tile: int
) -> None:
    if kernels == "AMX" and channels in NARROW:
        pytest.skip("left to torch there")
    assert conv3x3._side(images, side, side, *channels) == tile
    tensors = leaves(images, channels, side, side)
    torch.set_num_threads(1)
    expected = ours(kernels, tensors)
    for count in (2, 3, 8):
        torch.set_num_threads(count)
        assert all(torch.equal(*pair) for pair in zip(ours(kernels, tensors), expected, strict=True))


@pytest.mark.parametrize(("images", "side", "tile"), [(3, 8, 2), (30, 6, 3), (30, 8, 4)])
@pytest.mark.parametrize("channels", [(32, 32), (3, 16)])
def test_nan_and_infinity_reach_only_what_they_belong_to(
    kernels: str, channels: tuple[int, int], images: int, side: int, tile: int
) -> None:
    if kernels == "AMX" and channels in NARROW:
        pytest.skip("left to torch there")
    assert conv3x3._side(images, side, side, *channels) == tile
    tensors = leaves(images, channels, side, side)
    with torch.no_grad():
        tensors[0][1, 0, 0, 0] = torch.nan
        tensors[0][2, 0, -1, -1] = torch.inf
    output, *_ = ours(kernels, tensors)
    finite = F.conv2d(tensors[0], tensors[1], tensors[2], padding=1).isfinite()
    if kernels != "AMX" and (channels not in NARROW or kernels == "fp32"):  # the pixels of a tile have a common fate
        tiles = F.max_pool2d(1.0 - finite.float(), tile)
        finite = ~tiles.repeat_interleave(tile, 2).repeat_interleave(tile, 3).bool()
    assert torch.equal(output.isfinite(), finite)


def test_no_gradient_is_computed_that_nobody_asked_for(kernels: str) -> None:
    inputs, weight, _ = leaves(4, (32, 32), 5, 5)
    for wanted, calls in (
        (inputs, ["convolve", "convolve"]),
        (weight, ["convolve", "gradient_of_weight"]),
    ):
        given = [each if each is wanted else each.detach() for each in (inputs, weight)]
        with mock.patch.object(conv3x3, "_call", wraps=conv3x3._call) as kernel, precision(kernels):
            conv3x3.convolve(given[0], given[1], None, 5, 5).sum().backward()
        assert [call.args[0] for call in kernel.call_args_list] == calls
    assert not conv3x3.convolve(inputs.detach(), weight.detach(), None, 5, 5).requires_grad


def test_of_no_images_the_gradients_are_zero(algorithm: str) -> None:
    layer, images = Conv3x3(32, 64), torch.zeros(0, 32, 8, 8, requires_grad=True)
    with precision(algorithm):
        layer(images).sum().backward()
    assert images.grad is not None
    assert images.grad.shape == images.shape
    for each in layer.parameters():
        assert each.grad is not None
        assert not each.grad.any()


def test_without_memory_for_its_buffers_it_raises(kernels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native.Library, "call", lambda self, *arguments: 1)  # as the C functions do then
    with pytest.raises(MemoryError, match=r"^a convolution found no memory for its buffers$"):
        ours(kernels, leaves(2, (32, 32), 4, 4))


def test_other_matrix_products_are_right_in_between(kernels: str) -> None:
    if kernels != "AMX" or not has_amx():
        pytest.skip("only tiles of a processor with AMX stay set up between products")
    tensors, matrix = leaves(8, (32, 32), 8, 8), torch.randn(64, 64, generator=seeded()).bfloat16()
    expected = matrix @ matrix
    for _ in range(3):
        ours(kernels, tensors)
        assert torch.equal(matrix @ matrix, expected)


@pytest.mark.parametrize(
    ("channels", "side", "available", "taken"),
    [
        ((24, 32), 8, True, ["AMX", "Winograd"]),
        ((3, 64), 8, True, []),  # most of a tile would be empty
        ((64, 16), 8, True, []),
        ((64, 16), 12, True, ["fp32"]),
        ((64, 15), 12, True, []),
        ((3, 16), 8, True, ["Winograd"]),  # by the kernels for few channels
        ((16, 32), 1, True, ["Winograd"]),
        ((3, 32), 64, True, []),  # too large for the cache
        ((24, 32), 12, False, []),
        ((24, 32), 1, True, ["AMX"]),  # Winograd's algorithm has too few tiles for the filters,
        ((24, 32), 2, True, ["AMX"]),
        ((64, 64), 4, True, ["AMX", "Winograd"]),
        ((64, 64), 3, True, ["AMX", "Winograd"]),
        ((33, 33), 5, True, ["AMX"]),  # or computes outputs or channels for nothing
        ((33, 33), 16, True, ["AMX", "Winograd", "fp32"]),
        ((256, 256), 1, True, ["AMX"]),
        ((24, 64), 64, True, ["AMX", "Winograd", "fp32"]),
    ],
)
def test_it_is_taken_where_it_is_faster(
    monkeypatch: pytest.MonkeyPatch,
    algorithm: str,
    channels: tuple[int, int],
    side: int,
    available: bool,
    taken: list[str],
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setattr(conv3x3, "is_available", lambda dtype: available and dtype == TYPES[algorithm])
    calls: list[Tensor] = []
    monkeypatch.setattr(conv3x3, "convolve", lambda inputs, *rest: calls.append(inputs))
    with precision(algorithm):
        Conv3x3(*channels)(torch.zeros(8, channels[0], side, side))
    assert bool(calls) == (algorithm in taken)


@pytest.mark.parametrize(("images", "side", "taken"), [(64, 3, True), (64, 5, True), (300, 1, False), (15, 8, False)])
@pytest.mark.parametrize("vectors", ["AVX2", "AVX512"])
def test_fp32_needs_tiles_that_are_mostly_within_the_image(
    monkeypatch: pytest.MonkeyPatch, images: int, side: int, taken: bool, vectors: str
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: vectors)
    monkeypatch.setattr(conv3x3, "is_available", lambda dtype: True)
    assert conv3x3.is_faster(torch.zeros(images, 64, side, side), torch.zeros(64, 64, 3, 3), side, side) == taken


@pytest.mark.parametrize(
    ("images", "weights"),
    [(torch.float64, torch.float64), (torch.bfloat16, torch.bfloat16), (torch.float32, torch.float64)],
)
def test_other_types_are_left_to_torch(
    monkeypatch: pytest.MonkeyPatch, images: torch.dtype, weights: torch.dtype
) -> None:
    monkeypatch.setattr(conv3x3, "is_available", lambda dtype: True)
    assert not conv3x3.is_faster(
        torch.zeros(64, 64, 8, 8, dtype=images), torch.zeros(64, 64, 3, 3, dtype=weights), 8, 8
    )


@pytest.mark.parametrize(
    ("vectors", "channels", "taken"),
    [("AVX2", 15, False), ("AVX2", 16, True), ("AVX512", 23, False), ("AVX512", 24, True), ("DEFAULT", 256, False)],
)
def test_fp32_needs_some_channels(monkeypatch: pytest.MonkeyPatch, vectors: str, channels: int, taken: bool) -> None:
    forget_the_processor()
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: vectors)
    monkeypatch.setattr(native, "load", lambda source, *options: native.Library)
    images, weight = torch.zeros(64, channels, 8, 8), torch.zeros(64, channels, 3, 3)
    assert conv3x3.is_faster(images, weight, 8, 8) == taken
    forget_the_processor()


def test_weights_on_another_device_are_refused_by_torch(algorithm: str) -> None:
    layer = Conv3x3(64, 64, bias=False).to("meta")
    with precision(algorithm):
        assert not conv3x3.is_faster(torch.zeros(64, 64, 8, 8), layer.weight, 8, 8)


def test_autocast_to_another_type_is_left_to_torch() -> None:
    with torch.autocast("cpu", dtype=torch.float16):
        assert not conv3x3.is_faster(torch.zeros(8, 32, 8, 8), torch.zeros(32, 32, 3, 3), 8, 8)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((16, 48, 8, 8), "to have 32 channels, but got 48 channels"),
        ((64, 32, 1, 1), "can't be greater than actual input size"),  # of which a pooling keeps nothing
    ],
)
@pytest.mark.usefixtures("algorithm")
def test_what_is_wrong_with_the_images_is_said_by_torch(shape: tuple[int, ...], message: str) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(RuntimeError, match=message):
        Conv3x3(32, 64, pooled=True)(torch.zeros(shape))


def test_what_has_no_numbers_to_read_is_left_to_torch(algorithm: str) -> None:
    with FakeTensorMode(), precision(algorithm):
        assert Conv3x3(32, 32)(torch.zeros(16, 32, 8, 8)).shape == (16, 32, 8, 8)
    weight, taken = torch.zeros(32, 32, 3, 3), []

    def traced(images: Tensor) -> Tensor:
        taken.append(conv3x3.is_faster(images, weight, 8, 8))
        return images

    with precision(algorithm), pytest.warns(DeprecationWarning, match="is deprecated"):
        torch.jit.trace(traced, torch.zeros(16, 32, 8, 8))
    assert not taken[0]


def test_exported_layer_takes_batches_of_any_size(algorithm: str) -> None:
    layer, images = Conv3x3(32, 32), torch.randn(16, 32, 7, 7, generator=seeded())
    with precision(algorithm):
        dimensions = ({0: torch.export.Dim("images")},)
        program = torch.export.export(layer, (images,), dynamic_shapes=dimensions).module()
        for batch in (images, images[:3]):
            torch.testing.assert_close(program(batch), layer(batch), rtol=0.02, atol=0.05)
