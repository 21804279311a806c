"""Weights in files: written atomically, hashed, and free of pickle."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import safetensors.torch
from torch import nn

from cifar_core.models import build_model
from cifar_core.recipe import Recipe


class CheckpointError(Exception):
    """A file that is not what was written; the message is one line."""


def save_weights(model: nn.Module, path: Path) -> None:
    """Write the weights and buffers of `model` to `path`, and their SHA-256 beside it."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    content = safetensors.torch.save(tensors)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)
    write_atomically(_hash_path(path), hashlib.sha256(content).hexdigest().encode())


def load_weights(recipe: Recipe, path: Path) -> nn.Module:
    """The network of `recipe`, on the CPU, with the weights in `path`.

    Raises:
        CheckpointError: the file is missing, or is not the one that was written.
    """
    try:
        content, expected = path.read_bytes(), _hash_path(path).read_text("ascii", errors="backslashreplace")
    except OSError as error:
        raise CheckpointError(f"{error.filename}: these weights must be readable, but got: {error.strerror}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise CheckpointError(f"{path}: SHA-256 must be {expected}, but got {found}")
    model = build_model(recipe)
    model.load_state_dict(safetensors.torch.load(content))
    return model


def write_atomically(path: Path, content: bytes) -> None:
    """Replace `path` by `content` so that after a crash it holds either the old bytes or all of the new ones."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _hash_path(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")
