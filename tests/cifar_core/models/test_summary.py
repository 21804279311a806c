"""Summary of a network: layers in order, totals, and an unchanged network."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from cifar_core.models import MODELS, build_model, build_shapes, count_parameters
from cifar_core.models.layers import Dropout
from cifar_core.models.summary import model_summary
from cifar_core.recipe import Recipe


def parts(summary: str) -> tuple[list[list[str]], dict[str, int]]:
    """Parse a summary: the cells of each row, and the totals by label."""
    table, totals = summary.split("\n\n")
    rows = [line.replace(" x ", "x").split() for line in table.splitlines()[1:]]
    split = [line.rsplit(maxsplit=1) for line in totals.splitlines()]
    return rows, {label.strip(): int(number.replace(",", "")) for label, number in split}


def test_summary_of_three_conv() -> None:
    assert model_summary(build_shapes("three_conv", 1.0)) == (
        "layer         kind       output        weights\n"
        "features.0    Conv3x3    16 x 32 x 32      448\n"
        "features.1    ReLU       16 x 32 x 32        0\n"
        "features.2    MaxPool2d  16 x 16 x 16        0\n"
        "features.3    Conv3x3    32 x 16 x 16    4,640\n"
        "features.4    ReLU       32 x 16 x 16        0\n"
        "features.5    MaxPool2d  32 x 8 x 8          0\n"
        "features.6    Conv3x3    64 x 8 x 8     18,496\n"
        "features.7    ReLU       64 x 8 x 8          0\n"
        "features.8    MaxPool2d  64 x 4 x 4          0\n"
        "features.9    Flatten    1024                0\n"
        "classifier.0  Dropout    1024                0\n"
        "classifier.1  Linear     120           123,000\n"
        "classifier.2  ReLU       120                 0\n"
        "classifier.3  Dropout    120                 0\n"
        "classifier.4  Linear     60              7,260\n"
        "classifier.5  ReLU       60                  0\n"
        "classifier.6  Dropout    60                  0\n"
        "classifier.7  Linear     10                610\n"
        "\n"
        "weights                   154,454\n"
        "  trained                 154,454\n"
        "multiply-adds an image  2,932,344\n"
    )


@pytest.mark.parametrize("name", MODELS)
def test_lines_add_up_to_the_totals(name: str) -> None:
    model = build_shapes(name, 1.0)
    rows, totals = parts(model_summary(model))
    in_layers = sum(int(row[-1].replace(",", "")) for row in rows)
    assert totals["weights"] == count_parameters(model) == in_layers + totals.get("in none of these layers", 0)
    assert totals["trained"] == sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    assert rows[-1][-2] == "10"
    assert {row[0]: row[1] for row in rows} == {
        path: type(module).__name__ for path, module in model.named_modules() if not list(module.children())
    }


def test_weights_outside_the_layers_have_a_line_of_their_own() -> None:
    _, totals = parts(model_summary(build_shapes("vision_transformer", 1.0)))
    assert totals["in none of these layers"] == 64 * 192  # the positions


def test_custom_resnet_goes_through_its_layers_in_order() -> None:
    rows, totals = parts(model_summary(build_shapes("custom_resnet", 1.0)))
    shapes = [row[2] for row in rows if row[1] == "Conv3x3"]
    assert shapes == [
        "64x32x32",
        *["128x32x32", "128x16x16", "128x16x16"],
        "256x16x16",
        *["512x8x8", "512x4x4", "512x4x4"],
    ]
    assert totals["multiply-adds an image"] == 379_261_952


class Backwards(nn.Module):
    """Two layers that run in another order than they are defined in, one of them twice."""

    def __init__(self) -> None:
        super().__init__()
        self.late = nn.Linear(4, 4)
        self.early = nn.Conv2d(3, 4, 32, bias=False)
        self.early.weight.requires_grad = False

    def forward(self, images: Tensor) -> Tensor:
        return self.late(self.late(self.early(images).flatten(1)))  # type: ignore[no-any-return]


def test_order_is_that_of_execution_and_weights_stand_once() -> None:
    rows, totals = parts(model_summary(Backwards()))
    assert rows == [
        ["early", "Conv2d", "4x1x1", "12,288"],
        ["late", "Linear", "4", "20"],
        ["late", "Linear", "4", "0"],
    ]
    assert totals == {"weights": 12_308, "trained": 20, "multiply-adds an image": 12_288 + 32}


def test_model_and_generators_are_left_alone() -> None:
    model = build_model(Recipe(model="five_conv", width=0.125)).train()
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, Dropout):
            module.generator = generator
    before = {key: value.clone() for key, value in model.state_dict().items()}
    drawn, globally = generator.get_state(), torch.get_rng_state()
    model_summary(model)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.equal(generator.get_state(), drawn)
    assert torch.equal(torch.get_rng_state(), globally)
