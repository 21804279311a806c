"""Checkpoints: training resumes with the same bits, and damaged files are refused."""

from __future__ import annotations

import functools
import hashlib
import multiprocessing
import os
import re
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

from cifar_core.checkpoint import (
    CheckpointError,
    Checkpoints,
    data_set_of,
    load_state,
    load_weights,
    read_state_file,
    read_tensors,
    save_state,
    write_state_file,
    write_tensors,
)
from cifar_core.data import Split, Splits
from cifar_core.data.data_set import CIFAR10
from cifar_core.hardware import Hardware
from cifar_core.models import MODELS
from cifar_core.recipe import OPTIMIZERS, Recipe
from cifar_core.training import EvalSchedule, Progress, TrainState, evenly, predict, train
from tests.cifar_core.support import FP32, PRECISIONS, identical, refusal, synthetic

SMALL = Recipe(model="fast_resnet", width=0.125)
TINY_DATA, DATA = synthetic(16, 8), synthetic(64, 32)
HASH = "weights.safetensors.sha256"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """File with the state of a small network; read only."""
    path = tmp_path_factory.mktemp("saved") / "weights.safetensors"
    save_state(fresh(), path)
    return path


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder for a damaged copy of `saved`, which each test writes anew."""
    return tmp_path_factory.mktemp("changed")


def fresh() -> TrainState:
    return TrainState.create(SMALL, TINY_DATA, FP32)


def save_in_a_loop(checkpoints: Checkpoints) -> None:
    state = fresh()
    while True:
        state.step += 1
        checkpoints.save(state)


def refused(path: Path) -> str:
    return refusal(lambda: load_weights(SMALL, path), CheckpointError)


def flip(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def cut(content: bytes, bit: int) -> bytes:
    return content[: bit // 8]


def write_state(path: Path, content: bytes) -> None:
    """Write `content` with its right hash."""
    path.write_bytes(content)
    path.with_name(path.name + ".sha256").write_text(hashlib.sha256(content).hexdigest())


@pytest.mark.slow
@pytest.mark.parametrize("hardware", PRECISIONS)
@pytest.mark.parametrize("name", MODELS)
def test_predictions_are_the_same_to_the_bit(tmp_path: Path, hardware: Hardware, name: str) -> None:
    width = 0.03 if name == "dynamic_conv" else 0.25
    recipe = Recipe(model=name, width=width, epochs=1.0, batch_size=32, optimizer="adamw", learning_rate=0.01)
    state = TrainState.create(recipe, DATA, hardware)
    [last] = train(state, DATA, EvalSchedule(validations={1.0: 32}))
    assert last.validation is not None
    save_state(state, tmp_path / "weights")
    loaded = load_weights(recipe, tmp_path / "weights")
    assert identical(loaded.state_dict(), state.model.state_dict())
    again = predict(hardware.place(loaded), DATA.val, hardware)
    assert torch.equal(again.probabilities, last.validation.probabilities)


AVERAGES: Mapping[str, Any] = {
    "keep_best": False,
    "alternate_flip": True,
    "freeze_first": 0.4,
    "aux_optimizer": "sgd",
    "low_resolution": 0.4,
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "ingredients",
    [{"optimizer": optimizer} for optimizer in OPTIMIZERS]
    + [{"optimizer": "muon", "average": average, "reset_norms": True, **AVERAGES} for average in ("lookahead", "ema")],
    ids=lambda ingredients: "-".join(value for value in ingredients.values() if isinstance(value, str)),
)
@pytest.mark.parametrize("hardware", PRECISIONS)
def test_a_run_that_is_stopped_and_saved_after_any_steps_is_the_undisturbed_one(
    tmp_path: Path, hardware: Hardware, ingredients: dict[str, Any]
) -> None:
    recipe = Recipe(
        model="five_conv",
        width=0.05,
        epochs=3.0,
        batch_size=24,
        learning_rate=0.01,
        schedule="one-cycle-cosine",
        translate=4,
        cutout=8,
        mix="cutmix",
        **({"keep_best": True} | ingredients),
    )
    points = EvalSchedule(evenly(3), {0.5: 16, 1.0: 16})
    whole = TrainState.create(recipe, DATA, hardware)
    expected = [shown(point) for point in train(whole, DATA, points)]
    assert whole.total_steps == 8
    assert not whole.ahead, "the file of weights would hold images"
    for stops in (range(1, 8), (2, 5)):  # one step between two saves, or several
        state, found = TrainState.create(recipe, DATA, hardware), []
        for stop in (*stops, 8):
            found += [shown(point) for point in train(state, DATA, points, functools.partial(has_come_to, state, stop))]
            assert state.step == stop
            save_state(state, tmp_path / "state")
            kept = state.best or state.model.state_dict() | state.moved_average
            assert identical(load_weights(recipe, tmp_path / "state").state_dict(), kept)
            seconds, state = state.train_seconds, load_state(recipe, tmp_path / "state", DATA, hardware)
            assert state.train_seconds == seconds
        assert found == expected
        assert identical(state.model.state_dict(), whole.model.state_dict())
        assert identical(state.best, whole.best)
        assert identical(state.average, whole.average)
        assert torch.equal(state.generator.get_state(), whole.generator.get_state())


def has_come_to(state: TrainState, step: int) -> bool:
    return state.step == step


def shown(point: Progress) -> tuple[object, ...]:
    """The values of `point` without the seconds."""
    predictions = None if point.validation is None else point.validation.probabilities.tolist()
    return (point.step, point.epoch, point.train_loss, point.train_accuracy, point.learning_rate, predictions)


def test_the_lowest_loss_and_the_seconds_are_kept(tmp_path: Path) -> None:
    state = fresh()
    state.best_loss, state.train_seconds, state.validation_seconds = 0.5, 8.0, 7.0
    save_state(state, tmp_path / "state")
    loaded = load_state(SMALL, tmp_path / "state", TINY_DATA, FP32)
    assert (loaded.best_loss, loaded.train_seconds, loaded.validation_seconds) == (0.5, 8.0, 7.0)


def test_a_state_of_another_recipe(saved: Path) -> None:
    rule = "the recipe must be the one that is trained, but this state has another one"
    other = replace(SMALL, seed=1)
    assert refusal(lambda: load_state(other, saved, TINY_DATA, FP32), CheckpointError) == f"{saved}: {rule}"


@pytest.mark.parametrize(
    ("fact", "value", "message"),
    [
        ("recipe", {"model": "fast_resnet", "sharpness": 3}, "its recipe must be one of this version, but: unknown"),
        ("recipe", {"model": "fast_resnet", "width": -1.0}, "its recipe must be one of this version, but: "),
        ("data_set", {"name": "pets"}, "its data set must be one of this version, but: "),
    ],
)
def test_a_state_of_another_version(saved: Path, tmp_path: Path, fact: str, value: object, message: str) -> None:
    facts, tensors = read_tensors(saved)
    path = tmp_path / "other.safetensors"
    write_tensors(path, {**facts, fact: value}, tensors)
    with pytest.raises(CheckpointError, match=f"^{re.escape(f'{path}: {message}')}"):
        load_state(SMALL, path, TINY_DATA, FP32)


@pytest.mark.parametrize("lost", ["model.head.weight", "average.head.weight", "generator", "optimizers", "best_loss"])
def test_a_state_of_another_version_gives_way_to_the_one_before(tmp_path: Path, lost: str) -> None:
    recipe, checkpoints, said = replace(SMALL, average="ema"), Checkpoints(tmp_path), list[str]()
    state = TrainState.create(recipe, TINY_DATA, FP32)
    for state.step in (9, 10):
        checkpoints.save(state)
    path = checkpoints.path(10)
    facts, tensors = (
        {f"{name}.old" if name == lost else name: v for name, v in of.items()} for of in read_tensors(path)
    )
    write_tensors(path, facts | ({"optimizers": []} if lost == "optimizers" else {}), tensors)
    loaded = checkpoints.load(recipe, TINY_DATA, FP32, said.append)
    assert loaded is not None
    assert loaded.step == 9
    [line] = said
    assert line.startswith(f"{path}: it must be a state of this version, but: ")
    assert len(line.splitlines()) == 1


def test_a_state_of_another_kind_of_device(saved: Path, tmp_path: Path) -> None:
    facts, tensors = read_tensors(saved)
    path = tmp_path / "cuda.safetensors"
    write_tensors(path, facts, {**tensors, "generator": torch.zeros(16, dtype=torch.uint8)})  # as long as one of CUDA
    with pytest.raises(CheckpointError, match=r"can only resume on the kind of device that it began on$"):
        load_state(SMALL, path, TINY_DATA, FP32)


def test_a_file_that_is_replaced_is_whole_at_every_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, replace_file, seen = tmp_path / "state.safetensors", os.replace, list[bytes]()

    def step(one: Path, other: Path) -> None:
        replace_file(one, other)
        seen.append(read_state_file(path))

    write_state_file(path, b"old")
    monkeypatch.setattr(os, "replace", step)
    write_state_file(path, b"new")
    assert seen == [b"old", b"new"]


def test_weights_know_their_data_set(tmp_path: Path) -> None:
    own = replace(CIFAR10, name="flowers", classes=("rose", "tulip", "lily"), groups=(), side=48, sha256="0" * 64)
    images, labels = torch.zeros(4, 3, 48, 48, dtype=torch.uint8), torch.tensor([0, 1, 2, 0])
    split = Split(images, labels, own)
    data, path = Splits(split, split), tmp_path / "weights"
    save_state(TrainState.create(SMALL, data, FP32), path)
    assert data_set_of(read_tensors(path)[0], path) == own
    assert load_weights(SMALL, path)(torch.zeros(1, 3, 48, 48)).shape == (1, 3)
    assert predict(load_weights(SMALL, path), split, FP32).confusion().shape == (3, 3)
    load_state(SMALL, path, data, FP32)
    rule = "the data must be those that are trained on, but this state has flowers"
    assert refusal(lambda: load_state(SMALL, path, TINY_DATA, FP32), CheckpointError) == f"{path}: {rule}"


def test_a_shortage_of_memory_is_not_taken_for_another_version(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(nn.Module, "load_state_dict", short)
    with pytest.raises(torch.OutOfMemoryError):
        load_state(SMALL, saved, TINY_DATA, FP32)


@pytest.mark.parametrize("content", [b"", b"no state at all", safetensors.torch.save({"weight": torch.zeros(3)})])
def test_a_file_that_holds_no_state(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.safetensors"
    write_state(path, content)
    assert refused(path) == f"{path}: this must be a training state, but is none"


def test_weights_of_another_network(saved: Path) -> None:
    other = replace(SMALL, model="five_conv")
    message = refusal(lambda: load_weights(other, saved), CheckpointError)
    assert message == f"{saved}: these must be weights of five_conv, but others were found"


class TestCheckpoints:
    """Checkpoints of a run."""

    @pytest.fixture
    def checkpoints(self, tmp_path: Path) -> Checkpoints:
        checkpoints, state = Checkpoints(tmp_path / "run"), fresh()
        for step in (9, 10, 100):
            state.step = step
            checkpoints.save(state)
        return checkpoints

    def test_two_are_kept(self, checkpoints: Checkpoints) -> None:
        states = sorted(path.name for path in checkpoints.folder.iterdir() if path.suffix != ".sha256")
        assert states == ["step-000000010.safetensors", "step-000000100.safetensors"]
        assert len(list(checkpoints.folder.iterdir())) == 4

    def test_later_states_that_are_of_no_use_do_not_crowd_out_those_of_a_new_start(
        self, checkpoints: Checkpoints
    ) -> None:
        for path in checkpoints.folder.glob("*.safetensors"):
            path.write_bytes(b"damaged")
        state = fresh()
        for step in (3, 4, 5):
            state.step = step
            checkpoints.save(state)
        loaded = checkpoints.load(SMALL, TINY_DATA, FP32)
        assert loaded is not None
        assert loaded.step == 5
        assert not checkpoints.path(3).exists()
        assert checkpoints.path(4).exists()

    @pytest.mark.parametrize("damage", [b"", b"not a state", None])
    def test_the_one_before_stands_in_for_a_bad_one(self, checkpoints: Checkpoints, damage: bytes | None) -> None:
        newest = checkpoints.folder / "step-000000100.safetensors"
        newest.write_bytes(flip(newest.read_bytes(), 9_999) if damage is None else damage)
        said: list[str] = []
        state = checkpoints.load(SMALL, TINY_DATA, FP32, said.append)
        assert state is not None
        assert state.step == 10
        [line] = said
        assert line.startswith(f"{newest}: SHA-256 must be ")

    def test_none_is_left(self, checkpoints: Checkpoints) -> None:
        checkpoints.clear()
        assert not checkpoints.folder.exists()
        assert checkpoints.load(SMALL, TINY_DATA, FP32) is None
        checkpoints.clear()

    @pytest.mark.parametrize(("before", "step"), [(None, 100), (101, 100), (100, 10), (11, 10), (10, None)])
    def test_newest_before_a_step(self, checkpoints: Checkpoints, before: int | None, step: int | None) -> None:
        state = checkpoints.load(SMALL, TINY_DATA, FP32, before=before)
        assert (state and state.step) == step

    def test_remains_of_a_killed_process_are_removed(self, checkpoints: Checkpoints) -> None:
        before = set(checkpoints.folder.iterdir())
        for name in (".step-000000200.safetensors.123", ".step-000000200.safetensors.sha256.123"):
            (checkpoints.folder / name).write_bytes(b"half of")
        (checkpoints.folder / "step-000000200.safetensors.sha256").write_text("0" * 64)
        assert checkpoints.load(SMALL, TINY_DATA, FP32) is not None
        assert set(checkpoints.folder.iterdir()) == before

    @pytest.mark.slow
    def test_a_process_that_is_killed_while_it_saves(self, tmp_path: Path) -> None:
        """Wherever it is killed, a good state is left, and no temporary file."""
        checkpoints = Checkpoints(tmp_path / "run")
        process = multiprocessing.get_context("spawn").Process(target=save_in_a_loop, args=(checkpoints,), daemon=True)
        process.start()
        assert process.pid is not None
        while len(list(checkpoints.folder.glob("step-*.safetensors"))) < 2:
            assert process.is_alive()
            time.sleep(0.01)
        interrupted = False
        deadline = time.monotonic() + 20
        while not interrupted and time.monotonic() < deadline:
            os.kill(process.pid, signal.SIGSTOP)
            interrupted = bool(list(checkpoints.folder.glob(".step-*")))
            if not interrupted:
                os.kill(process.pid, signal.SIGCONT)
                time.sleep(0.003)
        process.kill()
        process.join()
        assert interrupted, "it was never met while it wrote"
        said: list[str] = []
        state = checkpoints.load(SMALL, TINY_DATA, FP32, said.append)
        assert state is not None
        assert said == []
        names = {path.name for path in checkpoints.folder.iterdir()}
        states = {name for name in names if name.endswith(".safetensors")}
        assert f"step-{state.step:09d}.safetensors" in states
        assert names == states | {name + ".sha256" for name in states}


@given(share=st.floats(0, 1, exclude_max=True), file=st.sampled_from([0, 1]), damage=st.sampled_from([flip, cut]))
@example(share=0.0, file=0, damage=cut)
@example(share=0.0, file=1, damage=cut)
def test_damage(saved: Path, changed: Path, share: float, file: int, damage: Callable[[bytes, int], bytes]) -> None:
    contents = [saved.read_bytes(), saved.with_name(HASH).read_bytes()]
    contents[file] = damage(contents[file], int(share * 8 * len(contents[file])))
    path = changed / saved.name
    path.write_bytes(contents[0])
    (changed / HASH).write_bytes(contents[1])
    expected = contents[1].decode("ascii", errors="backslashreplace")
    assert refused(path) == f"{path}: SHA-256 must be {expected}, but got {hashlib.sha256(contents[0]).hexdigest()}"


def test_missing_files(saved: Path, tmp_path: Path) -> None:
    path, rule = tmp_path / saved.name, "this state must be readable, but got"
    assert refused(path) == f"{path}: {rule}: No such file or directory"
    path.write_bytes(saved.read_bytes())
    assert refused(path) == f"{tmp_path / HASH}: {rule}: No such file or directory"
    assert refused(tmp_path) == f"{tmp_path}: {rule}: Is a directory"


def test_weights_hold_no_code(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("weights must be read without pickle")

    for name in ("pickle.loads", "pickle.load", "pickle.Unpickler", "torch.load"):
        monkeypatch.setattr(name, refuse)
    assert isinstance(load_weights(SMALL, saved), nn.Module)
