"""three_conv: a small plain network of three convolutions and three linear layers."""

from __future__ import annotations

from torch import Tensor, nn

from cifar_core.models.layers import Conv3x3, Dropout, channels


class ThreeConv(nn.Module):
    """Three 3x3 convolutions, each followed by a max-pool, then three linear layers; 154,454 weights at width 1.

    No batch norm; dropout of 0.25 in front of every linear layer.
    """

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        c1, c2, c3 = (channels(base, width) for base in (16, 32, 64))
        h1, h2 = (max(8, round(base * width)) for base in (120, 60))  # 60 is no multiple of 8: not `channels`
        self.features = nn.Sequential(*_stage(3, c1), *_stage(c1, c2), *_stage(c2, c3), nn.Flatten())
        self.classifier = nn.Sequential(
            Dropout(0.25),
            nn.Linear(c3 * 4 * 4, h1),
            nn.ReLU(),
            Dropout(0.25),
            nn.Linear(h1, h2),
            nn.ReLU(),
            Dropout(0.25),
            nn.Linear(h2, 10),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images))  # type: ignore[no-any-return]


def _stage(inputs: int, outputs: int) -> list[nn.Module]:
    return [Conv3x3(inputs, outputs), nn.ReLU(), nn.MaxPool2d(2)]
