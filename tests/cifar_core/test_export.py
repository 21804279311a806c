"""Exported networks: pixels in, the probabilities of the network out."""

from __future__ import annotations

import math
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cifar_core.data import Split
from cifar_core.data.data_set import CIFAR10
from cifar_core.export import export, export_onnx
from cifar_core.models import build_model
from cifar_core.recipe import Recipe
from cifar_core.training import predict
from tests.cifar_core.support import FP32


@pytest.fixture(scope="module")
def exported() -> torch.export.ExportedProgram:
    recipe = Recipe(model="three_conv", width=0.25)
    return export(build_model(recipe).eval(), recipe.normalisation, CIFAR10)


@pytest.mark.slow
def test_a_program_answers_as_its_network_for_every_size_of_batch(tmp_path: Path) -> None:
    recipe = Recipe(model="three_conv", width=0.25)
    network, own = build_model(recipe).eval(), replace(CIFAR10, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    torch.export.save(export(network, recipe.normalisation, own), tmp_path / "network.pt2")
    program = torch.export.load(tmp_path / "network.pt2").module()
    images = torch.randint(0, 256, (7, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for count in (1, 2, 7):
        split = Split(images[:count], torch.zeros(count, dtype=torch.long), own)
        expected = predict(network, split, FP32).probabilities
        torch.testing.assert_close(program(split.images.permute(0, 2, 3, 1)), expected)


def test_without_the_extra_there_is_no_onnx(
    exported: torch.export.ExportedProgram, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert export_onnx(exported, CIFAR10, tmp_path / "network.onnx") == ""


@pytest.mark.parametrize(
    ("share", "seconds", "said"),
    [
        (1.0, 0.05, "onnxruntime answers for one image in 50.0 ms, torch in 100.0 ms"),
        (1.0, 0.2, "not kept as ONNX: onnxruntime answers for one image in 200.0 ms, torch in 100.0 ms"),
        (0.9, 0.0, r"not kept as ONNX: its probabilities differ by 0\.\d+"),
        (math.nan, 0.0, r"not kept as ONNX: its probabilities differ by nan"),
        (None, 0.0, "not kept as ONNX: no such operator"),
    ],
    ids=["faster", "slower", "other", "nan", "broken"],
)
def test_onnx_is_kept_if_it_agrees_and_is_faster(
    exported: torch.export.ExportedProgram,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    share: float | None,
    seconds: float,
    said: str,
) -> None:
    def run(_: None, given: dict[str, np.ndarray]) -> list[np.ndarray]:
        images = torch.from_numpy(given["images"])
        if share is None:
            raise RuntimeError("no such operator")
        return [(share * exported.module()(images)).numpy()]

    session = SimpleNamespace(run=run, get_inputs=lambda: [SimpleNamespace(name="images")])
    runtime = SimpleNamespace(SessionOptions=SimpleNamespace, InferenceSession=lambda *_, **__: session)
    monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    written = SimpleNamespace(save=lambda path: path.write_bytes(b"a network"))
    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: written)
    taken = iter([seconds, 0.1])
    monkeypatch.setattr("cifar_core.export._seconds", lambda answer, image: next(taken))
    path = tmp_path / "network.onnx"
    assert re.fullmatch(said, export_onnx(exported, CIFAR10, path))
    assert path.exists() == (not said.startswith("not"))


@pytest.mark.slow
def test_onnx_answers_as_torch(exported: torch.export.ExportedProgram, tmp_path: Path) -> None:
    """With the extra `onnx` alone."""
    runtime = pytest.importorskip("onnxruntime")
    path = tmp_path / "network.onnx"
    said = export_onnx(exported, CIFAR10, path)
    assert "ms, torch in" in said
    if path.exists():
        images = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8)
        session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
        [answers] = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        torch.testing.assert_close(torch.from_numpy(answers), exported.module()(images), atol=1e-4, rtol=0)
