"""wide_resnet: a shallow wide residual network."""

from __future__ import annotations

from torch import Tensor, nn

from cifar_core.models import shortcut
from cifar_core.models.fused import norm_activation
from cifar_core.models.layers import Conv3x3, Head, channels

_RELU = nn.ReLU()


class WideResNet(nn.Module):
    """Pre-activation WRN-10-4: one block at each of three resolutions; 1,198,810 weights at width 1.

    Zagoruyko & Komodakis, "Wide Residual Networks" (2016).
    """

    def __init__(self, width: float, classes: int, side: int) -> None:
        super().__init__()
        c1, c2, c3 = (channels(base, width) for base in (64, 128, 256))
        self.stem = Conv3x3(3, 16, bias=False)
        self.blocks = nn.Sequential(_Block(16, c1, stride=1), _Block(c1, c2, stride=2), _Block(c2, c3, stride=2))
        self.norm = nn.BatchNorm2d(c3)
        self.head = Head(c3, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        features = norm_activation(self.blocks(self.stem(images)), self.norm, _RELU)
        return self.head(features.mean((2, 3)))  # type: ignore[no-any-return]


class _Block(nn.Module):
    """Twice norm, ReLU, conv, with a 1x1 shortcut: (N, C_in, H, W) -> (N, C_out, H/stride, W/stride)."""

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        if stride == 1:
            self.conv1: nn.Conv2d = Conv3x3(inputs, outputs, bias=False)
        else:
            self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.conv2 = Conv3x3(outputs, outputs, bias=False)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        x = norm_activation(inputs, self.norm1, _RELU)
        y, beside = shortcut.convolve(x, self.conv1, self.shortcut)
        return self.conv2(norm_activation(y, self.norm2, _RELU)) + beside  # type: ignore[no-any-return]
