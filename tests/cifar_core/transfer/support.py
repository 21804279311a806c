"""Random weights of a small pretrained network, in the names of the published ones."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from cifar_core.transfer.backbone import Backbone, load_backbone
from cifar_core.transfer.efficientnet_lite import EfficientNetLite

NORMS = {"conv_stem": "bn0", "expand_conv": "bn0", "depthwise_conv": "bn1", "project_conv": "bn2", "conv_head": "bn1"}


def published_weights(seed: int = 0, width: float = 1.0, depth: float = 1.0) -> dict[str, Tensor]:
    """Draw weights as a package ships them: convolutions, batch norms and a classifier; the names begin with "_"."""
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        shapes = EfficientNetLite(width, depth).state_dict()
    found = {"_fc.weight": torch.zeros(1000, 1280), "_fc.bias": torch.zeros(1000)}
    for name, value in shapes.items():
        if name.endswith("bias"):
            continue
        path, _, convolution = name.removesuffix(".weight").rpartition(".")
        before = f"_{path}." if path else ""
        norm = f"{before}_{NORMS[convolution]}"
        channels, fan_in = len(value), value[0].numel()
        found[f"{before}_{convolution}.weight"] = torch.randn(value.shape, generator=generator) * (2 / fan_in) ** 0.5
        found[f"{norm}.weight"] = 1 + 0.1 * torch.randn(channels, generator=generator)
        found[f"{norm}.bias"] = 0.5 + 0.1 * torch.randn(channels, generator=generator)
        found[f"{norm}.running_mean"] = 0.1 * torch.randn(channels, generator=generator)
        found[f"{norm}.running_var"] = 1 + torch.rand(channels, generator=generator)
    return found


def small_backbone(folder: Path, side: int = 32) -> Backbone:
    """Load random weights of EfficientNet-Lite0 from a file in `folder`, for images of `side` pixels."""
    path = folder / "weights.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(published_weights(), path)
    backbone = load_backbone(str(path))
    backbone.network.side = side
    return backbone
