"""Export of a trained network as a program that needs torch alone and has its preprocessing inside."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cifar_core.data.data_set import DataSet
from cifar_core.training import normalise


class Classifier(nn.Module):
    """A network from pixels to probabilities: uint8 images (N, side, side, 3) -> fp32 (N, classes)."""

    scale: Tensor
    offset: Tensor

    def __init__(self, network: nn.Module, normalisation: str, data_set: DataSet) -> None:
        super().__init__()
        self.network = network
        black, white = (normalise(torch.full((1, 3, 1, 1), float(value)), normalisation, data_set) for value in (0, 1))
        self.register_buffer("scale", (white - black) / 255)
        self.register_buffer("offset", black)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images.permute(0, 3, 1, 2).float() * self.scale + self.offset)
        return logits.softmax(1)


def export(network: nn.Module, normalisation: str, data_set: DataSet) -> torch.export.ExportedProgram:
    """Export a network on the CPU as `Classifier`, in fp32, for batches of any size from 1."""
    classifier = Classifier(network, normalisation, data_set).eval()
    two = torch.zeros(2, data_set.side, data_set.side, 3, dtype=torch.uint8)  # from one, torch would fix the batch
    return torch.export.export(classifier, (two,), dynamic_shapes=({0: torch.export.Dim("images", min=1)},))
