"""Reproduction of the study: the weights, the facts of its runs, the commands and the recipe."""

from __future__ import annotations

from experiments.decision import commands
from experiments.decision.facts import Facts
from experiments.pages.blocks import Block, Cell, Code, Heading, Missing, Pairs, Section
from experiments.pages.text import CitedText, listed, run_sources
from experiments.reading.study import Study


def section(facts: Facts) -> Section:
    study = facts.study
    recipe, uris = study.artifacts.recipe, study.artifacts.model_uris
    blocks: list[Block] = [Missing("No weights were logged as a model.")]
    if uris:
        text = (
            f"The weights are in MLflow: `{commands.serve(study)}` answers with the store's champion over HTTP, and "
            "`mlflow.pyfunc.load_model` loads one of these addresses where `MLFLOW_TRACKING_URI` names the store's "
            "database."
        )
        pairs = ((Cell("", sources=run_sources(run_id)), Cell(uri, style="hash")) for run_id, uri in uris.items())
        blocks = [CitedText(text), Pairs(tuple(pairs))]
    blocks += [
        _facts_of_runs(study),
        Heading("The whole study"),
        Code(commands.reproduce(study, facts.scenario)),
        Heading(f"The recipe of the {facts.subject}"),
        Code(recipe.strip()) if recipe else Missing("No recipe was kept."),
    ]
    return Section("The weights, and how to reproduce the study", tuple(blocks))


def _facts_of_runs(study: Study) -> Pairs:
    tags, subject = study.tags, study.subject
    seeds = [str(seed) for seed in subject["params.seed"] if seed is not None]
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
