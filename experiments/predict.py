"""What a trained run says of your own pictures.

python experiments/predict.py RUN IMAGE...
"""

from __future__ import annotations

import argparse
import signal
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from mlflow import MlflowClient
from PIL import Image, ImageOps, UnidentifiedImageError
from rich.table import Table
from rich.text import Text
from torch import Tensor

from cifar_core.checkpoint import CheckpointError, load_weights
from cifar_core.data import CLASSES, Split
from cifar_core.errors import first_line
from cifar_core.evaluation.metrics import Predictions
from cifar_core.hardware import DEVICES, Hardware, HardwareError
from cifar_core.recipe import Recipe, RecipeError
from cifar_core.training import predict
from experiments.reading.studies import Reader
from sweeps.command_line import USAGE, OneLineParser, number
from sweeps.console import answer_console, percent
from sweeps.store import DEFAULT_STORE, Store, StoreError
from sweeps.tracking.mlflow_client import answering, every_run

_SIDE = 32  # pixels
_LETTERS = 4  # of an id, at least
_LISTED = 5  # runs in a message


class UsageError(Exception):
    """Arguments that cannot be; the message is one line."""


@dataclass(frozen=True, slots=True)
class KnownRun:
    """A run of the store, and where its weights would lie."""

    run_id: str
    name: str
    experiment: str
    weights: Path

    @property
    def kept(self) -> bool:
        return self.weights.is_file()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, 2 for arguments that cannot be, 130 when interrupted."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    try:
        images = torch.stack([read_image(path) for path in options.images])
        hardware = Hardware.detect(options.device)
        store = Store.locate(options.store, tracking_uri=options.tracking_uri)
        predictions = _ask(options.run, images, store, hardware)
    except (UsageError, RecipeError, CheckpointError, HardwareError, StoreError) as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        print("stopped; nothing was predicted", file=sys.stderr)
        return 128 + signal.SIGINT
    _show(options.images, predictions, options.top)
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="predict.py",
        description="Say what a trained run takes pictures of your own for. Each is turned upright, cut to a square "
        f"around its middle and reduced to {_SIDE} x {_SIDE} pixels, as the network knows no other size.",
        epilog="Runs and their names: `make ui`. Weights are kept of confirmed runs, of reproductions, and of the "
        "complete trials of run_study.py --keep-weights.",
    )
    parser.add_argument("run", metavar="RUN", help=f"a run's id, {_LETTERS} or more of its first letters, or its name")
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="a picture file")
    parser.add_argument("--top", type=_classes, default=3, metavar="N", help="classes to name (default: %(default)s)")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="default: %(default)s")
    parser.add_argument("--store", type=Path, default=DEFAULT_STORE, metavar="DIR", help="default: mlruns")
    parser.add_argument("--tracking-uri", metavar="URI", help="an MLflow server in place of the store's database")
    return parser


def read_image(path: Path) -> Tensor:
    """The picture in a file as the network takes it: uint8 (3, 32, 32).

    Turned upright, transparent parts on white, cut to a square around the middle, and reduced without aliasing. Of an
    animation, it is the first frame.

    Raises:
        UsageError: the file is missing, unreadable, too large, or no image.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of oddities that do no harm
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as file:
                image = _to_rgb(_middle(ImageOps.exif_transpose(file)))
    except Exception as error:  # whatever a decoder makes of a damaged file
        raise UsageError(f"{_plain(path)}: this must be a readable picture, but got: {_cause(error)}") from error
    small = image.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1).contiguous()


def find_run(wanted: str, runs: Sequence[KnownRun]) -> KnownRun:
    """The run with this id or name, or whose id alone begins so.

    Raises:
        UsageError: there is none, or more than one.
    """
    found = [run for run in runs if run.run_id == wanted] or [
        run for run in runs if run.name == wanted or (len(wanted) >= _LETTERS and run.run_id.startswith(wanted))
    ]
    if not found:
        raise UsageError(
            f"RUN must be a run's id, at least {_LETTERS} of its first letters, or its name, but no run is {wanted!r}; "
            f"{_those_with_weights(runs)}"
        )
    if len(found) > 1:
        several = _listed([f"{run.run_id} ({run.name} in {run.experiment})" for run in found])
        raise UsageError(f"RUN must be one run, but {wanted!r} may be {several}")
    return found[0]


def _ask(wanted: str, images: Tensor, store: Store, hardware: Hardware) -> Predictions:
    """What the run that is wanted says of `images` uint8 (N, 3, 32, 32); the labels are none."""
    reader = Reader(store)
    runs = _known_runs(store)
    run = find_run(wanted, runs)
    if not run.kept:
        raise UsageError(f"run {run.name!r} ({run.run_id}) kept no weights: {_those_with_weights(runs)}")
    text = reader.artifact(run.run_id, "recipe.toml")
    if text is None:
        raise StoreError(f"a run must have the artifact recipe.toml, but {run.run_id} has none")
    recipe = Recipe.from_toml(text.decode(errors="replace"))
    model = hardware.place(load_weights(recipe, run.weights))
    nothing = torch.zeros(len(images), dtype=torch.long)
    return predict(model, Split(images, nothing), hardware, recipe.normalisation)


def _known_runs(store: Store) -> list[KnownRun]:
    """All runs of the store, the most recent first."""
    with answering(store.tracking_uri):
        client = MlflowClient(store.tracking_uri)
        names = {experiment.experiment_id: experiment.name for experiment in client.search_experiments()}
        runs = every_run(client, list(names))
    return [
        KnownRun(
            run_id=run.info.run_id,
            name=run.info.run_name or "",
            experiment=names[run.info.experiment_id],
            weights=store.weights(names[run.info.experiment_id], run.data.tags.get("key", "study")),
        )
        for run in runs
    ]


def _middle(image: Image.Image) -> Image.Image:
    """The largest square around the middle."""
    side = min(image.size)
    left, top = ((length - side) // 2 for length in image.size)
    return image.crop((left, top, left + side, top + side))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":  # more than 8 bits, which convert() would cut off at 255
        values = np.nan_to_num(np.asarray(image, dtype=np.float64))
        white = 65_535 if image.mode != "F" else max(1.0, values.max())
        image = Image.fromarray((values.clip(0, white) / white * 255).round().astype(np.uint8))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _show(paths: Sequence[Path], predictions: Predictions, top: int) -> None:
    """A line for each picture, and what to make of it."""
    console = answer_console()
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("picture", no_wrap=True, overflow="ellipsis")
    table.add_column("class", no_wrap=True)
    table.add_column("probability", no_wrap=True, justify="right")
    if top > 1:
        table.add_column("next", no_wrap=True, overflow="ellipsis")
    values, classes = predictions.probabilities.topk(top)
    for path, shares, indices in zip(paths, values.tolist(), classes.tolist(), strict=True):
        likely = [(CLASSES[index], percent(share)) for index, share in zip(indices, shares, strict=True)]
        following = [Text(", ".join(" ".join(each) for each in likely[1:]))] if top > 1 else []
        table.add_row(Text(_plain(path)), *likely[0], *following)
    console.print(table)
    console.print(
        f"These are the classes that it knows: {', '.join(CLASSES)}. A picture of anything else gets one of them too."
    )


def _those_with_weights(runs: Sequence[KnownRun]) -> str:
    kept = [f"{run.name} ({run.run_id[:8]})" for run in runs if run.kept]
    if not kept:
        return "so far none kept its weights; confirmed runs, reproductions and trials with --keep-weights do"
    return f"weights were kept by {_listed(kept)}"


def _listed(names: Sequence[str]) -> str:
    more = [f"{len(names) - _LISTED} more"] if len(names) > _LISTED else []
    return ", ".join([*names[:_LISTED], *more])


def _cause(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "no image format that is known"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return first_line(error)


def _plain(path: Path) -> str:
    """The path as given, but for letters that no line can hold."""
    text = str(path)
    return text if text.isprintable() else ascii(text)


_classes = number(f"must be a whole number from 1 to {len(CLASSES)}", lambda value: 1 <= value <= len(CLASSES), int)


if __name__ == "__main__":
    sys.exit(main())
