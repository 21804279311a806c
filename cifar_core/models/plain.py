"""Plain convolutional networks, as published: five_conv, three_conv and block_cnn."""

from __future__ import annotations

from torch import nn

from cifar_core.models.layers import Conv3x3, Dropout, FusedSequential, Head, channels

_POOLED = (1, 3, 5)  # blocks of block_cnn that end in a max-pool, counted from 1


class FiveConv(nn.Sequential):
    """Five 3x3 convolutions with batch norm, then three linear layers; 4,968,970 weights at width 1."""

    def __init__(self, width: float, classes: int, side: int) -> None:
        super().__init__()
        c1, c2, c3, c4 = (channels(base, width) for base in (64, 128, 256, 512))
        self.features = FusedSequential(
            *_stage(3, c1, pool=True),
            *_stage(c1, c2, pool=True),
            *_stage(c2, c3),
            *_stage(c3, c4),
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
            Head(c4, classes),
        )


class ThreeConv(nn.Sequential):
    """Three 3x3 convolutions, each followed by a max-pool, then three linear layers; 154,454 weights at width 1.

    No batch norm; dropout of 0.25 in front of every linear layer.
    """

    def __init__(self, width: float, classes: int, side: int) -> None:
        super().__init__()
        sizes = [channels(base, width) for base in (16, 32, 64)]
        h1, h2 = (max(8, round(base * width)) for base in (120, 60))  # 60 is no multiple of 8: not `channels`
        self.features = FusedSequential()
        for inputs, outputs in zip([3, *sizes], sizes, strict=False):
            self.features.extend([Conv3x3(inputs, outputs), nn.ReLU(), nn.MaxPool2d(2)])
        self.features.append(nn.Flatten())
        self.classifier = nn.Sequential()
        for inputs, outputs in ((sizes[-1] * (side // 8) ** 2, h1), (h1, h2)):
            self.classifier.extend([Dropout(0.25), nn.Linear(inputs, outputs), nn.ReLU()])
        self.classifier.extend([Dropout(0.25), Head(h2, classes)])


class BlockCnn(nn.Sequential):
    """Six blocks of three times (conv, batch norm, ReLU), then two linear layers; 8,184,426 weights at width 1.

    The published text gives three convolutions per block, the last width (512) and the two linear layers. The other
    widths, the max-pools after blocks 1, 3 and 5, convolutions without bias and dropout of 0.2 are our choices. The
    published network ends in a softmax before a cross-entropy that contains one; this network returns logits.
    """

    def __init__(self, width: float, classes: int, side: int) -> None:
        super().__init__()
        widths = [channels(base, width) for base in (32, 64, 96, 128, 256, 512)]
        hidden = channels(128, width)
        self.blocks = nn.Sequential()
        for number, (inputs, outputs) in enumerate(zip([3, *widths], widths, strict=False), start=1):
            first, second = (_stage(source, outputs, bias=False) for source in (inputs, outputs))
            last = _stage(outputs, outputs, bias=False, pool=number in _POOLED)
            self.blocks.append(FusedSequential(*first, *second, *last))
        self.classifier = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(widths[-1], hidden),
            nn.ReLU(),
            Dropout(0.2),
            Head(hidden, classes),
        )


def _stage(inputs: int, outputs: int, *, bias: bool = True, pool: bool = False) -> list[nn.Module]:
    """conv, batch norm, ReLU, optional max-pool: (N, C_in, H, W) -> (N, C_out, H, W), or half of H and W."""
    layers: list[nn.Module] = [Conv3x3(inputs, outputs, bias=bias), nn.BatchNorm2d(outputs), nn.ReLU()]
    return [*layers, nn.MaxPool2d(2)] if pool else layers
