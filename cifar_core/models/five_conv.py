"""five_conv: the plain five-layer network of the published build-vs-buy report."""

from __future__ import annotations

from torch import Tensor, nn

from cifar_core.models.layers import Conv3x3, Dropout, channels


class FiveConv(nn.Module):
    """Five 3x3 convolutions with batch norm, then three linear layers; 4,968,970 weights at width 1."""

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        c1, c2, c3, c4 = (channels(base, width) for base in (64, 128, 256, 512))
        self.features = nn.Sequential(
            *_stage(3, c1, pool=True),
            *_stage(c1, c2, pool=True),
            *_stage(c2, c3, pool=False),
            *_stage(c3, c4, pool=False),
            *_stage(c4, c4, pool=True),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.classifier = nn.Sequential(
            nn.Linear(c4, 2 * c4),
            nn.ReLU(),
            Dropout(0.5),
            nn.Linear(2 * c4, c4),
            nn.ReLU(),
            nn.Linear(c4, 10),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images))  # type: ignore[no-any-return]


def _stage(inputs: int, outputs: int, *, pool: bool) -> list[nn.Module]:
    layers: list[nn.Module] = [Conv3x3(inputs, outputs), nn.BatchNorm2d(outputs), nn.ReLU()]
    return [*layers, nn.MaxPool2d(2)] if pool else layers
