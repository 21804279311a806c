"""The published systems beside their reproductions, as systems.html (one file, opens offline) and systems.md.

python experiments/compare.py systems [--results DIR] [--store DIR] [--out DIR]
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

from experiments.pages.blocks import (
    Block,
    Bullets,
    Cell,
    Code,
    Figure,
    Heading,
    Lead,
    Missing,
    Page,
    Row,
    Section,
    Table,
)
from experiments.pages.page import References, render_page, write_files
from experiments.pages.text import (
    MEASURES,
    NOTHING,
    CitedText,
    count_word,
    fine_percent,
    listed,
    points,
    run_sources,
    signed,
    span,
)
from experiments.reading.published import load_published
from experiments.reading.results import Result, departures, load_results
from experiments.systems.overlay import overlay
from experiments.systems.section import (
    epoch_of_loss,
    epochs,
    gap_cell,
    losses,
    second,
    seconds,
    sentence,
    systems_table,
)
from experiments.systems.system import System, best_epoch, load_systems, tested_epoch
from sweeps.validation import InvalidFileError
from sweeps.words import percent

_COLUMNS = ("Published", "Reproduced", "Difference")


def write_systems(results: Path, *, out: Path) -> list[Path]:
    """Write systems.html and systems.md into a folder, and return their paths.

    Raises:
        InvalidFileError: there is no result, or one breaks a rule.
        StoreError: the folder cannot be written to.
    """
    runs = load_results(results)
    if not runs:
        raise InvalidFileError(f"no results in {results}: python experiments/reproduce.py NAME makes some")
    return write_files(out, render(load_systems(load_published(), runs)))


def render(systems: Sequence[System]) -> dict[str, bytes]:
    """The page's files by name: a pure function of the systems, at least one of which has a run."""
    runs = [r for s in systems for r in s.runs]
    newest = max(r.date for r in runs)
    commands = "python experiments/reproduce.py NAME --seeds 3\npython experiments/compare.py systems"
    page = Page(
        name="systems",
        title="The published systems, reproduced",
        heading="The published systems, reproduced",
        subject=CitedText(f"CIFAR-10, newest run of {newest}"),
        sections=(
            _summary(systems),
            *(_section(s) for s in systems),
            Section("How to reproduce them", (Code(commands),)),
        ),
        footer=f"{MEASURES} A double dagger (‡) marks figures whose source gives no date.",
    )
    what = {r.run_id: f"reproduction of {r.name}, seed {r.seed}, {epochs([r])} epochs" for r in runs}
    return render_page(page, References({s.name: s.published for s in systems}, newest, what, cited=list(what)))


def headline(systems: Sequence[System]) -> CitedText:
    """The systems that come out as published, those that lie above or below, and those without a complete schedule."""
    complete = [s for s in systems if s.complete]
    close = [s.name for s in complete if s.within_tolerance]
    gaps = {s.name: s.gap.mean for s in complete if s.gap is not None and not s.within_tolerance}
    off = {"below": [name for name, gap in gaps.items() if gap < 0], "above": [n for n, gap in gaps.items() if gap > 0]}
    all_systems = f"of the {count_word(len(systems))} published systems"
    if not complete:
        return CitedText(f"None {all_systems} has been run to the end of its schedule yet.")
    text = f"None {all_systems} does, within a point: "
    if close:
        many = f"{count_word(len(close)).capitalize()} {all_systems} {'does' if len(close) == 1 else 'do'}"
        text = f"{many}, within a point: {listed(close)}. Of the others, "
    parts = [
        f"{listed(names)} {'is' if len(names) == 1 else 'are'} more than a point {side}"
        for side, names in off.items()
        if names
    ]
    if rest := [s.name for s in systems if not s.complete]:
        ends = "has not been run to the end of its schedule"
        parts.append(f"{listed(rest)} {ends if len(rest) == 1 else 'have not been run to the ends of their schedules'}")
    return CitedText(f"{text}{'; '.join(parts)}." if parts else text.removesuffix(" Of the others, "))


def _summary(systems: Sequence[System]) -> Section:
    note = (
        "Accuracies are on the 10,000 test images. A system counts as reproduced within a point of its published "
        "accuracy. Intervals are 95 %: of ours over images, and over seeds where there are several; of a difference "
        "over the images of the published figure as well. A schedule that was cut short is compared at the same epoch, "
        "where the published curve has one, and never beyond it."
    )
    question = "Do the published systems come out as published when they are trained again?"
    return Section("", (Lead(question, headline(systems)), systems_table(systems), CitedText(note)))


def _section(system: System) -> Section:
    blocks: list[Block] = [sentence(system)]
    if system.runs:
        blocks += [_quantities(system), _curves(system)]
        if system.classes:
            blocks += [Heading("Accuracy by class, differences in points"), _animals(system), _classes(system)]
        blocks += [Heading("Runs"), _runs(system.runs)]
    return Section(system.name, (*blocks, Heading("Caveats"), Bullets(tuple(_caveats(system)))))


def _quantities(system: System) -> Table:
    """A row for each quantity that can be compared."""
    met, compared, curves = system.common_epoch, system.compared, system.curves
    ours = Cell(fine_percent(system.accuracy.mean), span(system.accuracy)) if system.accuracy else "not measured"
    kept = [r for r in system.complete if r.kept == "best"]
    end, note = "" if kept else " at the end", f"ours of {_kept_weights(kept)}" if kept else ""
    rows = [Row.of(Cell(f"Test accuracy{end}", note), system.published.stated, ours, gap_cell(system.gap))]
    if curves.best is not None or system.best is not None:
        theirs = Cell(fine_percent(curves.best[1]), f"epoch {curves.best[0]:g}") if curves.best else "not published"
        ours = Cell(fine_percent(system.best.mean), _best_epochs(system)) if system.best else "not measured"
        rows.append(Row.of("Best test accuracy of any epoch", theirs, ours, gap_cell(system.best_gap)))
    if met is not None and met.quantity == "test_accuracy" and not system.complete:
        title = f"Test accuracy at epoch {met.epoch:g}"
        rows.append(Row.of(title, fine_percent(met.published), fine_percent(met.ours), gap_cell(met.gap)))
    elif met is not None and met.quantity == "train_loss":
        title = f"Training loss, first 250 batches of epoch {epoch_of_loss(met)}"
        rows.append(_loss_row(title, met.published, met.ours))
    tested = [r.test.loss for r in system.complete if r.test is not None]
    if tested and (lost := curves.series.get("test_loss")) is not None:
        what = Cell(f"Test loss{end}, nats an image", note)
        rows.append(_loss_row(what, lost.values[-1], statistics.fmean(tested)))
    timed = "not published" if curves.seconds is None else second(curves.seconds)
    rows.append(Row.of("Training seconds an epoch", timed, seconds(compared) or "not measured", NOTHING))
    rows.append(Row.of("Epochs run, of those planned", system.published.epochs, epochs(compared), NOTHING))
    return Table(("", *_COLUMNS), rows, numbers=(1, 2, 3))


def _loss_row(title: str | Cell, published: float, ours: float) -> Row:
    return Row.of(title, f"{published:.3f}", f"{ours:.3f}", f"{ours - published:+.3f}")


def _best_epochs(system: System) -> str:
    """The epochs at which the complete runs had their highest test accuracy."""
    return _epochs([best[0] for r in system.complete if (best := best_epoch(r)) is not None])


def _kept_weights(kept: Sequence[Result]) -> str:
    """The weights tested of runs that kept their best ones."""
    return f"the weights with the lowest validation loss, of {_epochs([tested_epoch(r) for r in kept])}"


def _epochs(found: Sequence[float]) -> str:
    return f"{'epoch' if len(found) == 1 else 'epochs'} {listed([f'{epoch:.3g}' for epoch in found])}"


def _curves(system: System) -> Figure | Missing:
    figure = overlay(system)
    if figure is None:
        return Missing("No run of the shipped recipe has completed an epoch, so there are no curves yet.")
    return Figure(system.name, f"{system.name}: ours over the published curves", _caption(system), figure)


def _caption(system: System) -> CitedText:
    text = "Ours is solid, what was published is dashed"
    text += "; the first seed is strong, the others are faint" if len(system.matching) > 1 else ""
    met = system.common_epoch
    if met is not None and met.quantity == "train_loss":
        text += f": {losses(met)}"
    elif met is not None:
        text += (
            f": at epoch {met.epoch:g} test accuracy is {fine_percent(met.ours)} for ours and "
            f"{fine_percent(met.published)} as published"
        )
    elif (theirs := system.curves.series.get("val_loss")) is not None and (ours := _lowest(system)) is not None:
        text += (
            f": validation loss is {ours:.2f} nats an image where ours is lowest, {min(theirs.values):.2f} where the "
            "published one is"
        )
    elif not system.curves.series:
        text += f": only the accuracy at the end was published, {system.published.stated}"
    return CitedText(f"{text}.", system.sources)


def _lowest(system: System) -> float | None:
    """The lowest validation loss of each compared run, averaged."""
    lows = [min((p.watched_loss for p in r.curve if p.watched_loss is not None), default=None) for r in system.compared]
    known = [low for low in lows if low is not None]
    return statistics.fmean(known) if known and len(known) == len(lows) else None


def _animals(system: System) -> CitedText:
    """Animals against vehicles: the weakness of its network, as the published analysis has it."""
    rows = {row.name: row for row in system.classes}
    animals, vehicles = rows["animals"], rows["vehicles"]
    theirs = points(vehicles.published - animals.published)
    text = f"The published network is right {theirs} less often on animals than on vehicles"
    if animals.ours is None or vehicles.ours is None:
        return CitedText(f"{text}; ours has not been run to the end of its schedule.", system.sources)
    gap = vehicles.ours - animals.ours
    return CitedText(f"{text}, ours {points(gap) if gap > 0 else 'is not'}.", system.sources)


def _classes(system: System) -> Table:
    rows = [
        Row.of(
            row.name,
            percent(row.published, 1),
            "not measured" if row.ours is None else percent(row.ours, 1),
            "" if row.gap is None else signed(row.gap, 1),
            style="sum" if row.group else "",
        )
        for row in system.classes
    ]
    return Table(("Class", *_COLUMNS), rows, numbers=(1, 2, 3), style="")


def _runs(results: Sequence[Result]) -> Table:
    titles = ("Seed", "Test accuracy", "Test loss", "Epochs", "Seconds an epoch", "Peak rate", "Run", "Date, commit")
    rows = [
        Row.of(
            str(r.seed),
            fine_percent(r.test.accuracy) if r.test else "not tested yet",
            f"{r.test.loss:.3f}" if r.test else NOTHING,
            epochs([r]),
            second(r.seconds_an_epoch),
            _peak_rate(r),
            Cell("", sources=run_sources(r.run_id)),
            f"{r.date}, `{r.commit[:8]}`{' (dirty)' if r.commit.endswith('-dirty') else ''}",
        )
        for r in results
    ]
    return Table(titles, rows, numbers=range(6))


def _peak_rate(result: Result) -> str:
    """The learning rate of the recipe, or the one that a range test found."""
    if result.learning_rate_found is not None:
        return f"{result.learning_rate_found:.3g} (found)"
    rate = result.recipe.get("learning_rate")
    return f"{rate:g}" if isinstance(rate, int | float) else NOTHING


def _caveats(system: System) -> Iterator[CitedText]:
    """Limits of the comparison, and the runs that it leaves out."""
    for text in system.published.caveats:
        yield CitedText(text, (f"source/{system.name}",))
    for r in system.runs:
        if other := departures(r, system.recipe):
            text = f"was trained by another recipe than the shipped one ({listed(other)})"
        elif system.complete and not r.complete:
            text = "has not come to the end of its schedule"
        else:
            continue
        yield CitedText(f"Seed {r.seed} {text}: not counted.", run_sources(r.run_id))
    if not (compared := system.compared):
        return
    ids = run_sources(*(r.run_id for r in compared))
    if "test_accuracy" in system.curves.series and any(r.watched != "test" for r in compared):
        yield CitedText("Our curve by epoch is of validation images, the published one of the test images.", ids)
    if kept := [r for r in compared if r.kept == "best"]:
        ends = [p.watched_accuracy for r in kept for p in r.curve[-1:] if p.watched_accuracy is not None]
        text = f"Tested are {_kept_weights(kept)}"
        if ends:
            low, high = percent(min(ends), 0), percent(max(ends), 0)
            text += f"; at the end validation accuracy is {low if low == high else f'{low[:-2]} to {high}'}"
        yield CitedText(f"{text}.", ids)
    machines = listed(list(dict.fromkeys(r.machine for r in compared)))
    text = f"Ours ran on {machines}; hardware and precision of the published run are not known"
    text += ", so seconds an epoch compare machines as well as code" if system.curves.seconds is not None else ""
    yield CitedText(f"{text}. Our seconds are of training alone, without validation.", ids)
