"""Weights in files: the same network comes back, and nothing else ever does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cifar_core.checkpoint import CheckpointError, load_weights, save_state, write_atomically
from cifar_core.data import synthetic_splits
from cifar_core.hardware import Hardware
from cifar_core.models import MODELS
from cifar_core.recipe import Recipe
from cifar_core.training import TrainState, Watch, predict, train

SMALL = Recipe(model="fast_resnet", width=0.125)
CPU = Hardware(torch.device("cpu"), bf16=False)
HASH = "weights.safetensors.sha256"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file with the weights of a small network; only to be read."""
    path = tmp_path_factory.mktemp("saved") / "weights.safetensors"
    save_state(fresh(SMALL), path)
    return path


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for a spoilt copy of `saved`, which every test writes whole."""
    return tmp_path_factory.mktemp("changed")


def fresh(recipe: Recipe) -> TrainState:
    return TrainState.create(recipe, synthetic_splits(torch.Generator().manual_seed(0), train=16, val=8), CPU)


def refusal(path: Path) -> str:
    """The message of the CheckpointError that must come; one line."""
    with pytest.raises(CheckpointError) as error:
        load_weights(SMALL, path)
    message = str(error.value)
    assert len(message.splitlines()) == 1
    return message


def spoil(saved: Path, folder: Path, weights: bytes | None = None, digest: bytes | None = None) -> Path:
    """A copy of `saved` with other bytes in one of its two files."""
    path = folder / saved.name
    path.write_bytes(saved.read_bytes() if weights is None else weights)
    (folder / HASH).write_bytes(saved.with_name(HASH).read_bytes() if digest is None else digest)
    return path


def flip(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@pytest.mark.parametrize("hardware", [Hardware(torch.device("cpu"), bf16=False), Hardware.detect("cpu")])
@pytest.mark.parametrize("name", MODELS)
def test_predictions_are_the_same_to_the_bit(tmp_path: Path, hardware: Hardware, name: str) -> None:
    data = synthetic_splits(torch.Generator().manual_seed(0), train=64, val=32)
    recipe = Recipe(model=name, width=0.25, epochs=1.0, batch_size=32, optimizer="adamw", learning_rate=0.01)
    state = TrainState.create(recipe, data, hardware)
    [last] = train(state, data, Watch((), (1.0,), (32,)))
    assert last.validation is not None
    save_state(state, tmp_path / "weights")
    loaded = load_weights(recipe, tmp_path / "weights")
    expected = state.model.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in loaded.state_dict().items())
    again = predict(hardware.place(loaded), data.val, hardware)
    assert torch.equal(again.probabilities, last.validation.probabilities)


def test_only_two_files_are_left_in_a_folder_that_is_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "weights.safetensors"
    for _ in range(2):
        save_state(fresh(SMALL), path)
        assert sorted(entry.name for entry in path.parent.iterdir()) == [path.name, HASH]


def test_newer_weights_take_the_place_of_older_ones(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    for seed in (1, 2):
        recipe = Recipe(model="five_conv", width=0.05, seed=seed)
        save_state(fresh(recipe), path)
        expected, found = fresh(recipe).model.state_dict(), load_weights(recipe, path).state_dict()
        assert all(torch.equal(found[key], expected[key]) for key in expected)


@given(share=st.floats(0, 1))
def test_flipped_bit_in_the_weights(saved: Path, changed: Path, share: float) -> None:
    content = saved.read_bytes()
    bit = min(int(share * 8 * len(content)), 8 * len(content) - 1)
    path = spoil(saved, changed, weights=flip(content, bit))
    right = saved.with_name(HASH).read_text()
    assert refusal(path).startswith(f"{path}: SHA-256 must be {right}, but got ")


@pytest.mark.parametrize("bit", range(0, 512, 37))
def test_flipped_bit_in_the_hash(saved: Path, changed: Path, bit: int) -> None:
    path = spoil(saved, changed, digest=flip(saved.with_name(HASH).read_bytes(), bit))
    right = saved.with_name(HASH).read_text()
    message = refusal(path)
    assert message.startswith(f"{path}: SHA-256 must be ")
    assert message.endswith(f", but got {right}")


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.999])
def test_truncated_weights(saved: Path, changed: Path, kept: float) -> None:
    content = saved.read_bytes()
    path = spoil(saved, changed, weights=content[: int(kept * len(content))])
    assert ": SHA-256 must be " in refusal(path)


def test_missing_files(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / saved.name
    assert refusal(path) == f"{path}: this state must be readable, but got: No such file or directory"
    path.write_bytes(saved.read_bytes())
    assert refusal(path) == f"{tmp_path / HASH}: this state must be readable, but got: No such file or directory"


def test_folder_in_place_of_the_weights(saved: Path) -> None:
    assert refusal(saved.parent).endswith(": this state must be readable, but got: Is a directory")


def test_old_content_stays_and_no_temporary_file_when_writing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("file", b"old")]


def test_folder_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        write_atomically(tmp_path / "folder", b"new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


def test_weights_hold_no_code(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("weights must be read without pickle")

    for name in ("pickle.loads", "pickle.load", "pickle.Unpickler", "torch.load"):
        monkeypatch.setattr(name, refuse)
    assert isinstance(load_weights(SMALL, saved), nn.Module)
