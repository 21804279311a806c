"""Names and descriptions of runs, as the MLflow UI shows them.

A link to another run is written `[text](run:KEY)`, one to a view of the study `[text](view:NAME)`, and a picture of the
run itself `![text](file:PATH)`; `link` puts in the addresses, once MLflow has given the runs their ids.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence

from cifar_core.recipe import Recipe
from sweeps.words import clock_time, percent, rounded

_LEADS = {"search": "", "confirm": "confirm ", "final": "champion "}  # of names, by stage
_PICTURES = {
    "classes.png": "Accuracy by class",
    "mistakes.png": "Most confident mistakes, as predicted (true)",
    "confusion.png": "Confusion matrix",
    "augmented.png": "Augmented training images",
}
_LINK = re.compile(r"\[([^\]]*)\]\((run|view|file):([^)/]+)([^)]*)\)")


def run_name(tags: Mapping[str, str], recipe: Recipe, accuracy: float | None = None) -> str:
    """Return `#12 wide_resnet muon bs 256 91.2 %` for a run with these tags."""
    number, seed = tags.get("source_trial", tags["trial"]), tags.get("seed")
    parts = [f"{_LEADS[tags['stage']]}#{number}", recipe.model, recipe.optimizer, f"bs {recipe.batch_size}"]
    parts += [f"seed {seed}"] if seed is not None else []
    return " ".join([*parts, percent(accuracy)] if accuracy is not None else parts)


def run_note(result: str, costs: Mapping[str, float], files: Collection[str] = ()) -> str:
    """Return the description of a run that has ended.

    Args:
        result: its first line, which the list of runs shows.
        costs: as `SweepRun.costs`.
        files: paths of its artifacts; those that are pictures of its predictions and images are shown.
    """
    parts = [result]
    if costs:
        compute, speed = costs["cost/training_flops"] / 1e12, costs["cost/images_per_second"]
        time = f"{clock_time(costs['cost/seconds'])}, {rounded(costs['cost/epochs'], figures=2)} epochs"
        parts.append(f"Trained for {time}, {rounded(compute)} TFLOP, {speed:,.0f} images a second.")
    for name, title in _PICTURES.items():
        parts += [f"**{title}**\n\n![{title}](file:{path})" for path in files if path.endswith(f"/{name}")]
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
    """Return `note` with the addresses that `address` gives for a kind and a name, or without a link for None.

    A kind is "run", "view" or, with the first part of a path as its name, "file".
    """

    def replaced(match: re.Match[str]) -> str:
        text, kind, name, rest = match.groups()
        found = address(kind, name)
        return text if found is None else f"[{text}]({found}{rest})"

    return _LINK.sub(replaced, note)
