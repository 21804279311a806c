"""Stores with finished studies, whose champions are networks that no step has trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from cifar_core.checkpoint import save_state
from cifar_core.data.data_set import CIFAR10
from cifar_core.recipe import Recipe
from cifar_core.training import TrainState
from sweeps.store import Store
from sweeps.tracking.tracker import MlflowTracker, RunLabel
from tests.sweeps.small_data import CPU, small_splits
from tests.sweeps.support import outcome

RECIPE = Recipe(model="fast_resnet", width=0.125, normalisation="half")
KEY = "final-3-0"  # of the champion


def numbers(study: str, accuracy: float) -> dict[str, str]:
    """Return the tags of a champion's version."""
    accuracies = {"val_accuracy": f"{accuracy:.4f}", "test_accuracy": "0.7900"}
    return {"data": "CIFAR-10", "side": "32", "study": study, "trial": "3", "architecture": RECIPE.model, **accuracies}


def finish(store: Store, study: str, accuracy: float, *, data: Mapping[str, str] = {}) -> TrainState:
    """Record a study with that validation accuracy; return the state of its champion.

    Args:
        data: tags of its runs and its version, for other data than CIFAR-10.
    """
    state = TrainState.create(replace(RECIPE, seed=len(study)), small_splits(16, 8), CPU)
    weights = store.weights(study, KEY)
    save_state(state, weights)
    tracker = MlflowTracker(store, study)
    tracker.open_study(RunLabel(key="study", name=study, tags={"stage": "study"}, params={}))
    for stage in ("confirm", "final"):
        key = f"{stage}-3-0"
        tags = {"study": study, "stage": stage, "source_trial": "3", "seed": "0", "trial": key}
        tags |= {"data_sha256": CIFAR10.sha256, **data}
        files = {"recipe.toml": RECIPE.to_toml().encode()}
        tracker.begin(RunLabel(key=key, name=f"{stage} 3/0", tags=tags, params=RECIPE.to_dict(), files=files))
        tracker.end(key, "complete", metrics={"val/accuracy": accuracy} if stage == "confirm" else {})
    tracker.tested(KEY, outcome(0.79))
    tracker.register(KEY, weights, {**numbers(study, accuracy), **data})
    assert tracker.close(60) == 0
    return state
