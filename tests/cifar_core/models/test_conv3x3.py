"""Convolutions of our own are torch's own but for rounding."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from cifar_core.models import conv3x3, native
from cifar_core.models.layers import Conv3x3
from tests.cifar_core.support import seeded

NARROW = [(3, 16), (16, 32), (1, 5), (23, 8)]

needs_kernels = pytest.mark.skipif(not conv3x3.is_available(), reason="no bf16 here, or no C compiler")


@pytest.fixture(scope="module", params=["AMX", "Winograd"] if conv3x3.is_available() else ["Winograd"], autouse=True)
def algorithm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Use each algorithm in turn; AMX is emulated where there is none."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "AMX" and not conv3x3._is_amx_used():
            source = emulated_amx(tmp_path_factory.mktemp("amx"))
            patch.setattr(conv3x3, "_amx", lambda: native.load(source))
        patch.setattr(conv3x3, "has_amx", lambda: request.param == "AMX")
        forget_the_processor()
        assert conv3x3._is_amx_used() == (request.param == "AMX")
        yield request.param
    forget_the_processor()


def emulated_amx(folder: Path) -> Path:
    """Write the C file of AMX, without its instructions, into `folder`, with the header that it includes."""
    ours, emulation = Path(conv3x3.__file__).parent, Path(__file__).with_name("emulated_amx.h")
    shutil.copy(ours / "vectors.h", folder)
    source = folder / "conv3x3_emulated_amx.c"
    source.write_text("".join(path.read_text(encoding="utf-8") for path in (emulation, ours / "conv3x3_amx.c")))
    return source


def forget_the_processor() -> None:
    conv3x3._library.cache_clear()
    conv3x3._is_amx_used.cache_clear()


@pytest.fixture
def threads() -> Iterator[int]:
    before = torch.get_num_threads()
    yield before
    torch.set_num_threads(before)


def leaves(images: int, channels: tuple[int, int], height: int, width: int) -> list[Tensor]:
    """Return inputs, weight and bias whose numbers bf16 holds."""
    shapes = ((images, channels[0], height, width), (channels[1], channels[0], 3, 3), (channels[1],))
    generator = seeded()
    return [torch.randn(shape, generator=generator).bfloat16().float().requires_grad_() for shape in shapes]


def results(output: Tensor, tensors: list[Tensor]) -> list[Tensor]:
    """Return the output, and the gradients of `tensors` from slopes whose numbers bf16 holds."""
    slopes = torch.linspace(-1, 1, output.numel()).view_as(output).bfloat16().to(output.dtype)
    return [output.detach(), *torch.autograd.grad(output, tensors, slopes)]


def ours(tensors: list[Tensor], *, cut: int = 0, biased: bool = True) -> list[Tensor]:
    height, width = (side - cut for side in tensors[0].shape[2:])
    output = conv3x3.convolve(tensors[0], tensors[1], tensors[2] if biased else None, height, width)
    return results(output, tensors if biased else tensors[:2])


@needs_kernels
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
    algorithm: str, images: int, height: int, width: int, channels: tuple[int, int], biased: bool, cut: int
) -> None:
    narrow = channels in NARROW
    assume(not narrow or algorithm != "AMX")
    tensors = leaves(images, channels, height + cut, width + cut)
    found = ours(tensors, cut=cut, biased=biased)
    used = tensors if biased else tensors[:2]
    whole = F.conv2d(tensors[0], tensors[1], tensors[2] if biased else None, padding=1)
    expected = results(whole[:, :, :height, :width], used)
    assert found[0].dtype == torch.bfloat16
    assert [each.dtype for each in found[1:]] == [torch.float32] * len(used)
    # Outputs and the gradient of inputs are rounded to bf16; the others are sums in fp32. Winograd's algorithm rounds
    # its transformed images, slopes and filters to bf16 too.
    errors = (0.005, 0.005, 1e-4, 1e-4) if algorithm == "AMX" or narrow else (0.02, 0.02, 0.02, 1e-4)
    for name, one, other, error in zip(("output", "inputs", "weight", "bias"), found, expected, errors, strict=False):
        assert one.shape == other.shape
        assert (one - other).abs().max() <= error * other.abs().max() + 1e-6, name


@needs_kernels
@pytest.mark.parametrize("channels", [(24, 32), (24, 64), (64, 64), (256, 256), *NARROW])
def test_bits_do_not_depend_on_the_number_of_threads(threads: int, algorithm: str, channels: tuple[int, int]) -> None:
    if algorithm == "AMX" and channels in NARROW:
        pytest.skip("left to torch there")
    tensors = leaves(40, channels, 7, 7)
    torch.set_num_threads(1)
    expected = ours(tensors)
    for count in (2, 3, 8):
        torch.set_num_threads(count)
        assert all(torch.equal(*pair) for pair in zip(ours(tensors), expected, strict=True))


@needs_kernels
@pytest.mark.parametrize("channels", [(32, 32), (3, 16)])
def test_nan_and_infinity_reach_only_what_they_belong_to(algorithm: str, channels: tuple[int, int]) -> None:
    if algorithm == "AMX" and channels in NARROW:
        pytest.skip("left to torch there")
    tensors = leaves(3, channels, 6, 6)
    with torch.no_grad():
        tensors[0][1, 0, 0, 0] = torch.nan
        tensors[0][2, 0, 5, 5] = torch.inf
    output, *_ = ours(tensors)
    finite = F.conv2d(tensors[0], tensors[1], tensors[2], padding=1).isfinite()
    if algorithm == "Winograd" and channels not in NARROW:  # a tile of 2x2 pixels has a common fate
        finite = ~F.max_pool2d(1.0 - finite.float(), 2).repeat_interleave(2, 2).repeat_interleave(2, 3).bool()
    assert torch.equal(output.isfinite(), finite)


@needs_kernels
def test_no_gradient_is_computed_that_nobody_asked_for() -> None:
    inputs, weight, _ = leaves(4, (32, 32), 5, 5)
    for wanted, calls in (
        (inputs, ["convolve", "convolve"]),
        (weight, ["convolve", "gradient_of_weight"]),
    ):
        given = [each if each is wanted else each.detach() for each in (inputs, weight)]
        with mock.patch.object(conv3x3, "_call", wraps=conv3x3._call) as kernel:
            conv3x3.convolve(given[0], given[1], None, 5, 5).sum().backward()
        assert [call.args[0] for call in kernel.call_args_list] == calls
    assert not conv3x3.convolve(inputs.detach(), weight.detach(), None, 5, 5).requires_grad


@needs_kernels
def test_without_memory_for_its_buffers_it_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native.Library, "call", lambda self, *arguments: 1)  # as the C functions do then
    with pytest.raises(MemoryError, match=r"^a convolution found no memory for its buffers$"):
        ours(leaves(2, (32, 32), 4, 4))


@needs_kernels
def test_other_matrix_products_are_right_in_between() -> None:
    tensors, matrix = leaves(8, (32, 32), 8, 8), torch.randn(64, 64, generator=seeded()).bfloat16()
    expected = matrix @ matrix
    for _ in range(3):
        ours(tensors)
        assert torch.equal(matrix @ matrix, expected)


@pytest.mark.parametrize(
    ("channels", "side", "available", "autocast", "taken"),
    [
        ((24, 32), 8, True, True, ["AMX", "Winograd"]),
        ((3, 64), 8, True, True, []),  # most of a tile would be empty
        ((64, 16), 8, True, True, []),
        ((3, 16), 8, True, True, ["Winograd"]),  # by the kernels for few channels
        ((16, 32), 1, True, True, ["Winograd"]),
        ((3, 32), 64, True, True, []),  # too large for the cache
        ((24, 32), 8, False, True, []),
        ((24, 32), 8, True, False, []),
        ((24, 32), 1, True, True, ["AMX"]),  # Winograd's algorithm has too few tiles for the filters,
        ((24, 32), 2, True, True, ["AMX"]),
        ((64, 64), 4, True, True, ["AMX", "Winograd"]),
        ((64, 64), 3, True, True, ["AMX", "Winograd"]),
        ((40, 40), 8, True, True, ["AMX"]),  # or computes outputs or channels for nothing,
        ((256, 256), 1, True, True, ["AMX"]),
        ((24, 64), 64, True, True, ["AMX", "Winograd"]),
        ((24, 64), 66, True, True, ["AMX"]),  # or saves less than its transforms cost
    ],
)
def test_it_is_taken_where_it_is_faster(
    monkeypatch: pytest.MonkeyPatch,
    algorithm: str,
    channels: tuple[int, int],
    side: int,
    available: bool,
    autocast: bool,
    taken: list[str],
) -> None:
    monkeypatch.setattr(conv3x3, "is_available", lambda: available)
    calls: list[Tensor] = []
    monkeypatch.setattr(conv3x3, "convolve", lambda inputs, *rest: calls.append(inputs))
    layer = Conv3x3(*channels)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        layer(torch.zeros(8, channels[0], side, side))
    assert bool(calls) == (algorithm in taken)


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
def test_what_is_wrong_with_the_images_is_said_by_torch(shape: tuple[int, ...], message: str) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(RuntimeError, match=message):
        Conv3x3(32, 64, pooled=True)(torch.zeros(shape))


def test_what_has_no_numbers_to_read_is_left_to_torch() -> None:
    with FakeTensorMode(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert Conv3x3(32, 32)(torch.zeros(8, 32, 8, 8)).shape == (8, 32, 8, 8)
    weight, taken = torch.zeros(32, 32, 3, 3), []

    def traced(images: Tensor) -> Tensor:
        taken.append(conv3x3.is_faster(images, weight, 8, 8))
        return images

    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.warns(DeprecationWarning, match="is deprecated"):
        torch.jit.trace(traced, torch.zeros(8, 32, 8, 8))
    assert not taken[0]


def test_exported_layer_takes_batches_of_any_size() -> None:
    layer, images = Conv3x3(24, 24), torch.randn(16, 24, 7, 7, generator=seeded())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        dimensions = ({0: torch.export.Dim("images")},)
        program = torch.export.export(layer, (images,), dynamic_shapes=dimensions).module()
        for batch in (images, images[:3]):
            torch.testing.assert_close(program(batch), layer(batch), rtol=0.02, atol=0.01)
