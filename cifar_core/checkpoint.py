"""Checkpoints: training states in files, written atomically, hashed, and free of pickle.

A file holds weights, optimiser, generator, recipe, and batches that were drawn but not trained on, so that training
resumes from it, on a CPU with the same bits.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cifar_core.data import Splits
from cifar_core.data.data_set import DataSet
from cifar_core.errors import UserError, cause, first_line
from cifar_core.files import write_together
from cifar_core.hardware import Hardware
from cifar_core.memory import is_out_of_memory
from cifar_core.models import build_model
from cifar_core.recipe import Recipe, RecipeError
from cifar_core.training import TrainState

_KEPT = 2  # checkpoints of a run
_SUFFIX = ".safetensors"
_UNFIT = (AttributeError, LookupError, RuntimeError, TypeError, ValueError)  # what restoring another version's raises
_SUMS = ("loss_sum", "right_sum")  # since the last point of the curve


class CheckpointError(UserError):
    """A file that is damaged, missing, or of another run."""


def save_state(state: TrainState, path: Path) -> None:
    """Write `state` to `path`, and the file's SHA-256 beside it.

    Raises:
        OSError: writing failed, for example on a full disk; the older file there, or the new one, is whole.
    """
    tensors: dict[str, Tensor] = {name: getattr(state, name) for name in ("order", *_SUMS)}
    tensors["generator"] = state.generator.get_state()
    if state.ahead:
        images, labels = zip(*state.ahead, strict=True)
        tensors |= {"ahead.images": torch.cat(images), "ahead.labels": torch.cat(labels)}
    tensors |= {f"model.{name}": tensor for name, tensor in state.model.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in state.best.items()}
    tensors |= {f"average.{name}": tensor for name, tensor in state.moved_average.items()}
    optimizers = []
    for place, optimizer in enumerate(state.optimizers):
        of_optimizer, values = optimizer_state(optimizer, f"optimizer{place}.")
        optimizers.append(of_optimizer)
        tensors |= values
    facts = {
        "recipe": state.recipe.to_dict(),
        "data_set": state.data_set.to_dict(),
        "step": state.step,
        "batches": state.batches,
        "train_seconds": state.train_seconds,
        "validation_seconds": state.validation_seconds,
        "best_loss": state.best_loss if math.isfinite(state.best_loss) else None,
        "optimizers": optimizers,
    }
    write_tensors(path, facts, tensors)


def optimizer_state(optimizer: Optimizer, prefix: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the state of an optimiser: what becomes JSON, and tensors whose names begin with `prefix`."""
    values = optimizer.state_dict()
    numbers: dict[str, dict[str, Any]] = {}
    tensors: dict[str, Tensor] = {}
    for index, of_weight in values["state"].items():
        named = {f"{prefix}{index}.{name}": value for name, value in of_weight.items() if torch.is_tensor(value)}
        tensors |= named
        numbers[str(index)] = {name: value for name, value in of_weight.items() if not torch.is_tensor(value)}
    return {"numbers": numbers, "groups": values["param_groups"]}, tensors


def write_tensors(path: Path, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write tensors and `facts`, which become JSON, to `path`, and the file's SHA-256 beside it.

    Raises:
        OSError: as for `save_state`.
    """
    flat = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_state_file(path, safetensors.torch.save(flat, metadata={"state": json.dumps(facts)}))


def load_state(recipe: Recipe, path: Path, data: Splits, hardware: Hardware) -> TrainState:
    """Load the state in `path`; training resumes as if it had never stopped.

    Raises:
        CheckpointError: the file is missing or damaged, or holds a state of another recipe or version.
    """
    facts, tensors = read_tensors(path)
    if recipe_of(facts, path) != recipe:
        raise CheckpointError(f"{path}: the recipe must be the one that is trained, but this state has another one")
    if (trained := data_set_of(facts, path)).sha256 != data.train.data_set.sha256:
        raise CheckpointError(f"{path}: the data must be those that are trained on, but this state has {trained.name}")
    state = TrainState.create(recipe, data, hardware)
    with restoring(path):
        state.model.load_state_dict(under("model.", tensors))
        for place, optimizer in enumerate(state.optimizers):
            restore_optimizer(optimizer, facts["optimizers"][place], under(f"optimizer{place}.", tensors))
        try:
            state.generator.set_state(tensors["generator"])
        except RuntimeError as error:
            raise CheckpointError(f"{path}: training can only resume on the kind of device that it began on") from error
        state.order = tensors["order"].to(hardware.device)
        if ahead := under("ahead.", tensors):
            batches = (ahead[name].to(hardware.device).split(recipe.batch_size) for name in ("images", "labels"))
            state.ahead = list(zip(*batches, strict=True))
        state.step = facts["step"]
        state.batches = facts["batches"]
        state.loss_sum, state.right_sum = (tensors[name].to(hardware.device) for name in _SUMS)
        state.train_seconds, state.validation_seconds = facts["train_seconds"], facts["validation_seconds"]
        state.best_loss = math.inf if facts["best_loss"] is None else facts["best_loss"]
        state.best = under("best.", tensors)
        for name, tensor in under("average.", tensors).items():
            state.average[name].copy_(tensor)
    return state


@contextlib.contextmanager
def restoring(path: Path, what: str = "a state") -> Iterator[None]:
    """Context for restoring `what` from `path`.

    Raises:
        CheckpointError: it does not fit, as it is of another version.
    """
    try:
        yield
    except _UNFIT as error:
        if is_out_of_memory(error):
            raise
        raise CheckpointError(f"{path}: it must be {what} of this version, but: {first_line(error)}") from error


def load_weights(recipe: Recipe, path: Path) -> nn.Module:
    """Load the network of `recipe` on the CPU, with the weights in `path` that the recipe keeps.

    Raises:
        CheckpointError: the file is missing or damaged, or holds weights of another network.
    """
    facts, tensors = read_tensors(path)
    return build_network(recipe, facts, tensors, path)


def build_network(recipe: Recipe, facts: Mapping[str, Any], tensors: Mapping[str, Tensor], path: Path) -> nn.Module:
    """Build the network of `recipe` from what `read_tensors` has read from `path`.

    Raises:
        CheckpointError: they are of another network.
    """
    model = build_model(recipe, data_set=data_set_of(facts, path))
    try:
        model.load_state_dict(under("best.", tensors) or under("model.", tensors) | under("average.", tensors))
    except RuntimeError as error:
        raise CheckpointError(f"{path}: these must be weights of {recipe.model}, but others were found") from error
    return model


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """The last two checkpoints of one run in one folder, so that one may be damaged."""

    folder: Path

    def path(self, step: int) -> Path:
        """Return the file of the state after `step` optimiser steps."""
        return self.folder / f"step-{step:09d}{_SUFFIX}"

    def save(self, state: TrainState) -> None:
        """Save `state`, and delete all older ones but the newest. Later ones stay: training could not resume from them.

        Raises:
            OSError: writing failed, for example on a full disk; the older ones are untouched.
        """
        save_state(state, self.path(state.step))
        for old in [path for path in self._paths() if path <= self.path(state.step)][_KEPT:]:
            old.unlink()
            _hash_path(old).unlink(missing_ok=True)

    def load(
        self,
        recipe: Recipe,
        data: Splits,
        hardware: Hardware,
        say: Callable[[str], None] = lambda line: None,
        *,
        before: int | None = None,
    ) -> TrainState | None:
        """Load the newest undamaged state of this recipe, or return None.

        Args:
            say: called with one line for each state that cannot be used.
            before: if given, only states of earlier steps count.
        """
        self._tidy()
        for path in self._paths():
            if before is not None and path >= self.path(before):
                continue
            try:
                return load_state(recipe, path, data, hardware)
            except CheckpointError as error:
                say(str(error))
        return None

    def clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _paths(self) -> list[Path]:
        """All states, newest first."""
        return sorted(self.folder.glob(f"step-*{_SUFFIX}"), reverse=True)

    def _tidy(self) -> None:
        """Remove the remains of a process that was killed during `save`: temporary files, a hash without its state."""
        hashes = set(self.folder.glob(f"step-*{_SUFFIX}.sha256")) - {_hash_path(path) for path in self._paths()}
        for path in (*hashes, *self.folder.glob(".step-*")):
            with contextlib.suppress(OSError):  # a read-only folder only matters to `save`
                path.unlink()


def write_state_file(path: Path, content: bytes) -> None:
    """Write a state's file, and its SHA-256 beside it.

    Raises:
        OSError: writing failed, for example on a full disk; the older file there, or the new one, is whole.
    """
    # The hash is replaced first, so a state that exists is complete. Until its file is replaced too, the older counts.
    contents = [content]
    with contextlib.suppress(CheckpointError):
        contents.append(read_state_file(path))
    hashes = " ".join(hashlib.sha256(each).hexdigest() for each in contents)
    write_together({_hash_path(path): hashes.encode(), path: content})


def read_state_file(path: Path) -> bytes:
    """Read a state's file and check its SHA-256.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    try:
        content, expected = path.read_bytes(), _hash_path(path).read_text("ascii", errors="backslashreplace")
    except OSError as error:
        raise CheckpointError(f"{error.filename}: this state must be readable, but got: {cause(error)}") from error
    found = hashlib.sha256(content).hexdigest()
    if found not in expected.split():
        raise CheckpointError(f"{path}: SHA-256 must be {expected}, but got {found}")
    return content


def is_whole(path: Path) -> bool:
    """Return true if a state's file is there and undamaged."""
    try:
        read_state_file(path)
    except CheckpointError:
        return False
    return True


def read_tensors(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read what `save_state` or `write_tensors` has written.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    content = read_state_file(path)
    length = int.from_bytes(content[:8], "little")
    try:
        facts = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["state"])
        return facts, safetensors.torch.load(content)
    except (KeyError, ValueError, safetensors.SafetensorError) as error:  # for example weights alone
        raise CheckpointError(f"{path}: this must be a training state, but is none") from error


def recipe_of(facts: Mapping[str, Any], path: Path) -> Recipe:
    """Return the recipe of the state in `path`, from its facts.

    Raises:
        CheckpointError: there is none, or one of another version.
    """
    try:
        return Recipe.from_dict(facts["recipe"])
    except (KeyError, RecipeError) as error:
        raise CheckpointError(f"{path}: its recipe must be one of this version, but: {error}") from error


def data_set_of(facts: Mapping[str, Any], path: Path) -> DataSet:
    """Return the data set that the state in `path` was trained on, from its facts.

    Raises:
        CheckpointError: there is none, or one of another version.
    """
    if "data_set" not in facts:
        raise CheckpointError(f"{path}: this must name its data set, but does not")
    try:
        return DataSet.from_dict(facts["data_set"])
    except TypeError as error:
        raise CheckpointError(f"{path}: its data set must be one of this version, but: {error}") from error


def restore_optimizer(optimizer: Optimizer, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Give an optimiser the state that `optimizer_state` has returned; the names of `tensors` are without prefix."""
    # JSON has no tuples; those that change in training are set before each step.
    groups = [
        stored | {name: value for name, value in new.items() if isinstance(value, list | tuple)}
        for new, stored in zip(optimizer.state_dict()["param_groups"], facts["groups"], strict=True)
    ]
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    state: dict[int, dict[str, Any]] = {int(index): dict(values) for index, values in facts["numbers"].items()}
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        weight = weights[int(index)]
        # Keep the weight's memory layout: other strides can change the last bits of a matrix product.
        same = tensor.shape == weight.shape
        state[int(index)][key] = torch.empty_like(weight, dtype=tensor.dtype).copy_(tensor) if same else tensor
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _hash_path(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")
