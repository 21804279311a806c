"""fast_resnet, airbench and airbench96: networks for high accuracy at little compute."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cifar_core.models.fused import norm_activation
from cifar_core.models.layers import GELU, Conv3x3, GlobalMaxPool, Head, channels

_WHITENING = 12  # independent filters: the 3 x 2 x 2 values of a patch
_WHITENING_EPSILON = 5e-4
_LEAST_VARIANCE = 1e-6  # of a direction of the patches, as a share of the largest; CIFAR-10's have 5e-5 and more


class FastResNet(nn.Module):
    """A fixed whitening layer, then three groups of two convolutions; about 2 M weights at width 1.

    After Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU" (2024) and Page, "How to train your ResNet"
    (2018): 2x2 patches are decorrelated by a frozen first layer, pooling comes before the normalisation, batch
    norm has no scale, and logits are scaled down. The second convolution of each group is residual.
    """

    def __init__(
        self,
        width: float,
        classes: int,
        side: int,
        *,
        outputs: tuple[int, int, int] = (64, 256, 256),
        depth: int = 2,
        residual: bool = True,
    ) -> None:
        super().__init__()
        c1, c2, c3 = (channels(base, width) for base in outputs)
        self.whitening = nn.Conv2d(3, 2 * _WHITENING, 2)
        self.whitening.weight.requires_grad = False
        self.groups = nn.Sequential(
            GELU(),
            _Group(2 * _WHITENING, c1, depth, residual=residual),
            _Group(c1, c2, depth, residual=residual),
            _Group(c2, c3, depth, residual=residual),
            GlobalMaxPool(),
        )
        self.head = Head(c3, classes, bias=False)
        nn.init.zeros_(self.whitening.bias)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.groups(self.whitening(images))) / 9  # type: ignore[no-any-return]

    @torch.no_grad()
    def whiten(self, images: Tensor) -> None:
        """Set the first layer so that its outputs over the 2x2 patches of `images` (N, 3, H, W) are uncorrelated.

        Each eigenvector of the patches' covariance appears with both signs, because the activation that follows
        would drop one half. Where the patches do not vary, as grey ones do not in colour, the others are repeated: of
        a channel without variance the first batch norm would make infinite gradients.
        """
        moments = torch.zeros(_WHITENING, _WHITENING, dtype=torch.double)
        for part in images.split(250):  # patches take 12 times the memory of their images
            patches = part.unfold(2, 2, 1).unfold(3, 2, 1).permute(0, 2, 3, 1, 4, 5).reshape(-1, _WHITENING).double()
            moments += patches.T @ patches
        values, vectors = torch.linalg.eigh(moments / images[:, 0, 1:, 1:].numel())  # the largest is the last
        varied = max(1, int((values > _LEAST_VARIANCE * values[-1]).sum()))
        filters = (vectors / (values + _WHITENING_EPSILON).sqrt()).T.reshape(_WHITENING, 3, 2, 2).flip(0)
        filters = filters[torch.arange(_WHITENING) % varied]
        self.whitening.weight.copy_(torch.cat([filters, -filters]))


class Airbench(FastResNet):
    """fast_resnet without residual connections: the network of the paper by Jordan."""

    def __init__(self, width: float, classes: int, side: int) -> None:
        super().__init__(width, classes, side, residual=False)


class Airbench96(FastResNet):
    """fast_resnet with three convolutions a group and up to 512 channels; about 10 M weights at width 1.

    After the network of that name in the repository of Jordan's paper, which adds its residuals before the last
    activation of a group.
    """

    def __init__(self, width: float, classes: int, side: int) -> None:
        super().__init__(width, classes, side, outputs=(128, 384, 512), depth=3)


class _Group(nn.Module):
    """conv, pool, norm, then one or two of conv and norm, residual or not: (N, C_in, H, W) -> (N, C_out, H/2, W/2)."""

    def __init__(self, inputs: int, outputs: int, depth: int, *, residual: bool) -> None:
        super().__init__()
        self.residual = residual
        self.widen = Conv3x3(inputs, outputs, bias=False, pooled=True)
        self.pool = nn.MaxPool2d(2)
        self.norm1 = _shift_only_norm(outputs)
        self.refine = Conv3x3(outputs, outputs, bias=False)
        self.norm2 = _shift_only_norm(outputs)
        self.refine_again = Conv3x3(outputs, outputs, bias=False) if depth == 3 else None
        self.norm3 = _shift_only_norm(outputs) if depth == 3 else None
        self.activation = GELU()
        # The convolutions start as identities on their first channels (Zagoruyko & Komodakis, DiracNets, 2017).
        for convolution in filter(None, (self.widen, self.refine, self.refine_again)):
            nn.init.dirac_(convolution.weight[: convolution.in_channels].data)

    def forward(self, inputs: Tensor) -> Tensor:
        x = norm_activation(self.widen(inputs), self.norm1, self.activation, self.pool)
        y = norm_activation(self.refine(x), self.norm2, self.activation)
        if self.refine_again is not None and self.norm3 is not None:
            y = norm_activation(self.refine_again(y), self.norm3, self.activation)
        return x + y if self.residual else y


def _shift_only_norm(features: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(features, eps=1e-12)
    norm.weight.requires_grad = False
    return norm
