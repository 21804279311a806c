"""Names and descriptions of runs: what they say, and where their links lead."""

from __future__ import annotations

import pytest

from cifar_core.recipe import Recipe
from sweeps.tracking.notes import link, run_name, run_note, study_note

RECIPE = Recipe(model="wide_resnet", optimizer="muon", batch_size=256)
COSTS = {"cost/seconds": 95.0, "cost/training_flops": 1.2e13, "cost/epochs": 0.412, "cost/images_per_second": 1234.5}


@pytest.mark.parametrize(
    ("tags", "accuracy", "name"),
    [
        ({"stage": "search", "trial": "12"}, None, "#12 wide_resnet muon bs 256"),
        ({"stage": "search", "trial": "12"}, 0.9123, "#12 wide_resnet muon bs 256 91.2 %"),
        (
            {"stage": "confirm", "trial": "confirm-12-1", "source_trial": "12", "seed": "1"},
            0.5,
            "confirm #12 wide_resnet muon bs 256 seed 1 50.0 %",
        ),
        (
            {"stage": "final", "trial": "final-12-0", "source_trial": "12", "seed": "0"},
            None,
            "champion #12 wide_resnet muon bs 256 seed 0",
        ),
    ],
)
def test_a_name_says_what_and_how_well(tags: dict[str, str], accuracy: float | None, name: str) -> None:
    assert run_name(tags, RECIPE, accuracy) == name


def test_a_run_s_description_has_costs_and_pictures() -> None:
    files = ["pictures/augmented.png", "recipe.toml", "pictures/predictions.png", "pictures/classes.png"]
    note = run_note("91.2 % validation accuracy", COSTS, files)
    assert link(note, lambda kind, name: f"get-artifact?path={name}" if kind == "file" else None) == (
        "91.2 % validation accuracy\n\n"
        "Trained for 1m35s, 0.41 epochs, 12 TFLOP, 1,234 images a second.\n\n"
        "**Accuracy by class**\n\n![Accuracy by class](get-artifact?path=pictures/classes.png)\n\n"
        "**Augmented training images**\n\n![Augmented training images](get-artifact?path=pictures/augmented.png)"
    )
    assert run_note("failed", {}) == "failed"
    long = run_note("done", {**COSTS, "cost/training_flops": 1.5e15, "cost/epochs": 99.6})
    assert "100 epochs, 1,500 TFLOP, " in long


def test_a_study_s_description() -> None:
    rows = [["[trial 1](run:trial-1)", "90 %", "80 %", "[seed 0](run:confirm-1-0)"]]
    note = study_note(
        "**Running**", ["[Trials](view:trials)", "[Report](run:study/artifacts/r.html)"], rows, "make study"
    )
    known = {"trial-1": "#/1", "study": "#/s", "trials": "#/v"}
    assert link(note, lambda kind, name: known.get(name)) == (
        "**Running**\n\n[Trials](#/v) · [Report](#/s/artifacts/r.html)\n\n"
        "| recipe | confirmed | in the search | runs |\n| --- | ---: | ---: | --- |\n"
        "| [trial 1](#/1) | 90 % | 80 % | seed 0 |\n\n```sh\nmake study\n```"
    )
    assert study_note("**Running**", [], [], "") == "**Running**"
