"""Export of a trained network with its preprocessing inside: as a torch ExportedProgram, and as ONNX."""

from __future__ import annotations

import importlib.util
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cifar_core.data.data_set import DataSet
from cifar_core.errors import first_line
from cifar_core.training import normalise

_TOLERANCE = 1e-4  # of probabilities
_COMPARED, _TIMED = 64, 20  # images in a batch; answers for a single image


class Classifier(nn.Module):
    """A network from pixels to probabilities: uint8 images (N, side, side, 3) -> fp32 (N, classes)."""

    scale: Tensor
    offset: Tensor

    def __init__(self, network: nn.Module, normalisation: str, data_set: DataSet) -> None:
        super().__init__()
        self.network = network
        black, white = (normalise(torch.full((1, 3, 1, 1), float(value)), normalisation, data_set) for value in (0, 1))
        self.register_buffer("scale", (white - black) / 255)
        self.register_buffer("offset", black)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images.permute(0, 3, 1, 2).float() * self.scale + self.offset)
        return logits.softmax(1)


def export(network: nn.Module, normalisation: str, data_set: DataSet) -> torch.export.ExportedProgram:
    """Export a network on the CPU as `Classifier`, in fp32, for batches of any size from 1."""
    classifier = Classifier(network, normalisation, data_set).eval()
    two = torch.zeros(2, data_set.side, data_set.side, 3, dtype=torch.uint8)  # from one, torch would fix the batch
    return torch.export.export(classifier, (two,), dynamic_shapes=({0: torch.export.Dim("images", min=1)},))


def export_onnx(program: torch.export.ExportedProgram, data_set: DataSet, path: Path) -> str:
    """Write an exported network to `path` as ONNX as well, and keep the file only if that is worth it.

    It is if onnxruntime answers for one image faster than torch, with probabilities that differ by 1e-4 at most.

    Returns:
        why it was kept or not, in a phrase; empty unless both onnxruntime and onnxscript are installed.
    """
    if any(importlib.util.find_spec(name) is None for name in ("onnxruntime", "onnxscript")):
        return ""
    try:
        said, is_kept = _export_onnx(program, data_set, path)
    except Exception as error:  # of three libraries: whatever it is, the network is served by torch
        said, is_kept = f"not kept as ONNX: {first_line(error)}", False
    if not is_kept:
        path.unlink(missing_ok=True)
    return said


def _export_onnx(program: torch.export.ExportedProgram, data_set: DataSet, path: Path) -> tuple[str, bool]:
    import onnxruntime

    with warnings.catch_warnings(action="ignore"):  # of the exporter about its own parts
        written = torch.onnx.export(program, dynamo=True, verbose=False)
    assert written is not None
    written.save(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    network, [given] = program.module(), session.get_inputs()

    def with_onnx(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {given.name: images.numpy()})[0])

    shape = (_COMPARED, data_set.side, data_set.side, 3)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        apart = (network(images) - with_onnx(images)).abs().max().item()
        seconds = [_seconds(answer, images[:1]) for answer in (with_onnx, network)]
    times = f"onnxruntime answers for one image in {1000 * seconds[0]:.1f} ms, torch in {1000 * seconds[1]:.1f} ms"
    if not apart <= _TOLERANCE:
        return f"not kept as ONNX: its probabilities differ by {apart:.2g}", False
    return (times, True) if seconds[0] < seconds[1] else (f"not kept as ONNX: {times}", False)


def _seconds(answer: Callable[[Tensor], Any], image: Tensor) -> float:
    """Return the median time of an answer, once the first ones have set up what they need."""
    taken = []
    for _ in range(_TIMED + 2):
        started = time.perf_counter()
        answer(image)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[2:])
