"""Checkpoints: training resumes with the same bits, and damaged files are refused."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cifar_core.checkpoint import (
    CheckpointError,
    Checkpoints,
    load_state,
    load_weights,
    save_state,
)
from cifar_core.data import Splits, synthetic_splits
from cifar_core.hardware import Hardware
from cifar_core.models import MODELS
from cifar_core.recipe import OPTIMIZERS, Recipe
from cifar_core.training import EvalSchedule, Progress, TrainState, evenly, predict, train

SMALL = Recipe(model="fast_resnet", width=0.125)
CPU = Hardware(torch.device("cpu"), bf16=False)
HASH = "weights.safetensors.sha256"

HALTED_DATA = synthetic_splits(torch.Generator().manual_seed(0), train=64, val=16)
HALTED = EvalSchedule(evenly(3), (0.5, 1.0), (16, 16))

SAVE_IN_A_LOOP = """
import sys
from pathlib import Path
import torch
from cifar_core.checkpoint import Checkpoints
from cifar_core.data import synthetic_splits
from cifar_core.hardware import Hardware
from cifar_core.recipe import Recipe
from cifar_core.training import TrainState

data = synthetic_splits(torch.Generator().manual_seed(0), train=16, val=8)
recipe = Recipe(model="fast_resnet", width=0.125)
state = TrainState.create(recipe, data, Hardware(torch.device("cpu"), bf16=False))
checkpoints = Checkpoints(Path(sys.argv[1]))
while True:
    state.step += 1
    checkpoints.save(state)
    if state.step == 2:
        print("saving", flush=True)
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """File with the state of a small network; read only."""
    path = tmp_path_factory.mktemp("saved") / "weights.safetensors"
    save_state(fresh(SMALL), path)
    return path


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder for a damaged copy of `saved`, which each test writes anew."""
    return tmp_path_factory.mktemp("changed")


def fresh(recipe: Recipe) -> TrainState:
    return TrainState.create(recipe, synthetic_splits(torch.Generator().manual_seed(0), train=16, val=8), CPU)


def refusal(path: Path) -> str:
    """Return the message of the CheckpointError, which has one line."""
    with pytest.raises(CheckpointError) as error:
        load_weights(SMALL, path)
    message = str(error.value)
    assert len(message.splitlines()) == 1
    return message


def spoil(saved: Path, folder: Path, weights: bytes | None = None, digest: bytes | None = None) -> Path:
    """Copy `saved` with other bytes in one of its two files."""
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
    width = 0.03 if name == "dynamic_conv" else 0.25
    recipe = Recipe(model=name, width=width, epochs=1.0, batch_size=32, optimizer="adamw", learning_rate=0.01)
    state = TrainState.create(recipe, data, hardware)
    [last] = train(state, data, EvalSchedule((), (1.0,), (32,)))
    assert last.validation is not None
    save_state(state, tmp_path / "weights")
    loaded = load_weights(recipe, tmp_path / "weights")
    expected = state.model.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in loaded.state_dict().items())
    again = predict(hardware.place(loaded), data.val, hardware)
    assert torch.equal(again.probabilities, last.validation.probabilities)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("hardware", [Hardware(torch.device("cpu"), bf16=False), Hardware.detect("cpu")])
def test_a_saved_state_resumes_with_the_same_bits(tmp_path: Path, hardware: Hardware, optimizer: str) -> None:
    data = synthetic_splits(torch.Generator().manual_seed(0), train=64, val=32)
    recipe = Recipe(
        model="five_conv",
        width=0.05,
        epochs=3.0,
        batch_size=24,
        optimizer=optimizer,
        learning_rate=0.01,
        schedule="one-cycle-cosine",
        translate=4,
        cutout=8,
        mix="mixup",
        keep_best=True,
    )
    watch = EvalSchedule(evenly(4), evenly(4), (32,) * 4)
    whole = TrainState.create(recipe, data, hardware)
    expected = list(train(whole, data, watch))
    for stop in (1, 3):
        state = TrainState.create(recipe, data, hardware)
        points = list(itertools.islice(train(state, data, watch), stop))
        save_state(state, tmp_path / "state")
        resumed = load_state(recipe, tmp_path / "state", data, hardware)
        assert (resumed.step, resumed.train_seconds) == (state.step, state.train_seconds)
        points += train(resumed, data, watch)
        assert [point.train_loss for point in points] == [point.train_loss for point in expected]
        assert all(
            torch.equal(one, other)
            for one, other in zip(resumed.model.state_dict().values(), whole.model.state_dict().values(), strict=True)
        )


@given(
    stops=st.sets(st.integers(1, 7)),
    optimizer=st.sampled_from(OPTIMIZERS),
    hardware=st.sampled_from([Hardware(torch.device("cpu"), bf16=False), Hardware.detect("cpu")]),
)
@settings(max_examples=20)
def test_a_run_that_is_stopped_and_saved_after_any_steps_is_the_undisturbed_one(
    changed: Path, stops: set[int], optimizer: str, hardware: Hardware
) -> None:
    recipe = Recipe(
        model="five_conv",
        width=0.05,
        epochs=3.0,
        batch_size=24,
        optimizer=optimizer,
        learning_rate=0.01,
        translate=4,
        mix="cutmix",
        keep_best=True,
    )
    whole, expected = undisturbed(recipe, hardware)
    state = TrainState.create(recipe, HALTED_DATA, hardware)
    points: list[Progress] = []
    for stop in [*sorted(stops), 8]:
        points += train(state, HALTED_DATA, HALTED, functools.partial(has_come_to, state, stop))
        assert state.step == stop
        if stop < 8:
            seconds = state.train_seconds
            save_state(state, changed / "stopped")
            state = load_state(recipe, changed / "stopped", HALTED_DATA, hardware)
            assert state.train_seconds == seconds
    assert state.total_steps == 8
    assert [shown(point) for point in points] == expected
    weights = whole.model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in state.model.state_dict().items())
    assert torch.equal(state.generator.get_state(), whole.generator.get_state())


@functools.cache
def undisturbed(recipe: Recipe, hardware: Hardware) -> tuple[TrainState, list[tuple[object, ...]]]:
    """State and points of an uninterrupted run."""
    state = TrainState.create(recipe, HALTED_DATA, hardware)
    return state, [shown(point) for point in train(state, HALTED_DATA, HALTED)]


def has_come_to(state: TrainState, step: int) -> bool:
    return state.step == step


def shown(point: Progress) -> tuple[object, ...]:
    """The values of `point` without the seconds."""
    predictions = None if point.validation is None else point.validation.probabilities.tolist()
    return (point.step, point.epoch, point.train_loss, point.train_accuracy, point.learning_rate, predictions)


def test_a_state_of_an_earlier_version_has_no_sums(tmp_path: Path) -> None:
    """Such a state was saved at a point of the curve, where the sums are zero."""
    data = synthetic_splits(torch.Generator().manual_seed(0), train=64, val=8)
    path = tmp_path / "state"
    watch = EvalSchedule(evenly(4), (), ())
    recipe = replace(SMALL, epochs=4.0, batch_size=32)
    state = TrainState.create(recipe, data, CPU)
    points = train(state, data, watch)
    next(points)
    save_state(state, path)
    expected = [shown(point) for point in points]
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    facts = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["state"])
    del facts["batches"]
    tensors = {
        name: value for name, value in safetensors.torch.load(content).items() if name not in ("loss_sum", "right_sum")
    }
    content = safetensors.torch.save(tensors, metadata={"state": json.dumps(facts)})
    path.write_bytes(content)
    path.with_name("state.sha256").write_text(hashlib.sha256(content).hexdigest())
    rest = train(load_state(recipe, path, data, CPU), data, watch)
    assert [shown(point) for point in rest] == expected


def test_a_state_of_another_recipe(tmp_path: Path) -> None:
    data = synthetic_splits(torch.Generator().manual_seed(0), train=16, val=8)
    save_state(fresh(SMALL), tmp_path / "state")
    with pytest.raises(CheckpointError) as error:
        load_state(replace(SMALL, seed=1), tmp_path / "state", data, CPU)
    rule = "the recipe must be the one that is trained, but this state has another one"
    assert str(error.value) == f"{tmp_path / 'state'}: {rule}"


def test_a_file_that_holds_no_state(tmp_path: Path) -> None:
    for content in (b"", b"no state at all", safetensors.torch.save({"weight": torch.zeros(3)})):
        (tmp_path / "weights.safetensors").write_bytes(content)
        (tmp_path / HASH).write_text(hashlib.sha256(content).hexdigest())
        path = tmp_path / "weights.safetensors"
        assert refusal(path) == f"{path}: this must be a training state, but is none"


def test_weights_of_another_network(saved: Path) -> None:
    with pytest.raises(CheckpointError) as error:
        load_weights(replace(SMALL, model="five_conv"), saved)
    assert str(error.value) == f"{saved}: these must be weights of five_conv, but others were found"


class TestCheckpoints:
    """Checkpoints of a run."""

    @pytest.fixture
    def data(self) -> Splits:
        return synthetic_splits(torch.Generator().manual_seed(0), train=16, val=8)

    @pytest.fixture
    def checkpoints(self, tmp_path: Path) -> Checkpoints:
        checkpoints, state = Checkpoints(tmp_path / "run"), fresh(SMALL)
        for step in (9, 10, 100):
            state.step = step
            checkpoints.save(state)
        return checkpoints

    def test_two_are_kept_and_the_newest_is_loaded(self, checkpoints: Checkpoints, data: Splits) -> None:
        states = sorted(path.name for path in checkpoints.folder.iterdir() if path.suffix != ".sha256")
        assert states == ["step-000000010.safetensors", "step-000000100.safetensors"]
        assert len(list(checkpoints.folder.iterdir())) == 4
        state = checkpoints.load(SMALL, data, CPU)
        assert state is not None
        assert state.step == 100

    @pytest.mark.parametrize("damage", [b"", b"not a state", None])
    def test_the_one_before_stands_in_for_a_bad_one(
        self, checkpoints: Checkpoints, data: Splits, damage: bytes | None
    ) -> None:
        newest = checkpoints.folder / "step-000000100.safetensors"
        newest.write_bytes(flip(newest.read_bytes(), 9_999) if damage is None else damage)
        said: list[str] = []
        state = checkpoints.load(SMALL, data, CPU, said.append)
        assert state is not None
        assert state.step == 10
        [line] = said
        assert line.startswith(f"{newest}: SHA-256 must be ")

    def test_none_is_left(self, checkpoints: Checkpoints, data: Splits) -> None:
        checkpoints.clear()
        assert not checkpoints.folder.exists()
        assert checkpoints.load(SMALL, data, CPU) is None
        checkpoints.clear()

    @pytest.mark.parametrize(("before", "step"), [(101, 100), (100, 10), (11, 10), (10, None)])
    def test_only_those_before_a_step(
        self, checkpoints: Checkpoints, data: Splits, before: int, step: int | None
    ) -> None:
        state = checkpoints.load(SMALL, data, CPU, before=before)
        assert (state and state.step) == step

    def test_remains_of_a_killed_process_are_removed(self, checkpoints: Checkpoints, data: Splits) -> None:
        before = set(checkpoints.folder.iterdir())
        for name in (".step-000000200.safetensors.123", ".step-000000200.safetensors.sha256.123"):
            (checkpoints.folder / name).write_bytes(b"half of")
        (checkpoints.folder / "step-000000200.safetensors.sha256").write_text("0" * 64)
        assert checkpoints.load(SMALL, data, CPU) is not None
        assert set(checkpoints.folder.iterdir()) == before

    def test_a_process_that_is_killed_while_it_saves(self, tmp_path: Path, data: Splits) -> None:
        """Wherever it is killed, a good state is left, and no temporary file."""
        script = tmp_path / "save.py"
        script.write_text(SAVE_IN_A_LOOP)
        checkpoints = Checkpoints(tmp_path / "run")
        with subprocess.Popen([sys.executable, script, checkpoints.folder], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            interrupted = 0
            deadline = time.monotonic() + 20
            while not interrupted and time.monotonic() < deadline:
                process.send_signal(signal.SIGSTOP)
                interrupted = len(list(checkpoints.folder.glob(".step-*")))
                if not interrupted:
                    process.send_signal(signal.SIGCONT)
                    time.sleep(0.003)
            process.kill()
        assert interrupted, "it was never met while it wrote"
        said: list[str] = []
        state = checkpoints.load(SMALL, data, CPU, said.append)
        assert state is not None
        assert said == []
        names = {path.name for path in checkpoints.folder.iterdir()}
        states = {name for name in names if name.endswith(".safetensors")}
        assert f"step-{state.step:09d}.safetensors" in states
        assert names == states | {name + ".sha256" for name in states}

    def test_those_of_another_recipe_do_not_count(self, checkpoints: Checkpoints, data: Splits) -> None:
        assert checkpoints.load(replace(SMALL, seed=1), data, CPU) is None


def test_only_two_files_are_left_in_a_folder_that_is_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "weights.safetensors"
    for _ in range(2):
        save_state(fresh(SMALL), path)
        assert sorted(entry.name for entry in path.parent.iterdir()) == [path.name, HASH]


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


def test_weights_hold_no_code(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("weights must be read without pickle")

    for name in ("pickle.loads", "pickle.load", "pickle.Unpickler", "torch.load"):
        monkeypatch.setattr(name, refuse)
    assert isinstance(load_weights(SMALL, saved), nn.Module)
