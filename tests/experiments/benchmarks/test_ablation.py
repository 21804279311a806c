"""The ablation of fast94: its variants, its file, and its table."""

from __future__ import annotations

from pathlib import Path

import pytest

from cifar_core.hardware import Hardware
from cifar_core.recipe import Recipe
from cifar_core.recipes import read_recipe
from experiments.benchmarks import ablation
from experiments.benchmarks.ablation import VARIANTS, AblationRun, load, table


def run(variant: str, seed: int, accuracy: float, tta_accuracy: float) -> AblationRun:
    recipe = ablation._recipe(variant, seed).to_dict()
    return AblationRun(
        variant=variant,
        seed=seed,
        recipe=recipe,
        accuracy=accuracy,
        tta_accuracy=tta_accuracy,
        seconds=9.0,
        machine="a machine",
    )


@pytest.mark.parametrize("variant", sorted(set(VARIANTS) - {"fast94"}))
def test_each_variant_changes_the_recipe(variant: str) -> None:
    base = read_recipe("fast94").to_dict()
    assert all(base[name] != value for name, value in VARIANTS[variant].items())
    assert Recipe.from_dict({**base, **VARIANTS[variant]}) != read_recipe("fast94")


def test_differences_are_taken_seed_by_seed() -> None:
    runs = [run("fast94", 0, 0.90, 0.91), run("fast94", 1, 0.92, 0.93), run("random flips", 0, 0.88, 0.90)]
    runs += [run("random flips", 1, 0.91, 0.91), run("lookahead", 1, 0.925, 0.93), run("lookahead", 7, 0.1, 0.1)]
    _, _, *rows = table(runs)
    assert rows == [
        "| fast94 | 2 | 91.00 % | | 92.00 % | |",
        "| random flips | 2 | 89.50 % | -1.50 (-7.85 to +4.85) | 90.50 % | -1.50 (-7.85 to +4.85) |",
        "| lookahead | 1 | 92.50 % | +0.50 (-inf to +inf) | 93.00 % | +0.00 (-inf to +inf) |",
    ]


def test_runs_of_the_file_are_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[tuple[str, int]] = []

    def measure(variant: str, seed: int, hardware: Hardware) -> AblationRun:
        measured.append((variant, seed))
        if len(measured) == 3:
            raise KeyboardInterrupt
        return run(variant, seed, 0.9, 0.91)

    monkeypatch.setattr(ablation, "_measure", measure)
    monkeypatch.setattr(ablation, "ensure_cifar10", lambda folder, progress: None)
    arguments = ["--seeds", "1", "--device", "cpu", "--results", str(tmp_path / "runs.json")]
    assert ablation.main(arguments) == 130
    assert [(found.variant, found.seed) for found in load(tmp_path / "runs.json")] == measured[:2]
    assert ablation.main(arguments) == 0
    assert sorted(measured[:2] + measured[3:]) == sorted((variant, 0) for variant in VARIANTS)
