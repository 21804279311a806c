"""torchvision imports beside any torch. Each case has its own interpreter: declarations last as long."""

import subprocess
import sys

import pytest

USE = """
from cifar_core.evaluation.torchvision_cpu import torchvision
grid = torchvision.utils.make_grid(torch.zeros(4, 3, 8, 8), nrow=2, padding=0)
assert grid.shape == (3, 16, 16)
assert torchvision.models.resnet18(num_classes=10).fc.out_features == 10
"""


@pytest.mark.parametrize(
    "before",
    [
        pytest.param("", id="first"),
        pytest.param("from cifar_core.evaluation.torchvision_cpu import torchvision as again", id="twice"),
        # As where the compiled part has registered its operators: to declare them a second time would raise.
        pytest.param(
            "library = torch.library.Library('torchvision', 'DEF')\n"
            "for name in ('nms', 'qnms'):\n"
            "    library.define(name + '(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')\n"
            "import torchvision",
            id="operators-are-there",
        ),
    ],
)
def test_torchvision_imports_and_works(before: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"import torch\n{before}\n{USE}"],
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""
