"""Export the sealed test images of a study under neutral names, for a service to label.

python experiments/export_test.py DIR [--study NAME]
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from PIL import Image

from cifar_core.data.data_set import CIFAR10, DataSet
from cifar_core.data.source import DataSource
from cifar_core.files import write_atomically
from experiments.reading.load_study import read_tables
from experiments.reading.study_reader import StudyReader
from experiments.vendors.answers import DESCRIPTION, PROMPT, image_name, prompt_for, read_data_set
from sweeps.command_line import OneLineParser, add_store, main_of, start, store_of
from sweeps.console import SweepConsole
from sweeps.snapshot import readable
from sweeps.store import VENDORS, Store, StoreError

SIDE = 256  # pixels: services enlarge smaller images, or read them badly


def build_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="export_test.py",
        description="Write the test images of a study as PNG files under neutral names, enlarged to "
        f"{SIDE} x {SIDE} pixels, with the class names and the prompt. The store's record of test set evaluations gets "
        "a line: choose nothing by these images. The same command writes them again, as after an interruption; that "
        "counts once.",
        epilog="Answers go into a CSV file with the columns image and answer (and maybe seconds and usd), which "
        "score_answers.py scores; ask_vendor.py gets them from an API.",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="a new or empty folder, or that of an earlier export")
    parser.add_argument(
        "--study", metavar="NAME", help="whose images (default: the most recent study; CIFAR-10 where there is none)"
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of CIFAR-10 (default: the cache folder)")
    add_store(parser)
    return parser


def _run(options: argparse.Namespace) -> int:
    folder, store = options.folder, store_of(options)
    data_set = _data_set(store, options.study)
    if not _is_free(folder, data_set):
        earlier = f"one with an earlier export of {data_set.name}"
        raise StoreError(f"DIR must be a new or empty folder, or {earlier}, but {folder} is not")
    with SweepConsole() as console:
        load = DataSource.find(data_set.sha256, data_set.name, options.data, console.progress).test
        try:
            record = store.test_set_evaluations
            recorded = (VENDORS, "export") in store.evaluations(data_set.sha256)
            if not recorded and not os.access(next(filter(Path.exists, (record, *record.parents))), os.W_OK):
                raise StoreError(f"the store must be a folder to write to, but {store.root} is not")
            write_atomically(folder / DESCRIPTION, data_set.to_json() + b"\n")
            store.root.mkdir(parents=True, exist_ok=True)
            if not recorded:
                store.record_test_set_evaluation(study=VENDORS, key="export", data_sha256=data_set.sha256)
            images = load().images.permute(0, 2, 3, 1).numpy()
            (folder / PROMPT).unlink(missing_ok=True)  # the last file of a whole export
            (folder / "images").mkdir(exist_ok=True)
            for number, pixels in enumerate(images, start=1):
                picture = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
                picture.save(folder / "images" / image_name(number - 1), compress_level=1)  # a quarter of the time
                console.progress("writing the test images", number, len(images), "images")
            write_atomically(folder / "classes.txt", "\n".join(data_set.classes) + "\n")
            write_atomically(folder / PROMPT, prompt_for(data_set.classes) + "\n")
        except OSError as error:
            raise StoreError(f"DIR and the store must be folders to write to, but: {error}") from error
    print(
        f"{len(images):,} images, classes.txt and prompt.txt are in {folder}; the store {store.root} has a record of "
        "this use of the test set"
    )
    return 0


def _is_free(folder: Path, data_set: DataSet) -> bool:
    """Return true if the folder is missing or empty, or has an export of these images, whole or cut short.

    Raises:
        StoreError: it cannot be read.
    """
    try:
        if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
            return True
    except OSError as error:
        raise StoreError(f"DIR must be a new or empty folder, but: {error}") from error
    try:
        return read_data_set(folder).sha256 == data_set.sha256
    except (OSError, ValueError):
        return False


def _data_set(store: Store, study: str | None) -> DataSet:
    """The data set of the study; without a name, of the most recent one, and CIFAR-10 where there is none."""
    if study is None and not store.has_mlflow():
        return CIFAR10
    with readable(store) as place:
        reader = StudyReader(place)
        return CIFAR10 if study is None and reader.is_empty() else read_tables(reader, study).data_set


main = main_of(build_parser, _run, stopped="stopped; the same command starts again")

if __name__ == "__main__":
    start(main)
