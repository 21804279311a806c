"""Training passes of a network as CUDA graphs: one launch each, where a GPU would wait for Python to launch kernels."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from cifar_core.hardware import Hardware
from cifar_core.models.layers import Dropout


def forward_of(model: nn.Module, shape: tuple[int, ...], hardware: Hardware) -> Callable[[Tensor], Tensor]:
    """Return the forward pass of `model` in training, with gradients, for batches of `shape` (N, 3, side, side).

    On a GPU this pass and its backward pass are captured, for which both run a few times first. Those of a network with
    dropout are not: a graph would draw from torch's generator in place of the run's.
    """
    drops = any(isinstance(module, Dropout) and module.probability for module in model.modules())
    if hardware.device.type != "cuda" or drops:
        return model
    kept = [buffer.clone() for buffer in model.buffers()]
    images = torch.zeros(shape, device=hardware.device).contiguous(memory_format=torch.channels_last)
    # The graph's gradients come from another stream than those of the loss; the events between them cost little.
    torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)
    passes = nn.Sequential(model)
    autocast = torch.autocast("cuda", torch.bfloat16, enabled=hardware.bf16, cache_enabled=False)
    with _no_collection(), autocast:
        torch.cuda.make_graphed_callables(passes, (images,))  # replaces its `forward`; the model keeps its own
    for buffer, value in zip(model.buffers(), kept, strict=True):
        buffer.copy_(value)
    return passes


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Context without garbage collection: it would free graphs of earlier runs, which breaks a capture."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
