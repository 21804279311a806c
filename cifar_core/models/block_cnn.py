"""block_cnn: a deep plain network of six blocks of three convolutions."""

from __future__ import annotations

from torch import Tensor, nn

from cifar_core.models.layers import Conv3x3, Dropout, channels

_POOLED = (1, 3, 5)  # blocks that end in a max-pool, counted from 1


class BlockCnn(nn.Module):
    """Six blocks of three times (conv, batch norm, ReLU), then two linear layers; 8,184,426 weights at width 1.

    The published text gives three convolutions per block, the last width (512) and the two linear layers. The other
    widths, the max-pools after blocks 1, 3 and 5, convolutions without bias and dropout of 0.2 are our choices. The
    published network ends in a softmax before a cross-entropy that contains one; this network returns logits.
    """

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        widths = [channels(base, width) for base in (32, 64, 96, 128, 256, 512)]
        hidden = channels(128, width)
        self.blocks = nn.Sequential(
            *(
                _block(inputs, outputs, pool=number in _POOLED)
                for number, (inputs, outputs) in enumerate(zip([3, *widths], widths, strict=False), start=1)
            )
        )
        self.classifier = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(widths[-1], hidden),
            nn.ReLU(),
            Dropout(0.2),
            nn.Linear(hidden, 10),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.blocks(images))  # type: ignore[no-any-return]


def _block(inputs: int, outputs: int, *, pool: bool) -> nn.Sequential:
    """(N, C_in, H, W) -> (N, C_out, H, W), or half of H and W with a pool."""
    layers: list[nn.Module] = []
    for source in (inputs, outputs, outputs):
        layers += [Conv3x3(source, outputs, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.MaxPool2d(2)) if pool else nn.Sequential(*layers)
