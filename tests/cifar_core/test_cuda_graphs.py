"""CUDA graphs of training passes; all but the first test need a GPU."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from cifar_core import cuda_graphs
from cifar_core.data import Splits
from cifar_core.errors import OutOfMemory
from cifar_core.hardware import Hardware
from cifar_core.memory import release_memory
from cifar_core.models import build_model
from cifar_core.optim import schedule
from cifar_core.recipe import Recipe
from cifar_core.training import TrainState, train_step
from tests.cifar_core.support import FP32, synthetic, weights

RECIPE = Recipe(model="fast_resnet", width=0.125, batch_size=32, epochs=4.0, optimizer="muon", learning_rate=0.1)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def trained(recipe: Recipe, data: Splits, steps: int = 4) -> TrainState:
    torch.backends.cudnn.allow_tf32 = False  # it is exact enough for training, but not to compare
    state = TrainState.create(recipe, data, Hardware(torch.device("cuda"), bf16=False))
    images, labels = data.train.images.cuda(), data.train.labels.cuda()
    for _ in range(steps):
        train_step(state, images, labels, schedule(recipe, state.step / state.total_steps))
    return state


def test_a_cpu_runs_the_network_itself() -> None:
    model = build_model(RECIPE, torch.rand(8, 3, 32, 32))
    assert cuda_graphs.forward_of(model, (8, 3, 32, 32), FP32) is model


@needs_gpu
@pytest.mark.parametrize("changes", [{}, {"freeze_first": 0.1}, {"low_resolution": 0.125, "freeze_first": 0.1}])
def test_graphs_train_like_the_network_itself(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    # Not with Muon, whose bf16 products make much of a last bit; the rate begins at 0, where no layer learns.
    recipe = replace(RECIPE, optimizer="sgd", learning_rate=0.01, **changes)
    data = synthetic(128, 32)
    graphed = trained(recipe, data)
    assert graphed.forward is not graphed.model
    monkeypatch.setattr(cuda_graphs, "forward_of", lambda model, *_: model)
    plain = trained(recipe, data)
    for name, value in weights(graphed.model).items():
        assert torch.allclose(value, weights(plain.model)[name], atol=1e-4, rtol=1e-3), name


@needs_gpu
def test_a_graphed_network_is_evaluated_and_copied_as_before() -> None:
    state = trained(RECIPE, synthetic(128, 32))
    images = torch.rand(5, 3, 32, 32, device="cuda")
    again = build_model(RECIPE, images).cuda()
    again.load_state_dict(state.model.state_dict())
    assert torch.allclose(state.model.eval()(images), again.eval()(images), atol=1e-5)


@needs_gpu
def test_dropout_draws_from_the_generator_of_the_run() -> None:
    state = trained(replace(RECIPE, model="five_conv", optimizer="sgd"), synthetic(128, 32))
    assert state.forward is state.model


@needs_gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype feature")
@pytest.mark.parametrize("average", ["none", "ema", "lookahead"])
def test_no_step_waits_for_the_gpu(average: str) -> None:
    recipe = replace(RECIPE, average=average, color_jitter=0.2, cutout=8, mix="cutmix", clip_norm=1.0, epochs=8.0)
    data = synthetic(128, 32)
    state = trained(recipe, data, steps=6)  # sets up kernels
    images, labels = data.train.images.cuda(), data.train.labels.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(6):
            train_step(state, images, labels, schedule(recipe, state.step / state.total_steps))
    finally:
        torch.cuda.set_sync_debug_mode("default")


@needs_gpu
@pytest.mark.parametrize("model", ["fast_resnet", "five_conv"])  # with and without graphs
def test_a_batch_that_does_not_fit_is_one_line_and_the_next_run_goes_on(model: str) -> None:
    data = synthetic(128, 32)
    torch.cuda.set_per_process_memory_fraction(0.01)
    try:
        with pytest.raises(OutOfMemory, match=r"^out of memory: a batch of 16384 images did not fit beside"):
            trained(Recipe(model=model, batch_size=16384, epochs=512.0), data)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        release_memory()
    assert trained(RECIPE, data).step == 4
