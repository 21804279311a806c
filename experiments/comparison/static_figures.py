"""The figures of `run_figures.py` as PNG bytes, for Markdown: same data, same order, same colours."""

from __future__ import annotations

from experiments.comparison.differences import Classes, Comparison
from experiments.comparison.figures import SIDE_COLOURS, in_epochs, lines
from experiments.sections.static_figures import GRID, axes_of, legend, png


def curves(comparison: Comparison, what: str) -> bytes:
    figure, axes = axes_of(7.2, 3.6)
    factor, unit = (100.0, "%") if what == "accuracy" else (1.0, "nats an image")
    named: set[str] = set()
    for line in lines(comparison, what):
        held_out = line.split != "train"
        axes.plot(
            line.x,
            [factor * v for v in line.values],
            color=line.colour,
            linewidth=1.8 if held_out and line.strong else 1,
            linestyle="-" if held_out else ":",
            alpha=1 if line.strong else 0.45,
            marker="" if len(line.x) > 1 else "o",
            label=line.side if held_out and line.side not in named else None,
        )
        if held_out:
            named.add(line.side)
    axes.set(xlabel="epoch" if in_epochs(comparison) else "optimiser step", ylabel=f"{what} ({unit})")
    axes.set_xlim(left=0)
    if what == "loss":
        axes.set_ylim(bottom=0)
    legend(axes)
    return png(figure)


def classes(comparison: Comparison, rows: Classes) -> bytes:
    figure, axes = axes_of(7.2, 1.0 + 0.3 * len(rows.rows))
    for y, row in enumerate(rows.rows):
        ends = (100 * min(row.accuracies), 100 * max(row.accuracies))
        axes.plot(ends, (y, y), color=GRID, linewidth=2, zorder=1)
    for at, (side, colour) in enumerate(zip(comparison.sides, SIDE_COLOURS, strict=False)):
        shares = [100 * row.accuracies[at] for row in rows.rows]
        face = "white" if side is comparison.reference else colour
        where = range(len(shares))
        axes.plot(shares, where, "o", color=colour, markerfacecolor=face, markersize=7, label=side.name, zorder=3)
    axes.set_yticks(range(len(rows.rows)), [row.name for row in rows.rows])
    axes.set(xlabel=f"accuracy on the {rows.split} images (%)")
    legend(axes)
    return png(figure)
