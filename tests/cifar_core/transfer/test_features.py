"""Tests of the features of images, and of their cache."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cifar_core.transfer.backbone import Backbone
from cifar_core.transfer.features import activations
from cifar_core.transfer.features import features as measured
from tests.cifar_core.support import FP32, seeded
from tests.cifar_core.transfer.support import small_backbone

IMAGES = torch.randint(0, 256, (10, 3, 16, 16), dtype=torch.uint8, generator=seeded())


def features(*args: Any, **options: Any) -> Tensor:
    return measured(*args, **options).values


def test_a_pass_that_was_cut_short_resumes(backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cifar_core.transfer.features._CHUNK", 4)
    expected = features(backbone, IMAGES, FP32)

    def stop(done: int, total: int) -> None:
        assert total == 10
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        features(backbone, IMAGES, FP32, cache=tmp_path, progress=stop)
    first, second = sorted(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    times = [path.stat().st_mtime_ns for path in (first, second)]
    second.write_bytes(second.read_bytes()[:-2] + b"xx")  # damaged
    assert torch.equal(features(backbone, IMAGES, FP32, cache=tmp_path), expected)
    assert first.stat().st_mtime_ns == times[0]
    assert second.stat().st_mtime_ns > times[1]
    assert torch.equal(features(backbone, IMAGES, FP32, cache=tmp_path), expected)
    assert expected.shape == (10, 1280)
    assert len(list(tmp_path.iterdir())) == 3


def test_whatever_changes_the_features_has_files_of_its_own(backbone: Backbone, tmp_path: Path) -> None:
    plain = features(backbone, IMAGES, FP32, cache=tmp_path)
    mirrored = features(backbone, IMAGES, FP32, cache=tmp_path, mirrored=True)
    assert torch.equal(mirrored, features(backbone, IMAGES.flip(3), FP32))
    assert not torch.equal(plain, mirrored)
    larger = small_backbone(tmp_path / "backbone", side=48)
    assert not torch.equal(features(larger, IMAGES, FP32, cache=tmp_path), plain)
    features(replace(backbone, sha256="0" * 64), IMAGES, FP32, cache=tmp_path)
    features(backbone, IMAGES, replace(FP32, bf16=True), cache=tmp_path)
    activations(backbone, IMAGES, FP32, cache=tmp_path)
    assert len(list(tmp_path.glob("*.bin"))) == 6


@pytest.mark.usefixtures("settings_of_this_process")
def test_threads_do_not_change_the_features(backbone: Backbone) -> None:
    images = IMAGES.repeat(12, 1, 1, 1)  # more than one batch
    torch.set_num_threads(2)
    two = features(backbone, images, FP32)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    assert torch.equal(features(backbone, images, FP32), two)


def test_seconds_are_those_of_the_pass_that_computed_them(backbone: Backbone, tmp_path: Path) -> None:
    first, again = (measured(backbone, IMAGES, FP32, cache=tmp_path) for _ in range(2))
    assert first.seconds == again.seconds > 0
