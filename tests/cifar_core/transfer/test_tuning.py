"""Fine-tuning of the last blocks: it learns, keeps what it shall, and resumes with the same bits."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor

from cifar_core.budget import Budget
from cifar_core.checkpoint import CheckpointError, read_tensors, write_tensors
from cifar_core.hardware import Hardware
from cifar_core.training import Progress
from cifar_core.transfer import tuning
from cifar_core.transfer.adapted import flops_per_image
from cifar_core.transfer.backbone import Backbone, FeatureNetwork
from cifar_core.transfer.features import activations, compute, features
from cifar_core.transfer.head import HeadRecipe, fit
from cifar_core.transfer.tuning import Tuning, TuningRecipe, tune, tuning_flops
from tests.cifar_core.support import FP32, synthetic

DATA = synthetic(32, 16)
RECIPE = TuningRecipe(
    epochs=3, batch_size=8, learning_rate=1e-5
)  # the weights are random, so a larger rate only does harm


def start(backbone: Backbone, recipe: TuningRecipe = RECIPE, hardware: Hardware = FP32) -> Tuning:
    views = [features(backbone, DATA.train.images, FP32, mirrored=mirrored).values for mirrored in (False, True)]
    return Tuning.create(backbone, fit(views, DATA.train.labels, HeadRecipe(), classes=10), recipe, hardware)


def run(state: Tuning, backbone: Backbone, stop: Callable[[], bool] = lambda: False) -> list[Progress]:
    views = [activations(backbone, DATA.train.images, FP32, mirrored=mirrored).values for mirrored in (False, True)]
    below = activations(backbone, DATA.val.images, FP32).values
    return list(tune(state, views, DATA.train, below, DATA.val, FP32, stop))


def weights(state: Tuning) -> dict[str, Tensor]:
    return {**state.network.state_dict(), **state.head.state_dict()}


def test_it_learns_and_keeps_the_lower_blocks_and_the_filters_of_single_channels(backbone: Backbone) -> None:
    before = {name: value.clone() for name, value in backbone.network.state_dict().items()}
    state = start(backbone, replace(RECIPE, mix_alpha=0.0, label_smoothing=0.0))
    below = activations(backbone, DATA.train.images, FP32).values
    losses = [state.head.predict(compute(state.upper, below, FP32), DATA.train).loss]
    points = run(state, backbone)
    losses.append(state.head.predict(compute(state.upper, below, FP32), DATA.train).loss)
    assert losses[1] < losses[0]
    assert (points[-1].step, points[-1].epoch, points[-1].learning_rate < 1e-6) == (12, 3, True)
    assert sum(point.val_accuracy is not None for point in points) == 8
    changed = {name for name, value in state.network.state_dict().items() if not torch.equal(value, before[name])}
    trained = {f"body.blocks.{number}.{kind}" for number in range(8, 16) for kind in ("expand_conv", "project_conv")}
    assert {name.rpartition(".")[0] for name in changed} == {*trained, "body.conv_head"}
    assert all(torch.equal(value, before[name]) for name, value in backbone.network.state_dict().items())


def test_a_saved_state_resumes_with_the_same_bits(backbone: Backbone, tmp_path: Path) -> None:
    path, whole = tmp_path / "state.safetensors", start(backbone)
    expected = run(whole, backbone)
    first, asked = start(backbone), iter([False] * 4 + [True])
    stopped = run(first, backbone, lambda: next(asked))
    assert stopped[-1].step == 5
    first.save(path)
    second = start(backbone)
    second.load(tmp_path / "nothing.safetensors")
    second.load(path)
    assert [point.train_loss for point in run(second, backbone)] == [point.train_loss for point in expected[5:]]
    assert all(torch.equal(value, weights(second)[name]) for name, value in weights(whole).items())
    other = start(backbone, replace(RECIPE, epochs=4))
    with pytest.raises(CheckpointError, match=r"it must have the recipe .*'epochs': 4.*but has .*'epochs': 3"):
        other.load(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="SHA-256 must be"):
        other.load(path)


def test_a_state_of_another_version_is_refused(backbone: Backbone, tmp_path: Path) -> None:
    path, state = tmp_path / "state.safetensors", start(backbone)
    state.save(path)
    facts, tensors = read_tensors(path)
    for lost in ("head.linear.bias", "order", "generator"):
        write_tensors(path, facts, {name: value for name, value in tensors.items() if name != lost})
        with pytest.raises(CheckpointError, match=r"state\.safetensors: it must be a state of this version, but: "):
            state.load(path)


ONE = replace(RECIPE, epochs=0.25, mix_alpha=0.0)  # one step


def first_loss(backbone: Backbone, recipe: TuningRecipe) -> float:
    return run(start(backbone, recipe), backbone)[0].train_loss


def test_labels_are_mixed_as_the_activations_are(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "beta", lambda *_: torch.tensor(0.0))  # all of the other image
    assert first_loss(backbone, replace(ONE, mix_alpha=1.0)) == pytest.approx(first_loss(backbone, ONE), rel=1e-4)


def test_labels_are_smoothed(backbone: Backbone) -> None:
    assert first_loss(backbone, replace(ONE, label_smoothing=0.0)) < first_loss(backbone, ONE) - 0.01


def test_mirror_images_are_trained_on(backbone: Backbone) -> None:
    below = activations(backbone, DATA.train.images, FP32).values
    [one], [other] = (
        list(tune(start(backbone, ONE), [below, mirrored], DATA.train, below[:16], DATA.val, FP32))
        for mirrored in (below, torch.zeros_like(below))
    )
    assert one.train_loss != other.train_loss


def test_threads_that_start_after_an_error_compute_with_as_many_as_before(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch, settings_of_this_process: None
) -> None:
    torch.set_num_threads(2)
    state = start(backbone)
    monkeypatch.setattr("torch.nn.functional.cross_entropy", Mock(side_effect=RuntimeError("no room")))
    with pytest.raises(RuntimeError, match="no room"):
        run(state, backbone)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype feature")
def test_no_step_waits_for_the_gpu(backbone: Backbone) -> None:
    gpu = Hardware(torch.device("cuda"), bf16=False)
    state = start(backbone, replace(RECIPE, epochs=24), gpu)  # 96 steps: each second one is at no point
    below = activations(backbone, DATA.train.images, FP32).values

    def stop() -> bool:
        torch.cuda.set_sync_debug_mode("default")
        return False

    try:
        for _ in tune(state, [below, below], DATA.train, below[:16], DATA.val, gpu, stop):
            torch.cuda.set_sync_debug_mode("error")
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert state.step == 96


def test_features_from_activations_are_those_of_the_whole_network(backbone: Backbone) -> None:
    for mirrored in (False, True):
        lower = activations(backbone, DATA.val.images, FP32, mirrored=mirrored)
        expected = features(backbone, DATA.val.images, FP32, mirrored=mirrored).values
        found = features(backbone, DATA.val.images, FP32, mirrored=mirrored, lower=lower)
        assert torch.equal(found.values, expected), "so that it does not matter what is in the cache"
        assert found.seconds > lower.seconds


def test_the_budget_sets_the_epochs(backbone: Backbone) -> None:
    of_image = tuning_flops(backbone)
    assert 1.2 * flops_per_image(backbone) < of_image < 2.1 * flops_per_image(backbone)
    pays = TuningRecipe.within(Budget(flops=25.0 * of_image * 1000, max_epochs=50), backbone, 1000, seed=1)
    assert pays.epochs == pytest.approx(0.23 * 25)
    assert (pays.steps(1000), pays.seed) == (45, 1)
    most = TuningRecipe.within(Budget(flops=1e15, max_epochs=50), backbone, 100, seed=1)
    assert (most.epochs, most.batch_size) == (12, 100)
    assert TuningRecipe.within(Budget(flops=None, max_epochs=3), backbone, 100, seed=1).epochs == 3


def test_a_resnet_is_cut_before_its_last_stage() -> None:
    network = FeatureNetwork("resnet18").eval()
    network.side = 32
    lower, upper = network.halves()
    images = DATA.val.images[:2].float() / 127.5 - 1
    torch.testing.assert_close(upper(lower(images)), network(images))
