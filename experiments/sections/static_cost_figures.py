"""The figures of `cost_figures.py` as PNG bytes: same data, same order, same colours."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.decision.costs import Way
from experiments.decision.sensitivity import Swing
from experiments.pages.plots import BLUE, RUST
from experiments.pages.text import total
from experiments.sections.cost_figures import flip_label, way_colour
from experiments.sections.static_figures import INK, MUTED, axes_of, legend, png


def cost_curves(ways: Sequence[Way], months: float) -> bytes:
    figure, axes = axes_of(7.2, 3.6)
    for index, way in enumerate(ways):
        axes.plot(
            [0, months],
            [way.once, way.total(months)],
            color=way_colour(ways, index),
            linewidth=1.8 if way.vendor else 2.6,
            linestyle="--" if way.vendor else "-",
            label=f"{way.name}, {total(way.total(months))}",
        )
    axes.set(xlabel="months", ylabel="cost so far (US dollars)")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    legend(axes, columns=2)
    return png(figure)


def tornado(swings: Sequence[Swing], saved: float) -> bytes:
    rows = list(reversed(swings))
    figure, axes = axes_of(7.2, 1.2 + 0.5 * len(rows))
    for name, colour, of in (("halved", BLUE, "low"), ("doubled", RUST, "high")):
        widths = [getattr(s, of) - saved for s in rows]
        axes.barh(range(len(rows)), widths, left=saved, height=0.36, color=colour, label=name)
    for y, swing in enumerate(rows):
        flip = flip_label(swing)
        text = f"{swing.name}: {flip}".replace("$", r"\$")
        axes.text(0.005, y + 0.27, text, transform=axes.get_yaxis_transform(), fontsize=8, color=INK, va="bottom")
    axes.axvline(0, color=MUTED, linewidth=1.2)
    axes.axvline(saved, color=MUTED, linewidth=0.8, linestyle=":")
    axes.set_yticks([])
    axes.set(xlabel="saved by building over the horizon (US dollars)", ylim=(-0.5, len(rows) - 0.2))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.grid(visible=False)
    legend(axes)
    return png(figure)
