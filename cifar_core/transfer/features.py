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


def features(
    backbone: Backbone,
    images: Tensor,
    hardware: Hardware,
    *,
    mirrored: bool = False,
    cache: Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Features:
    """Return the features of images uint8 (N, 3, side, side).

    A pass that was cut short resumes: each 1,000 images are a file of their own in `cache`, whose name is a hash of the
    images, the weights, the resolution and the precision. A damaged file is computed again.

    Args:
        mirrored: mirror the images first.
        cache: folder, which is created; None keeps nothing.
        progress: called with the images done so far and their total; what it raises passes through.

    Raises:
        OSError: the cache cannot be written to.
    """
    found: list[Features] = []
    network = hardware.place(backbone.network).eval()
    origin = f"{backbone.name} {backbone.sha256} {backbone.side} {hardware.precision} {mirrored}"
    for start in range(0, len(images), _CHUNK):
        chunk = images[start : start + _CHUNK].contiguous()
        path = None if cache is None else cache / f"{_key(origin, chunk)}.bin"
        known = None if path is None else _read(path, len(chunk))
        if known is None:
            began = time.perf_counter()
            values = _compute(network, chunk.flip(3) if mirrored else chunk, hardware)
            known = Features(values, time.perf_counter() - began)
            if path is not None:
                content = struct.pack(_SECONDS, known.seconds) + values.numpy().tobytes()
                write_atomically(path, hashlib.sha256(content).digest() + content)
        found.append(known)
        progress(start + len(chunk), len(images))
    return Features(torch.cat([each.values for each in found]), sum(each.seconds for each in found))


def _compute(network: nn.Module, images: Tensor, hardware: Hardware) -> Tensor:
    if hardware.device.type != "cpu":
        return torch.cat([_of_batch(network, batch, hardware) for batch in images.split(_BATCH)])
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=functools.partial(torch.set_num_threads, 1)) as pool:
            found = pool.map(functools.partial(_of_batch, network, hardware=hardware), images.split(_CPU_BATCH))
            return torch.cat(list(found))
    finally:
        torch.set_num_threads(threads)


@torch.inference_mode()
def _of_batch(network: nn.Module, images: Tensor, hardware: Hardware) -> Tensor:
    inputs = normalise(images.to(hardware.device).float().div_(255), "half")
    with hardware.autocast():
        found: Tensor = network(inputs.contiguous(memory_format=torch.channels_last))
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
