"""Class by class: the accuracy of each group in each class, against the reference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go

from experiments.comparison.differences import Comparison, Group, NotPaired, image_by_image
from experiments.pages.blocks import Cell, Figure, Missing, Section, Table
from experiments.pages.plots import PALETTE, add_points, canvas, in_figure, name_axis, pc, room_for, segment
from experiments.pages.text import CitedText, points, probability, signed
from experiments.reading.study import SPLITS
from experiments.stats import SIGNIFICANCE_LEVEL, holm
from sweeps.words import percent


@dataclass(frozen=True, slots=True)
class ClassTable:
    """A row for each class, the reference's weakest first, and a column for each group.

    Attributes:
        split: "test" or "val".
        accuracies: mean accuracy by class and group.
        p: p-value of McNemar's test by class and group, against the reference, adjusted for the number of classes
            (Holm, 1979); NaN for the reference, and for groups and classes without answers to single images.
    """

    split: str
    accuracies: pd.DataFrame
    p: pd.DataFrame


def compare_classes(comparison: Comparison) -> ClassTable | None:
    """Compare accuracies by class on the test images, or on the validation images if a group was not tested.

    Returns:
        None if the groups are not known to be of the same data, or have no split in common.
    """
    if not comparison.is_of_same_data:
        return None
    groups, reference = comparison.groups, comparison.reference
    data_set = reference.counted[0].data_set
    names = dict(zip(data_set.keys, data_set.classes, strict=True))
    for split in ("test", "val"):
        prefix = f"{split}_class/"
        others = {key.removeprefix(prefix) for r in reference.counted for key in r.metrics if key.startswith(prefix)}
        keys = [*names, *sorted(others - set(names))]
        means = {group.name: [group.mean(prefix + key) for key in keys] for group in groups}
        shown = [names.get(key, key) for key in keys]
        table = pd.DataFrame(means, shown, dtype=float).dropna().sort_values(reference.name, kind="stable")
        if len(table):
            p = {g.name: _p_by_class(g, reference, table.index) if split == "test" else math.nan for g in groups}
            return ClassTable(split, table, pd.DataFrame(p, table.index))
    return None


def section(comparison: Comparison) -> Section:
    table = compare_classes(comparison)
    if table is None:
        missing = Missing("The groups have no accuracies by class on the same split of the same images.")
        return Section("Class by class", (missing,))
    note = f"Accuracy on the {SPLITS[table.split]} images, with points above or below {comparison.reference.name}"
    if table.split == "test":
        note += " and, between single runs with stored answers, the p of McNemar's test, adjusted for the number of "
        note += "classes (Holm, 1979)"
    rows = [(name, [_cell(table, name, group, comparison) for group in comparison.groups]) for name in table.p.index]
    figure = Figure("classes", "Accuracy by class", _caption(comparison, table), draw_classes(comparison, table))
    cells = Table.of_numbers(("Class", *comparison.titles), rows)
    return Section("Class by class", (figure, cells, CitedText(f"{note}.")))


def draw_classes(comparison: Comparison, table: ClassTable) -> go.Figure:
    """Accuracy of each group in each class, the reference's weakest class on top."""
    classes = table.accuracies
    figure = canvas(height=72 + 30 * len(classes), left=room_for(list(classes.index), 82))
    for group, colour in zip(comparison.groups, PALETTE, strict=False):
        add_points(
            figure,
            [pc(share) for share in classes[group.name]],
            [in_figure(name) for name in classes.index],
            name=group.name,
            colour=colour,
            symbol="circle-open" if group is comparison.reference else "circle",
            size=10,
            customdata=[in_figure(name) for name in classes.index],
            hover=f"%{{customdata}}, {in_figure(group.name)}: %{{x:.1f}} %",
        )
    ends = zip(100 * classes.min(axis=1), 100 * classes.max(axis=1), strict=True)
    figure.update_layout(shapes=[segment(low, high, y, y) for y, (low, high) in enumerate(ends)])
    figure.update_xaxes(title=f"accuracy on the {SPLITS[table.split]} images (%)")
    return figure.update_yaxes(autorange="reversed", **name_axis(list(classes.index)))


def _p_by_class(group: Group, reference: Group, names: Sequence[str]) -> tuple[float, ...] | float:
    """Adjusted p by class; NaN for the reference itself, and for classes without answers to single images."""
    if group is reference or not len(group.complete) == len(reference.complete) == 1:
        return math.nan  # the mean over several runs has no single images
    found: dict[str, float] = {}
    for name in names:
        with suppress(NotPaired):
            found[name] = image_by_image(group, reference, name).p
    adjusted = dict(zip(found, holm(list(found.values())), strict=True))
    return tuple(adjusted.get(name, math.nan) for name in names)


def _cell(table: ClassTable, name: str, group: Group, comparison: Comparison) -> Cell:
    value, p = table.accuracies.at[name, group.name], table.p.at[name, group.name]
    if group is comparison.reference:
        return Cell(percent(value, 1))
    gap = value - table.accuracies.at[name, comparison.reference.name]
    judged = signed(gap, 1) + ("" if math.isnan(p) else f" ({probability(p)})")
    worse = comparison.baseline and bool(p < SIGNIFICANCE_LEVEL and gap < 0)
    return Cell(percent(value, 1), judged=judged, worse=worse)


def _caption(comparison: Comparison, table: ClassTable) -> CitedText:
    """The largest difference from the reference in any class, and the number of significant differences."""
    reference, images = comparison.reference.name, f"the {SPLITS[table.split]} images"
    gaps = table.accuracies.sub(table.accuracies[reference], axis=0).drop(columns=reference).stack()
    name, group = gaps.abs().idxmax()
    gap = gaps[name, group]
    if abs(gap) < 5e-5:
        return CitedText(f"The groups are equal in every class on {images}.", comparison.sources)
    text = f"On {images} {group} differs most from {reference} in {name}: {points(abs(gap))} "
    text += f"{'above' if gap > 0 else 'below'} it"
    tested = table.p.stack().dropna()
    if len(tested):
        count = (tested < SIGNIFICANCE_LEVEL).sum()
        text += f"; {count} of {len(tested)} such differences {'is' if count == 1 else 'are'} significant"
    return CitedText(f"{text}.", comparison.sources)
