"""The guides say what the code does: presets, spaces, scenario fields, rules, commands and their options."""

from __future__ import annotations

import dataclasses
import doctest
import importlib
import os
import re
import subprocess
from pathlib import Path

import pytest

from cifar_core.budget import step_flops
from cifar_core.data.data_set import CIFAR10
from cifar_core.recipe import Recipe
from cifar_core.recipes import FOLDER, NAMES, SYSTEMS, read_recipe
from cifar_core.training import total_steps
from experiments.decision.facts import Facts
from experiments.decision.verdict import verdict_of
from experiments.reading.scenario import Download, Scenario, Vendor
from experiments.report import SECTIONS
from sweeps.planning.presets import PRESETS
from sweeps.planning.space_file import SPACES, read_space
from sweeps.planning.space_rules import SET_BY_SWEEP

ROOT = Path(__file__).parents[2]
GUIDES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
COMMANDS = [path for path in sorted((ROOT / "experiments").glob("*.py")) if "start(main)" in path.read_text("utf-8")]
SCRIPTS = ("sweeps/run_study.py", *(f"experiments/{path.name}" for path in COMMANDS))


PACKAGES = ("cifar_core", "sweeps", "experiments")
WITH_EXAMPLES = [
    path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py")) if ">>> " in path.read_text("utf-8")
]


def guide(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_of_docstrings_hold(path: Path) -> None:
    tried = doctest.testmod(importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts)))
    assert tried.attempted
    assert not tried.failed


@pytest.mark.parametrize("name", PRESETS)
def test_the_table_of_presets_has_the_budgets_of_the_code(name: str) -> None:
    preset = PRESETS[name]
    budgets = (preset.trial, preset.confirm, preset.final)
    trial, confirm, final = (f"{budget.flops / 1e12:,.0f} TFLOP" for budget in budgets if budget.flops)
    final = f"{preset.finals} x {final}" if preset.finals > 1 else final
    seeds = f" x {preset.seeds} seeds" if preset.seeds > 1 else ""
    row = next(line for line in guide("sweeps.md").splitlines() if line.startswith(f"| `{name}`"))
    assert f"| {trial} | best {preset.recipes} and the starting recipe{seeds}, {confirm} each | {final} |" in row


def test_the_guide_names_every_space_with_its_architectures() -> None:
    text = guide("sweeps.md")
    for name, space in SPACES.items():
        assert f"`--space {name}`" in text, f"docs/sweeps.md must describe --space {name}"
        if name != "systems":  # docs/systems.md has these
            assert all(f"`{model}`" in text for model in space.models), f"docs/sweeps.md must name those of {name}"
    assert SPACES["full"].description.startswith(f"{len(SPACES['full'].models)} architectures")


def test_the_example_of_a_space_is_one(tmp_path: Path) -> None:
    [example] = re.findall(r"```toml\n(.*?)```", guide("sweeps.md"), re.DOTALL)
    (tmp_path / "my_space.toml").write_text(example)
    space = read_space(str(tmp_path / "my_space.toml"))
    assert [start["model"] for start in space.starts] == ["airbench", "five_conv"]
    assert all(space.recipe(start, Recipe()).reset_norms for start in space.starts)
    assert all(read_recipe(name) for name in space.enqueue)
    assert [name for name in SET_BY_SWEEP if f"`{name}`" not in guide("sweeps.md")] == []


def test_the_guide_has_every_field_of_a_scenario() -> None:
    fields = {field.name for field in dataclasses.fields(Scenario)} - {"file", "is_example", "vendors", "downloads"}
    fields |= {field.name for way in (Vendor, Download) for field in dataclasses.fields(way)} - {"name"}
    text = guide("report.md")
    assert not {name for name in fields if f"`{name}`" not in text}


def test_the_guide_has_the_rules_of_the_verdict(demo: Facts) -> None:
    rules = verdict_of(demo).rules
    text = " ".join(guide("report.md").split())
    for number, rule in enumerate(rules, start=1):
        assert f"{number}. {rule.condition}: {rule.answer.lower()}." in text, f"docs/report.md, rule {number}"


def test_the_guide_shows_every_section_of_the_report() -> None:
    text = guide("architecture.md")
    assert not [name for name in SECTIONS if f"`{name}`" not in text]


def test_the_guide_of_the_house_names_modules_that_exist() -> None:
    for path in re.findall(r"`((?:cifar_core|sweeps|experiments|tests)/[\w/]*\.?\w*)`", guide("architecture.md")):
        assert (ROOT / path).exists(), f"docs/architecture.md names {path}"


@pytest.mark.parametrize("name", NAMES)
def test_the_cost_of_a_recipe_is_that_of_its_steps(name: str) -> None:
    recipe = read_recipe(name)
    pflop = step_flops(recipe, CIFAR10) * total_steps(recipe, round(50_000 * (1 - recipe.val_fraction))) / 1e15
    [stated] = re.findall(r"^# cost +([\d.]+) PFLOP", (FOLDER / f"{name}.toml").read_text("utf-8"), re.MULTILINE)
    assert stated == f"{pflop:.{len(stated.partition('.')[2])}f}"
    if name in SYSTEMS:
        row = next(line for line in guide("systems.md").splitlines() if line.startswith(f"| `{name}` |"))
        assert row.split(" | ")[-1].split()[0].strip(",") == stated


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_guides_give_options_that_a_command_has(script: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        importlib.import_module(script.removesuffix(".py").replace("/", ".")).main(["--help"])
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: {Path(script).name} ")
    known = set(re.findall(r"--[a-z][\w-]+", shown))
    used = {
        option
        for path in GUIDES
        for command in re.findall(rf"python {script}([^\n`#]*)", path.read_text(encoding="utf-8"))
        for option in re.findall(r"--[a-z][\w-]+", command)
    }
    assert used <= known


def anchors(path: Path) -> set[str]:
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.*)", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", GUIDES, ids=lambda path: path.name)
def test_the_links_of_a_guide_lead_to_files_and_sections_that_exist(page: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text(encoding="utf-8")):
        file, _, section = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), f"{page.name} links to {link}"
        assert not section or section in anchors(target), f"{page.name} links to {link}"


def test_the_slurm_template_starts_ray_with_options_that_every_node_takes(tmp_path: Path) -> None:
    programs = {
        "scontrol": "echo node-1 node-2 | tr ' ' '\\n'",
        "srun": 'shift; exec "$@"',
        "cifar-sweeps/.venv/bin/ray": f'echo "$SRUN_CPUS_PER_TASK $@" >> {tmp_path}/calls',
    }
    for name, script in programs.items():
        program = tmp_path / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    sizes = {
        "SLURM_JOB_NODELIST": "node-[1-2]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "16",
        "SLURM_GPUS_ON_NODE": "4",
    }
    here = {"HOME": str(tmp_path), "SCRATCH": str(tmp_path), "PATH": f"{tmp_path}:{os.defpath}"}
    subprocess.run(["bash", ROOT / "docs/clusters/slurm.sh"], env=sizes | here, check=True)
    token, run = (tmp_path / "calls").read_text().splitlines()
    assert token == "16 get-auth-token --generate"
    # Each node's `ray start` gets the options before `--`; some, as --include-dashboard, only the head may have.
    assert run.startswith(
        "16 symmetric-run --address node-1:6379 --min-nodes 2 --num-cpus 16 --num-gpus 4 -- python sweeps/run_study.py "
    )
