"""Classify your own pictures with a trained run.

python experiments/predict.py RUN IMAGE...
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.table import Table
from rich.text import Text
from torch import Tensor

from cifar_core.data import Split
from cifar_core.data.image_file import read_image
from cifar_core.data.image_folder import files_in
from cifar_core.errors import UserError, printable
from cifar_core.evaluation.metrics import Predictions
from cifar_core.hardware import DEVICES, Hardware, set_up_cpu
from cifar_core.recipe import TTA_VIEWS
from cifar_core.training import predict
from experiments.reading.named_runs import LETTERS, network_of
from sweeps.command_line import (
    FAILED,
    USAGE,
    OneLineParser,
    add_store,
    main_of,
    positive_int,
    print_error,
    start,
    store_of,
)
from sweeps.console import answer_console, print_table
from sweeps.snapshot import readable
from sweeps.words import counted, percent

_SHOWN = 10  # files of a folder that are no pictures


def build_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="predict.py",
        description="Classify your own pictures with a trained run. Each is turned upright, cropped to a square around "
        "its middle and reduced to the only size that the network knows, 32 x 32 pixels for CIFAR-10.",
        epilog="Runs and their names: `make ui`. Confirmations, finals, adapted networks, reproductions and the "
        "complete trials of run_study.py --keep-weights keep their weights. Exit code 1: some pictures cannot be read.",
    )
    parser.add_argument(
        "run",
        metavar="RUN",
        help=f"champion, STUDY/KEY (such as quick-full/trial-3), a run's id, {LETTERS} or more of its first letters, "
        "or its name",
    )
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="a picture file, or a folder of them")
    parser.add_argument(
        "--top", type=positive_int, metavar="N", help="classes to name (default: 3, or all if the network knows fewer)"
    )
    parser.add_argument(
        "--tta",
        choices=TTA_VIEWS,
        help="average the answers to an image and its mirror image, or to six views (default: as the run was tested)",
    )
    parser.add_argument("--device", choices=DEVICES, default="auto", help="default: %(default)s")
    add_store(parser)
    return parser


def _run(options: argparse.Namespace) -> int:
    set_up_cpu()
    hardware = Hardware.detect(options.device)
    with readable(store_of(options)) as store:
        loaded = network_of(options.run, store)
    known = len(loaded.data_set.classes)
    top = options.top or min(3, known)
    if top > known:
        raise UserError(f"--top must be at most {known}, the classes that the network knows, but got {top}")
    images: list[tuple[Path, Tensor]] = []
    failures: list[UserError] = []
    for given in options.images:
        errors: list[UserError] = []
        try:
            for path in _files(given):
                try:
                    images.append((path, read_image(path, loaded.data_set.side)))
                except UserError as error:
                    errors.append(error)
        except UserError as error:
            errors.append(error)
        for shown in errors[:_SHOWN]:
            print_error("predict.py", shown)
        if len(errors) > _SHOWN:
            more = counted(len(errors) - _SHOWN, "more file")
            print_error("predict.py", f"{printable(given)}: {more} cannot be read")
        failures += errors
    if not images:
        return USAGE
    pixels, labels = torch.stack([image for _, image in images]), torch.zeros(len(images), dtype=torch.long)
    tta = options.tta or loaded.tta
    network, data = hardware.place(loaded.network), Split(pixels, labels, loaded.data_set)
    predictions = predict(network, data, hardware, loaded.normalisation, tta=tta)
    _print([path for path, _ in images], predictions, top, TTA_VIEWS[tta])
    return FAILED if failures else 0


def _files(given: Path) -> list[Path]:
    """Return the file, or those in the folder and in folders inside, by path.

    Raises:
        UserError: the folder cannot be read, or has none.
    """
    if not os.path.isdir(given):
        return [given]
    try:
        found = sorted(files_in(given))
    except OSError as error:
        raise UserError(f"{printable(given)}: this must be a readable folder, but: {error}") from error
    if not found:
        raise UserError(f"{printable(given)}: a folder must have pictures in it, but this has no file")
    return found


def _print(paths: Sequence[Path], predictions: Predictions, top: int, views: int) -> None:
    """Print a line for each picture, and a warning."""
    console = answer_console()
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("picture", no_wrap=True, overflow="ellipsis")
    table.add_column("class", no_wrap=True)
    table.add_column("probability", no_wrap=True, justify="right")
    if top > 1:
        table.add_column("next", no_wrap=True, overflow="ellipsis")
    names = predictions.data_set.classes
    values, classes = predictions.probabilities.topk(top)
    for path, shares, indices in zip(paths, values.tolist(), classes.tolist(), strict=True):
        likely = [(names[index], percent(share)) for index, share in zip(indices, shares, strict=True)]
        following = [Text(", ".join(" ".join(each) for each in likely[1:]))] if top > 1 else []
        table.add_row(Text(printable(path)), *likely[0], *following)
    print_table(console, table)
    if views > 1:
        console.print(f"Each answer is the mean of those to {views} views of the picture (test-time augmentation).")
    console.print(f"It knows only these classes: {', '.join(names)}. A picture of anything else gets one of them too.")


main = main_of(build_parser, _run, stopped="stopped; nothing was predicted")

if __name__ == "__main__":
    start(main)
