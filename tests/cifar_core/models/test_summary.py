"""Summary of a network: layers in order, totals, and an unchanged network."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from cifar_core.models import MODELS, build_shapes, parameter_count
from cifar_core.models.summary import model_summary


def parts(summary: str) -> tuple[list[list[str]], dict[str, int]]:
    """Parse a summary: the cells of each row, and the totals by label."""
    table, totals = summary.split("\n\n")
    rows = [line.replace(" x ", "x").split() for line in table.splitlines()[1:]]
    split = [line.rsplit(maxsplit=1) for line in totals.splitlines()]
    return rows, {label.strip(): int(number.replace(",", "")) for label, number in split}


@pytest.mark.parametrize("name", MODELS)
def test_lines_add_up_to_the_totals(name: str) -> None:
    model = build_shapes(name, 1.0)
    rows, totals = parts(model_summary(model, 32))
    in_layers = sum(int(row[-1].replace(",", "")) for row in rows)
    assert totals["weights"] == parameter_count(name, 1.0) == in_layers + totals.get("in none of these layers", 0)
    assert totals["trained"] == sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    assert rows[-1][-2] == "10"
    assert {row[0]: row[1] for row in rows} == {
        path: type(module).__name__ for path, module in model.named_modules() if not list(module.children())
    }


def test_weights_outside_the_layers_have_a_line_of_their_own() -> None:
    rows, totals = parts(model_summary(build_shapes("vision_transformer", 1.0), 32))
    assert len({row[0] for row in rows}) == len(rows), "each layer is used once, and has one line"
    assert totals["in none of these layers"] == 64 * 192  # the positions


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
    with torch.device("meta"):
        network = Backwards()
    assert model_summary(network, 32) == (
        "layer  kind    output     weights\n"
        "early  Conv2d  4 x 1 x 1   12,288\n"
        "late   Linear  4               20\n"
        "late   Linear  4                0\n"
        "\n"
        "weights                 12,308\n"
        "  trained                   20\n"
        "multiply-adds an image  12,320\n"
    )
