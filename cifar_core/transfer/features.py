"""Features of images by a pretrained network, computed once and kept in the user's cache folder."""

from __future__ import annotations

import functools
import hashlib
import struct
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from cifar_core.files import cache_folder, write_atomically
from cifar_core.hardware import Hardware
from cifar_core.training import normalise
from cifar_core.transfer.backbone import Backbone

_CHUNK = 1_000  # images of a file in the cache
_BATCH = 500  # images at a time on an accelerator
# On a CPU each thread computes a few images by itself: layers are so small that threads would wait for each other.
_CPU_BATCH = 50
_HASH_BYTES = 32
_SECONDS = "<d"  # that a chunk took, before its values


def default_cache() -> Path:
    return cache_folder() / "features"


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """Features fp16 (N, D) of images, and the seconds that computing them took, whenever that was."""

    values: Tensor
    seconds: float

    def part(self, images: slice) -> Features:
        """Return the features of some images, with their share of the seconds."""
        values = self.values[images]
        return Features(values, self.seconds * len(values) / len(self.values))


def features(
    backbone: Backbone,
    images: Tensor,
    hardware: Hardware,
    *,
    mirrored: bool = False,
    lower: Features | None = None,
    cache: Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Features:
    """Return the features of images uint8 (N, 3, side, side).

    A pass that was cut short resumes: each 1,000 images are a file of their own in `cache`, whose name is a hash of the
    images, the weights, the resolution and the precision. A damaged file is computed again.

    Args:
        mirrored: mirror the images first.
        lower: their `activations`, which spare most of the time and give the same bits.
        cache: folder, which is created; None keeps nothing.
        progress: called with the images done so far and their total; what it raises passes through.

    Raises:
        OSError: the cache cannot be written to.
    """
    lower_half, upper_half = hardware.place(backbone.network).eval().halves()  # type: ignore[operator]

    def of_chunk(chosen: slice) -> Features:
        view = _view(images[chosen], mirrored=mirrored)
        below = _timed(lower_half, view, hardware) if lower is None else lower.part(chosen)
        above = _timed(upper_half, below.values, hardware)
        return Features(above.values, below.seconds + above.seconds)

    return _pass(of_chunk, images, f"{_origin(backbone, hardware, mirrored=mirrored)} upper", cache, progress)


def activations(
    backbone: Backbone,
    images: Tensor,
    hardware: Hardware,
    *,
    mirrored: bool = False,
    cache: Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Features:
    """Return the activations of images below the blocks that fine-tuning trains; arguments as for `features`.

    They are kept in fp16, which has more digits than bf16; 16 kB an image for `efficientnet_lite0`.
    """
    network, _ = hardware.place(backbone.network).eval().halves()  # type: ignore[operator]

    def of_chunk(chosen: slice) -> Features:
        return _timed(network, _view(images[chosen], mirrored=mirrored), hardware)

    origin = f"{_origin(backbone, hardware, mirrored=mirrored)} lower"
    return _pass(of_chunk, images, origin, cache, progress)


def compute(network: nn.Module, inputs: Tensor, hardware: Hardware) -> Tensor:
    """Return the outputs fp16 (N, D) of a network for images uint8, or for activations."""
    if hardware.device.type != "cpu":
        return torch.cat([_of_batch(network, batch, hardware) for batch in inputs.split(_BATCH)])
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=functools.partial(torch.set_num_threads, 1)) as pool:
            found = pool.map(functools.partial(_of_batch, network, hardware=hardware), inputs.split(_CPU_BATCH))
            return torch.cat(list(found))
    finally:
        torch.set_num_threads(threads)


def _pass(
    compute_chunk: Callable[[slice], Features],
    images: Tensor,
    origin: str,
    cache: Path | None,
    progress: Callable[[int, int], None],
) -> Features:
    """Compute chunk by chunk, or read what is in the cache."""
    found: list[Features] = []
    for start in range(0, len(images), _CHUNK):
        chosen = slice(start, start + _CHUNK)
        chunk = images[chosen].contiguous()
        path = None if cache is None else cache / f"{_key(origin, chunk)}.bin"
        known = None if path is None else _read(path, len(chunk))
        if known is None:
            known = compute_chunk(chosen)
            if path is not None:
                content = struct.pack(_SECONDS, known.seconds) + known.values.numpy().tobytes()
                write_atomically(path, hashlib.sha256(content).digest() + content)
        found.append(known)
        progress(start + len(chunk), len(images))
    return Features(torch.cat([each.values for each in found]), sum(each.seconds for each in found))


def _timed(network: nn.Module, inputs: Tensor, hardware: Hardware) -> Features:
    began = time.perf_counter()
    return Features(compute(network, inputs, hardware), time.perf_counter() - began)


def _view(images: Tensor, *, mirrored: bool) -> Tensor:
    return images.flip(3) if mirrored else images


def _origin(backbone: Backbone, hardware: Hardware, *, mirrored: bool) -> str:
    return f"{backbone.name} {backbone.sha256} {backbone.side} {hardware.precision} {mirrored}"


@torch.inference_mode()
def _of_batch(network: nn.Module, inputs: Tensor, hardware: Hardware) -> Tensor:
    given = inputs.to(hardware.device)
    if given.dtype == torch.uint8:
        given = normalise(given.float().div_(255), "half").contiguous(memory_format=torch.channels_last)
    with hardware.autocast():
        found: Tensor = network(given)
    return found.half().cpu()


def _key(origin: str, images: Tensor) -> str:
    digest = hashlib.sha256(f"{origin} {tuple(images.shape)}".encode())
    digest.update(images.numpy().data)
    return digest.hexdigest()


def _read(path: Path, images: int) -> Features | None:
    """Read a file of the cache; None if there is none, or it is damaged."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, content = content[:_HASH_BYTES], content[_HASH_BYTES:]
    if hashlib.sha256(content).digest() != digest:
        return None
    size = struct.calcsize(_SECONDS)
    values = torch.frombuffer(bytearray(content[size:]), dtype=torch.float16).view(images, -1)
    return Features(values, struct.unpack(_SECONDS, content[:size])[0])
