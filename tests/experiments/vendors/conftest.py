"""A small test set in place of the real one, and its folder as `export_test.py` writes it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cifar_core.data import Split, source
from experiments import export_test

IMAGES = 20


@pytest.fixture
def small_test_set(monkeypatch: pytest.MonkeyPatch) -> Split:
    """Test images of the ten classes in turn."""
    quarters = torch.randint(0, 256, (IMAGES, 3, 2, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pixels = quarters.repeat_interleave(16, 2).repeat_interleave(16, 3)  # which make small files
    split = Split(pixels, torch.arange(IMAGES) % 10)
    monkeypatch.setattr(source, "load_test", lambda _: split)
    monkeypatch.setattr(source, "ensure_cifar10", lambda *_: None)
    return split


@pytest.fixture
def exported(small_test_set: Split, tmp_path: Path) -> Path:
    folder = tmp_path / "test-images"
    assert export_test.main([str(folder), "--store", str(tmp_path / "mlruns")]) == 0
    return folder
