"""The figures of `sweep_figures.py` as PNG bytes: same data, same order, same colours."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from experiments.pages.plots import BLUE, GREEN, RUST
from experiments.reading.published import Accuracy
from experiments.sections.learned import Front, Importances, Slice
from experiments.sections.static_figures import INK, MUTED, axes_of, legend, png, style
from experiments.sections.sweep_figures import PFLOP, champion_flops, edge_of, labels_of
from experiments.stats import Estimate


def importances(found: Importances) -> bytes:
    figure, axes = axes_of(7.2, 0.9 + 0.28 * len(found.shares))
    axes.barh([name for name, _ in found.shares][::-1], [100 * s for _, s in found.shares][::-1], color=BLUE)
    axes.set(xlabel="importance (%)")
    return png(figure)


def slices(parts: Sequence[Slice]) -> bytes:
    rows = (len(parts) + 1) // 2
    figure = Figure(figsize=(7.2, 2.5 * rows), layout="constrained")
    panels = figure.subplots(rows, 2, sharey=True, squeeze=False).ravel()
    for axes, part in zip(panels, parts, strict=False):
        style(axes)
        order = sorted(set(part.values)) if not part.numeric else []
        x = part.values if part.numeric else [order.index(v) for v in part.values]
        axes.scatter(x, [100 * v for v in part.accuracies], s=26, color=BLUE, alpha=0.7, linewidths=0, zorder=3)
        if part.log:
            axes.set_xscale("log")
        if order:
            axes.set_xticks(range(len(order)), [str(v) for v in order], rotation=20)
            axes.set_xlim(-0.5, len(order) - 0.5)
        axes.set(xlabel=part.parameter)
    for axes in panels[len(parts) :]:
        axes.set_visible(False)
    for axes in panels[::2]:
        axes.set(ylabel="validation accuracy (%)")
    return png(figure)


def front(found: Front, published: Sequence[Accuracy], test: Estimate | None, label: str) -> bytes:
    figure, axes = axes_of(7.2, 4.6)
    runs = found.runs
    for stage, state, name, marks in (
        ("search", "complete", "complete trials (validation)", {"color": BLUE, "alpha": 0.8}),
        ("search", "pruned", "pruned trials, when stopped", {"facecolors": "none", "edgecolors": MUTED}),
        ("confirm", "complete", "trained again (validation)", {"color": GREEN, "alpha": 0.8}),
    ):
        some = runs[(runs["stage"] == stage) & (runs["state"] == state)]
        if len(some):
            axes.scatter(some["flops"] / PFLOP, 100 * some["accuracy"], s=30, label=name, zorder=3, **marks)
    if found.best:
        steps = ([v / PFLOP for v, _ in found.best], [100 * v for _, v in found.best])
        axes.step(*steps, where="post", color=GREEN, linewidth=1.2, label="best for its compute")
    ours = champion_flops(found) if test else None
    if test and ours:
        axes.scatter([ours / PFLOP], [100 * test.mean], s=70, marker="D", color=RUST, zorder=4, label=f"{label} (test)")
    edge = edge_of(found, published)
    for known, name, marker in ((True, "published (test)", "D"), (False, "compute not stated", "_")):
        some_of = [a for a in published if (a.training_flops == a.training_flops) == known]
        if some_of:
            axes.scatter(
                [(a.training_flops if known else edge) / PFLOP for a in some_of],
                [100 * a.accuracy for a in some_of],
                s=36,
                marker=marker,
                zorder=3,
                label=name,
                **({"facecolors": "none", "edgecolors": INK} if known else {"color": INK}),
            )
    labels = labels_of(published)
    for a in published:
        if a.key in labels:
            at, above = (a.training_flops / PFLOP, 100 * a.accuracy), a.group == "public"
            beside = {"textcoords": "offset points", "ha": "center", "fontsize": 7, "color": MUTED}
            axes.annotate(labels[a.key], at, (0, 7 if above else -13), **beside)
    axes.set_xscale("log")
    axes.set(xlabel="training compute (PFLOP, log scale)", ylabel="accuracy (%)")
    legend(axes, columns=2)
    return png(figure)
