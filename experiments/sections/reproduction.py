"""Reproduction of the study: the weights, the facts of its runs, the commands and the recipe."""

from __future__ import annotations

import re
import shlex

from experiments.decision.facts import Facts
from experiments.pages.blocks import Block, Cell, Code, Heading, Missing, Pairs, Section
from experiments.pages.text import CitedText, listed, run
from experiments.reading.scenario import Scenario
from experiments.reading.study import Study


def section(facts: Facts) -> Section:
    study = facts.study
    recipe, uris = study.artifacts.recipe, study.artifacts.model_uris
    blocks: list[Block] = [Missing("No weights were logged as a model.")]
    if uris:
        text = (
            f"The weights are in MLflow: `{study.serve_command}` answers with the store's champion over HTTP, and "
            "`mlflow.pyfunc.load_model` loads one of these addresses where `MLFLOW_TRACKING_URI` names the store's "
            "database."
        )
        pairs = ((Cell("", sources=run(run_id)), Cell(uri, style="hash")) for run_id, uri in uris.items())
        blocks = [CitedText(text), Pairs(tuple(pairs))]
    blocks += [
        _facts_of_runs(study),
        Heading("The whole study"),
        Code(commands(study, facts.scenario)),
        Heading(f"The recipe of the {facts.subject}"),
        Code(recipe.strip()) if recipe else Missing("No recipe was kept."),
    ]
    return Section("The weights, and how to reproduce the study", tuple(blocks))


def commands(study: Study, scenario: Scenario) -> str:
    """The command lines that run the study and write its report again."""
    commit = study.tags.get("git_commit", "")
    lines = [f"git checkout {commit}"] if re.fullmatch(r"[0-9a-f]{7,40}", commit) else []
    own = "" if scenario.is_example else f" --scenario {shlex.quote(scenario.file)}"
    lines += [
        study.rerun(),
        f"python experiments/compare.py --study {shlex.quote(study.name)}{own}{study.store_option}",
    ]
    return "\n".join(lines)


def _facts_of_runs(study: Study) -> Pairs:
    tags, subject = study.tags, study.subject
    seeds = [str(seed) for seed in subject["params.seed"] if seed is not None] if "params.seed" in subject else []
    parallel = f"{tags['workers']} x {tags['threads']}" if {"workers", "threads"} <= tags.keys() else None
    rows = {
        "Commit": tags.get("git_commit"),
        "Data (SHA-256)": tags.get("data_sha256"),
        "Study seed": study.params.get("seed") or tags.get("seed"),
        "Run seeds": listed(seeds),
        "Device, precision": ", ".join(tags[key] for key in ("device", "precision") if tags.get(key)),
        "Processor": tags.get("cpu"),
        "Workers x threads": parallel,
        "torch": tags.get("torch"),
    }
    hashes = ("Commit", "Data (SHA-256)")
    return Pairs.of({k: Cell(v or "not recorded", style="hash" if k in hashes else "") for k, v in rows.items()})
