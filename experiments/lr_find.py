"""The LR range test of a recipe: prints the suggested peak rate, draws the curve, and logs both to MLflow.

python experiments/lr_find.py RECIPE
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import math
import signal
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import torch
from matplotlib.figure import Figure

from cifar_core.data import DataError, load_train_val
from cifar_core.data.download import default_data_dir, ensure_cifar10
from cifar_core.files import write_atomically
from cifar_core.hardware import DEVICES, Hardware, HardwareError, set_up_cpu
from cifar_core.lr_finder import HIGH, ITERATIONS, LEAST_STEPS, LOW, RangeTest, RangeTestError, range_test
from cifar_core.recipe import RecipeError
from cifar_core.recipes import SYSTEMS, read_recipe
from sweeps.command_line import FAILED, USAGE, OneLineParser, number
from sweeps.console import SweepConsole
from sweeps.store import DEFAULT_STORE, Store, StoreError
from sweeps.tracking.provenance import provenance
from sweeps.tracking.tracker import MlflowTracker, RunLabel, Tracker

EXPERIMENT = "range-tests"  # of MLflow
_INK, _MARK = "#1f4e8c", "#c62828"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, 2 for arguments that cannot be, 130 when interrupted."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    try:
        return _run(options)
    except (RecipeError, RangeTestError, HardwareError, StoreError, DataError) as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        print("stopped; nothing was suggested", file=sys.stderr)
        return 128 + signal.SIGINT


def build_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="lr_find.py",
        description="Train fresh weights while the learning rate rises, and suggest the rate at which the loss fell "
        "fastest (Smith, 2017).",
        epilog='learning_rate = "range-test" in a recipe does this before training.',
    )
    parser.add_argument("recipe", metavar="RECIPE", help=f"{', '.join(SYSTEMS)}, or a recipe file (TOML)")
    parser.add_argument("--low", type=_rate, default=LOW, metavar="LR", help="first rate (default: %(default)g)")
    parser.add_argument("--high", type=_rate, default=HIGH, metavar="LR", help="last rate (default: %(default)g)")
    parser.add_argument("--steps", type=_steps, default=ITERATIONS, metavar="N", help="default: %(default)s")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="default: %(default)s")
    parser.add_argument("--data", type=Path, metavar="DIR", help=f"CIFAR-10 (default: {default_data_dir()})")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the picture (default: in the store's reports)")
    parser.add_argument("--store", type=Path, default=DEFAULT_STORE, metavar="DIR", help="default: mlruns")
    parser.add_argument("--tracking-uri", metavar="URI", help="an MLflow server in place of the store's database")
    return parser


def _run(options: argparse.Namespace) -> int:
    recipe = read_recipe(options.recipe)
    if not options.low < options.high:
        raise RangeTestError(f"`--low < --high` must hold, but got {options.low:g} and {options.high:g}")
    set_up_cpu()
    hardware = Hardware.detect(options.device)
    store = Store.locate(options.store, tracking_uri=options.tracking_uri)
    data_dir = options.data or default_data_dir()
    store.create()
    name = Path(options.recipe).stem
    out = options.out or store.report(EXPERIMENT) / f"{name}.png"
    with _writing():
        out.parent.mkdir(parents=True, exist_ok=True)
    if out.is_dir():
        raise StoreError(f"--out must be a file that can be written, but: {out} is a folder")
    with SweepConsole() as console:
        ensure_cifar10(data_dir, console.progress)
        console.plan(
            {
                "recipe": options.recipe,
                "range test": f"{options.steps} steps from {options.low:g} to {options.high:g}",
                "device": f"{hardware.describe()}, {hardware.precision}",
            }
        )
        data = load_train_val(data_dir)
        tracker = MlflowTracker(store, EXPERIMENT, source="experiments/lr_find.py", say=console.say)
        tags = provenance(hardware, torch.get_num_threads())
        tracker.open_study(RunLabel(key="study", name=EXPERIMENT, tags={"stage": "range-tests", **tags}, params={}))
        key = f"{quote(name, safe='')}-{datetime.now(UTC).isoformat(timespec='seconds')}"
        label = RunLabel(
            key=key,
            name=f"range test of {name}",
            tags={"stage": "range-test", **tags},
            params={**recipe.to_dict(), "low": options.low, "high": options.high, "steps": options.steps},
            files={"recipe.toml": recipe.to_toml().encode()},
        )
        tracker.begin(label)
        ending, reason = "failed", ""
        try:
            found = range_test(recipe, data, hardware, low=options.low, high=options.high, steps=options.steps)
            log_range_test(tracker, key, found)
            ending = "complete"
        except RangeTestError as error:
            reason = str(error)
            raise
        except KeyboardInterrupt:
            ending, reason = "interrupted", "stopped by the user"
            raise
        finally:
            tracker.end(key, ending, reason=reason)
            tracker.end_study("finished" if ending == "complete" else ending, {})
            lacking = tracker.close()
    print(f"suggested learning rate: {found.suggestion:.3g}")
    with _writing():
        write_atomically(out, draw(found))
    print(f"curve: {out}")
    if lacking:
        print(f"MLflow lacks {lacking} entries; the next range test sends them once it answers", file=sys.stderr)
    return FAILED if lacking else 0


def log_range_test(tracker: Tracker, key: str, found: RangeTest) -> None:
    """Keep the suggestion, the curve and its picture with the run `key`."""
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["learning_rate", "smoothed_loss_nats"])
    writer.writerows(zip(found.rates, found.losses, strict=True))
    files = {"range_test/curve.csv": table.getvalue().encode(), "range_test/curve.png": draw(found)}
    tracker.attach(key, files, {"range_test/suggestion": found.suggestion})


def draw(found: RangeTest) -> bytes:
    """The curve of a range test, with the suggestion marked, as a PNG."""
    figure = Figure(figsize=(7, 4.2), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(found.rates, found.losses, color=_INK, linewidth=1.8)
    axes.axvline(found.suggestion, color=_MARK, linewidth=1.2, linestyle="--")
    left = found.suggestion > math.sqrt(found.rates[0] * found.rates[-1])  # the half with less room for a label
    axes.annotate(
        f"suggested: {found.suggestion:.3g}",
        (found.suggestion, 0.98),
        xycoords=("data", "axes fraction"),
        xytext=(-6 if left else 6, 0),
        textcoords="offset points",
        color=_MARK,
        ha="right" if left else "left",
        va="top",
    )
    axes.set_xscale("log")
    axes.set_xlabel("learning rate (log scale)")
    axes.set_ylabel("training loss, smoothed (nats per image)")
    axes.set_title("LR range test: the loss falls fastest at the mark", loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    """
    Raises:
        StoreError: the picture cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise StoreError(f"--out must be a file that can be written, but: {error}") from error


_steps = number(f"must be a whole number of at least {LEAST_STEPS}", lambda value: value >= LEAST_STEPS, int)
_rate = number("must be a number above 0", lambda value: 0 < value < float("inf"), float)


if __name__ == "__main__":
    sys.exit(main())
