"""EfficientNet-Lite, with the batch norm of its trained weights folded into the convolutions.

M. Tan, Q. V. Le, "EfficientNet: rethinking model scaling for convolutional neural networks", 2019, without squeeze and
excitation and with ReLU6, as published by TensorFlow in 2020.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEATURES = 1280
_STEM = 32
# Blocks: repeats, kernel size, stride, expansion, output channels.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_TUNED_STAGE = 4  # the first of those that fine-tuning trains: 59 % of the compute, 93 % of the weights of the smallest
_EPSILON = 1e-3  # of batch norm
# The batch norm after each convolution, in the names of the published weights.
_NORMS = {"conv_stem": "bn0", "expand_conv": "bn0", "depthwise_conv": "bn1", "project_conv": "bn2", "conv_head": "bn1"}


class EfficientNetLite(nn.Module):
    """Features of images: (N, 3, H, W) -> (N, 1280).

    Args:
        width: factor of the channels, except those of the stem and of the last layer.
        depth: factor of the repeats, except those of the first and the last stage.
    """

    def __init__(self, width: float, depth: float) -> None:
        super().__init__()
        self.conv_stem = _Convolution(3, _STEM, 3, 2)
        blocks: list[nn.Module] = []
        in_channels = _STEM
        for number, (repeats, kernel_size, stride, expansion, channels) in enumerate(_STAGES):
            if number == _TUNED_STAGE:
                self._tuned = len(blocks)
            out_channels = _scaled(channels, width)
            count = repeats if number in (0, len(_STAGES) - 1) else math.ceil(depth * repeats)
            for place in range(count):
                step = stride if place == 0 else 1
                blocks.append(_Block(in_channels, out_channels, kernel_size, step, expansion))
                in_channels = out_channels
        self.blocks = nn.Sequential(*blocks)
        self.conv_head = _Convolution(in_channels, FEATURES, 1)

    def forward(self, images: Tensor) -> Tensor:
        return F.relu6(self.conv_head(self.blocks(F.relu6(self.conv_stem(images))))).mean((2, 3))

    def halves(self) -> tuple[nn.Module, nn.Module]:
        """Return the network in two modules that share its weights: before the blocks to fine-tune, and from there."""
        lower = nn.Sequential(self.conv_stem, nn.ReLU6(), self.blocks[: self._tuned])
        pooled = (nn.AdaptiveAvgPool2d(1), nn.Flatten())
        return lower, nn.Sequential(self.blocks[self._tuned :], self.conv_head, nn.ReLU6(), *pooled)


class _Block(nn.Module):
    """Inverted bottleneck: widen, filter each channel, narrow; the input is added where the shapes allow it."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int, expansion: int) -> None:
        super().__init__()
        expanded = in_channels * expansion
        self.expand_conv = _Convolution(in_channels, expanded, 1) if expansion > 1 else None
        self.depthwise_conv = _Convolution(expanded, expanded, kernel_size, stride, groups=expanded)
        self.project_conv = _Convolution(expanded, out_channels, 1)
        self._adds = stride == 1 and in_channels == out_channels

    def forward(self, inputs: Tensor) -> Tensor:
        expanded = inputs if self.expand_conv is None else F.relu6(self.expand_conv(inputs))
        outputs: Tensor = self.project_conv(F.relu6(self.depthwise_conv(expanded)))
        return outputs + inputs if self._adds else outputs


class _Convolution(nn.Conv2d):
    """Convolution padded as TensorFlow does: ceil(side / stride) pixels come out, the odd zero lies below and right."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, groups=groups)

    def forward(self, inputs: Tensor) -> Tensor:
        size, stride = self.kernel_size[0], self.stride[0]
        zeros = [max((math.ceil(pixels / stride) - 1) * stride + size - pixels, 0) for pixels in inputs.shape[2:]]
        above, left = (count // 2 for count in zeros)
        if self.groups > 1 and stride == 2 and inputs.requires_grad:
            # All pixels, then every other one: in oneDNN 3.7 the gradient of a stride of 2 takes twelve times as long.
            every = F.conv2d(inputs, self.weight, self.bias, 1, size // 2, groups=self.groups)
            return every[:, :, size // 2 - above :: 2, size // 2 - left :: 2]
        if zeros == [2 * above, 2 * left]:  # the convolution itself can pad, which saves a copy
            return F.conv2d(inputs, self.weight, self.bias, self.stride, (above, left), groups=self.groups)
        return super().forward(F.pad(inputs, (left, zeros[1] - left, above, zeros[0] - above)))


def fold(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state of `EfficientNetLite` from published weights, whose names have underscores in front.

    Running batch norm is a scale and an offset of each channel; a convolution can do both, which takes a third off
    the time of a forward pass. The classifier of the 1,000 classes is left out; tensors of other layers stay.

    Raises:
        KeyError: a batch norm is missing.
    """
    plain = {".".join(part.removeprefix("_") for part in name.split(".")): value for name, value in stored.items()}
    folded = {name: value for name, value in plain.items() if not name.startswith("fc.")}
    for name, value in plain.items():
        path, _, convolution = name.removesuffix(".weight").rpartition(".")
        if not name.endswith(".weight") or convolution not in _NORMS:
            continue
        norm = f"{path}.{_NORMS[convolution]}" if path else _NORMS[convolution]
        weight, bias, mean, variance = (
            folded.pop(f"{norm}.{part}") for part in ("weight", "bias", "running_mean", "running_var")
        )
        folded.pop(f"{norm}.num_batches_tracked", None)
        scale = weight * torch.rsqrt(variance + _EPSILON)
        folded[name] = value * scale.view(-1, 1, 1, 1)
        folded[name.removesuffix("weight") + "bias"] = bias - mean * scale
    return folded


def _scaled(channels: int, width: float) -> int:
    """Scale to a multiple of 8, at least nine tenths of the exact number."""
    exact = channels * width
    rounded = max(8, int(exact + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * exact else rounded
