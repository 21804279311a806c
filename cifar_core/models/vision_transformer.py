"""vision_transformer: self-attention over patches, without any convolution over neighbours."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cifar_core.models.layers import GELU, Head

_PATCH = 4
_HEAD = 32  # channels of an attention head
_DEPTH = 6


class VisionTransformer(nn.Module):
    """Six pre-norm blocks over patches of 4x4 pixels, averaged at the end; about 2.7 M weights at width 1.

    Dosovitskiy et al., "An Image is Worth 16x16 Words" (2021); average pooling in place of a class token after
    Beyer et al., "Better plain ViT baselines" (2022).
    """

    def __init__(self, width: float, classes: int, side: int) -> None:
        super().__init__()
        size = max(1, round(192 * width / _HEAD)) * _HEAD
        self.embed = nn.Conv2d(3, size, _PATCH, stride=_PATCH)
        self.position = nn.Parameter(torch.randn(1, (side // _PATCH) ** 2, size) * 0.02)
        self.blocks = nn.Sequential(*(_Block(size) for _ in range(_DEPTH)))
        self.norm = nn.LayerNorm(size)
        self.head = Head(size, classes)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.embed(images).flatten(2).transpose(1, 2) + self.position
        return self.head(self.norm(self.blocks(tokens)).mean(1))  # type: ignore[no-any-return]


class _Block(nn.Module):
    """Attention, then an MLP, each after a norm and with a residual connection: (N, T, C) -> (N, T, C)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(size)
        self.qkv = nn.Linear(size, 3 * size)
        self.project = nn.Linear(size, size)
        self.norm2 = nn.LayerNorm(size)
        self.mlp = nn.Sequential(nn.Linear(size, 4 * size), GELU(), nn.Linear(4 * size, size))

    def forward(self, tokens: Tensor) -> Tensor:
        count, length, size = tokens.shape
        heads = self.qkv(self.norm1(tokens)).view(count, length, 3, size // _HEAD, _HEAD)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        # Written out, which is cheap for 64 tokens: torch's fused kernel halves the training speed of a CPU.
        weights = (query @ key.transpose(2, 3) * _HEAD**-0.5).softmax(3)
        mixed = weights @ value
        tokens = tokens + self.project(mixed.transpose(1, 2).reshape(count, length, size))
        return tokens + self.mlp(self.norm2(tokens))  # type: ignore[no-any-return]
