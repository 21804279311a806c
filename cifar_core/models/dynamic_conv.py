"""dynamic_conv: parallel convolutions, mixed by weights that are computed from each image."""

from __future__ import annotations

from torch import Tensor, nn

from cifar_core.models.layers import Conv3x3, Dropout, Head, channels

_BRANCHES = 3


class DynamicConv(nn.Sequential):
    """Three blocks of three mixed branches, then three linear layers; 57,534,492 weights at width 1.

    The published blocks have a fourth branch that is never used; without it the network computes the same with
    28,320,768 weights fewer. Width 1 (1,024 channels) costs 9.1 G multiply-adds per image and needs a GPU; width
    0.125 suits small machines.
    """

    def __init__(self, width: float, classes: int, side: int) -> None:
        super().__init__()
        size, hidden = channels(1024, width), channels(512, width)
        self.blocks = nn.Sequential(_Block(3, size), _Block(size, size), _Block(size, size))
        self.classifier = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            *_hidden_layer(size, hidden),
            *_hidden_layer(hidden, hidden),
            Head(hidden, classes),
        )


class _Block(nn.Module):
    """Sum of three branches, each scaled by its mixing weight: (N, C_in, H, W) -> (N, C_out, H/2, W/2)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(_branch(inputs, outputs) for _ in range(_BRANCHES))
        self.mixing = nn.Sequential(nn.Linear(inputs, _BRANCHES), nn.LeakyReLU())

    def forward(self, inputs: Tensor) -> Tensor:
        scales = self.mixing(inputs.mean((2, 3))).unflatten(1, (_BRANCHES, 1, 1, 1)).unbind(1)  # each (N, 1, 1, 1)
        first, second, third = (branch(inputs) * scale for branch, scale in zip(self.branches, scales, strict=True))
        return first + second + third  # type: ignore[no-any-return]


def _branch(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(Conv3x3(inputs, outputs), nn.BatchNorm2d(outputs), nn.LeakyReLU(), nn.MaxPool2d(2))


def _hidden_layer(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.LeakyReLU(), Dropout(0.5)]
