"""Names and descriptions of runs, as the MLflow UI shows them.

A link to another run is written `[text](run:KEY)`, and one to a view of the study `[text](view:NAME)`; `link` puts in
the addresses, once MLflow has given the runs their ids.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence

from cifar_core.recipe import Recipe
from sweeps.console import clock_time, percent

_LEADS = {"search": "", "confirm": "confirm ", "final": "champion "}  # of names, by stage
_MOST_CLASSES = 50  # of a description: MLflow cuts one of more than 8,000 letters
_LINK = re.compile(r"\[([^\]]*)\]\((run|view):([^)/]+)([^)]*)\)")


def run_name(tags: Mapping[str, str], recipe: Recipe, accuracy: float | None = None) -> str:
    """Return `#12 wide_resnet muon bs 256 91.2 %` for a run with these tags."""
    number, seed = tags.get("source_trial", tags["trial"]), tags.get("seed")
    parts = [f"{_LEADS[tags['stage']]}#{number}", recipe.model, recipe.optimizer, f"bs {recipe.batch_size}"]
    parts += [f"seed {seed}"] if seed is not None else []
    return " ".join([*parts, percent(accuracy)] if accuracy is not None else parts)


def run_note(
    result: str, costs: Mapping[str, float], accuracies: Mapping[str, float] = {}, classes: str = "class/"
) -> str:
    """Return the description of a run that has ended.

    Args:
        result: its first line, which the list of runs shows.
        costs: as `SweepRun.costs`.
        accuracies: by `class/cat` or `group/animals`; the weakest classes are listed, 50 at most.
    """
    parts = [result]
    if costs:
        compute, speed = costs["cost/training_flops"] / 1e12, costs["cost/images_per_second"]
        time = f"{clock_time(costs['cost/seconds'])}, {costs['cost/epochs']:.2g} epochs"
        parts.append(f"Trained for {time}, {compute:.3g} TFLOP, {speed:,.0f} images a second.")
    known = {name.removeprefix(classes): v for name, v in accuracies.items() if name.startswith(classes)}
    ranked = sorted((name for name in known if not math.isnan(known[name])), key=known.__getitem__)
    if ranked:
        rows = [f"| {name} | {percent(known[name])} |" for name in ranked[:_MOST_CLASSES]]
        parts.append("\n".join(["| class | accuracy |", "| --- | ---: |", *rows]))
    if len(ranked) > _MOST_CLASSES:
        parts.append(f"These are the {_MOST_CLASSES} weakest of {len(ranked)} classes.")
    return "\n\n".join(parts)


def study_note(result: str, links: Sequence[str], finalists: Sequence[Sequence[str]], command: str) -> str:
    """Return the description of a study.

    Args:
        result: its first line, which stands above the list of runs.
        finalists: rows of cells: the recipe, its confirmed accuracy, its accuracy in the search, its runs.
    """
    parts = [result, *([" · ".join(links)] if links else [])]
    if finalists:
        head = ["| recipe | confirmed | in the search | runs |", "| --- | ---: | ---: | --- |"]
        parts.append("\n".join([*head, *(f"| {' | '.join(row)} |" for row in finalists)]))
    if command:
        parts.append(f"```sh\n{command}\n```")
    return "\n\n".join(parts)


def link(note: str, address: Callable[[str, str], str | None]) -> str:
    """Return `note` with the addresses that `address` gives for a kind, "run" or "view", and a name; None: no link."""

    def replaced(match: re.Match[str]) -> str:
        text, kind, name, rest = match.groups()
        found = address(kind, name)
        return text if found is None else f"[{text}]({found}{rest})"

    return _LINK.sub(replaced, note)
