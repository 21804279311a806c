"""custom_resnet: a nine-layer residual network that widens at every resolution."""

from __future__ import annotations

from torch import Tensor, nn

from cifar_core.models.layers import Conv3x3, Dropout, FusedSequential, GlobalMaxPool, Head, channels

_DROPOUT = 0.05


class CustomResnet(nn.Sequential):
    """Eight convolutions, two pairs of them residual, and a linear layer; 6,573,130 weights at width 1.

    Dropout follows every convolution, as published; its rate of 0.05 is our choice, as none is given.
    """

    def __init__(self, width: float, classes: int, side: int) -> None:
        super().__init__()
        c1, c2, c3, c4 = (channels(base, width) for base in (64, 128, 256, 512))
        self.features = nn.Sequential(
            _unit(3, c1),
            _unit(c1, c2, pool=True),
            _Residual(c2),
            _unit(c2, c3, pool=True),
            _unit(c3, c4, pool=True),
            _Residual(c4),
            GlobalMaxPool(),
        )
        self.head = Head(c4, classes)


class _Residual(nn.Module):
    """Two units with a residual connection: (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.units = nn.Sequential(_unit(features, features), _unit(features, features))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + self.units(inputs)  # type: ignore[no-any-return]


def _unit(inputs: int, outputs: int, *, pool: bool = False) -> FusedSequential:
    """conv, optional pool, batch norm, ReLU, dropout."""
    layers: list[nn.Module] = [Conv3x3(inputs, outputs, bias=False)]
    if pool:
        layers.append(nn.MaxPool2d(2))
    return FusedSequential(*layers, nn.BatchNorm2d(outputs), nn.ReLU(), Dropout(_DROPOUT))
