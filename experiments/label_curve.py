"""Measure the accuracy by the number of labelled images to train on, on the validation images.

    python experiments/label_curve.py [--study NAME] [--shares 0.01,0.03,0.1,0.3,1] [--pflop P]

The recipe of a study's champion, and heads on a pretrained network, learn from the same shares of the training labels,
which are nested and stratified. The same command resumes after an interruption. The study's report shows the curve.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from cifar_core.data import DataError, Splits
from cifar_core.data.data_set import CIFAR10, DataSet
from cifar_core.data.download import default_data_dir
from cifar_core.data.source import DataSource
from cifar_core.errors import UserError
from cifar_core.hardware import DEVICES, Hardware, set_up_cpu
from cifar_core.recipe import Recipe
from cifar_core.recipes import read_recipe
from cifar_core.transfer.adapted import flops_per_image
from cifar_core.transfer.backbone import ARCHITECTURES, Backbone, BackboneError, load_backbone
from experiments.labels.adapting import fit_all
from experiments.labels.plan import BUDGET, SHARES, AdaptRun, BuildRun, LabelRun, adapt_runs, build_runs
from experiments.labels.training import CurveContext, to_do, train_all
from experiments.reading.label_curve import CURVE, experiment_of
from experiments.reading.load_study import read_tables
from experiments.reading.named_runs import recipe_of
from experiments.reading.study_reader import StudyReader
from sweeps.command_line import (
    FAILED,
    Interrupted,
    OneLineParser,
    Stopper,
    add_store,
    main_of,
    number,
    start,
    store_of,
)
from sweeps.console import SweepConsole
from sweeps.lock import acquire
from sweeps.planning.speed import measure_speed
from sweeps.store import Store
from sweeps.studies.keys import STUDY_KEY
from sweeps.tracking.artifacts import DATA_SET
from sweeps.tracking.mlflow_client import connect, runs_of
from sweeps.tracking.provenance import provenance
from sweeps.tracking.tracker import MlflowTracker, RunLabel
from sweeps.words import about, to_number

_WITHOUT_STUDY = "fast94"  # the recipe where the store has no study
_OVERHEAD = 1.15  # for validation, pictures and checkpoints


@dataclass(frozen=True, slots=True)
class Subject:
    """Recipe and data set of a curve."""

    study: str  # or the name of a recipe
    recipe: Recipe
    source: str  # id of the run that the recipe is from; "": of none
    data_set: DataSet


def build_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="label_curve.py",
        description="Train the recipe of a study's champion on shares of the training labels, fit heads on a "
        "pretrained network to the same shares, and log the accuracies on the validation images to MLflow. The test "
        "set stays sealed. The same command resumes after an interruption.",
        epilog="`python experiments/compare.py --study NAME` writes the curve into the report. "
        "Exit code 1: a run failed, or MLflow lacks entries.",
    )
    parser.add_argument(
        "--study",
        metavar="NAME",
        help=f"whose champion (default: the most recent one; {_WITHOUT_STUDY} on CIFAR-10 if the store has none)",
    )
    parser.add_argument(
        "--shares",
        type=_parse_shares,
        default=SHARES,
        metavar="S,S,...",
        help=f"of the training labels, in (0, 1] (default: {','.join(f'{share:g}' for share in SHARES)})",
    )
    parser.add_argument(
        "--pflop",
        type=_pflop,
        metavar="P",
        help=f"training FLOPs of the whole curve, in 10^15 (default: {BUDGET / 1e15:g} for images of {CIFAR10.side} "
        "pixels, and more with their area)",
    )
    parser.add_argument(
        "--backbone",
        metavar="NAME|FILE",
        help=f"pretrained network to adapt: {', '.join(ARCHITECTURES)}, or a file of weights of one of them (default: "
        "the first whose package is installed, if any)",
    )
    parser.add_argument("--device", choices=DEVICES, default="auto", help="default: %(default)s")
    parser.add_argument("--data", type=Path, metavar="DIR", help=f"folder of CIFAR-10 (default: {default_data_dir()})")
    add_store(parser)
    return parser


def _run(options: argparse.Namespace) -> int:
    set_up_cpu()
    hardware = Hardware.detect(options.device)
    store = store_of(options)
    subject = subject_of(options.study, store)
    data_set = subject.data_set
    experiment = experiment_of(subject.study)
    budget = options.pflop * 1e15 if options.pflop else BUDGET * (data_set.side / CIFAR10.side) ** 2
    built = build_runs(subject.recipe, options.shares, budget, data_set)
    backbone, missing = _backbone(options.backbone)
    heads = adapt_runs(backbone, options.shares, data_set.train_images, len(data_set.classes)) if backbone else []
    runs = [*built, *heads]
    store.create()
    with acquire(store.lock(experiment), experiment), SweepConsole() as console:
        _check_images(store, experiment, data_set)
        data = DataSource.find(data_set.sha256, data_set.name, options.data, console.progress).train_val()
        tracker = MlflowTracker(store, experiment, source="experiments/label_curve.py", say=console.say)
        tags = provenance(data_set, hardware, torch.get_num_threads())
        _open(tracker, subject, experiment, runs, tags)
        left = len(to_do(heads, tracker))
        console.plan(_rows(subject, built, to_do(built, tracker), data, hardware, heads=left) | _adapted(heads, data))
        if missing:
            console.say(f"no adapted network: {missing}")
        stopper = Stopper()
        stopper.listen()  # not earlier, so that Ctrl-C ends a download at once
        context = CurveContext(
            experiment=experiment,
            data=data,
            hardware=hardware,
            store=store,
            tracker=tracker,
            console=console,
            tags=tags,
            stop=stopper.asked,
        )
        state, failed = "interrupted", 0
        try:
            _check_images(store, experiment, data_set)  # again: opening has sent what an earlier process left
            fit_all(heads, context)
            failed = train_all(built, context)
            state = "finished"
        except Interrupted:
            pass
        finally:
            tracker.end_study(state, {})
            lacking = tracker.finish(at_once=state == "interrupted")
    if state == "interrupted":
        print("stopped; the same command resumes the curve")
        return 128 + stopper.signal
    if failed:
        print(f"runs that failed: {failed}; the same command tries them again", file=sys.stderr)
    if subject.source:
        command = shlex.join(["python", "experiments/compare.py", "--study", subject.study, *store.as_option()])
        print(f"The report shows the curve: {command}")
    return FAILED if failed or lacking else 0


def subject_of(name: str | None, store: Store) -> Subject:
    """Return the study's best recipe.

    Raises:
        StoreError: there is no such store or study, or it lacks the recipe.
        UserError: no trial of the study is complete.
    """
    reader = StudyReader(store) if name is not None or store.has_mlflow() else None
    if reader is None or (name is None and reader.is_empty()):
        return Subject(_WITHOUT_STUDY, read_recipe(_WITHOUT_STUDY), "", CIFAR10)
    study = read_tables(reader, name)
    if not len(study.subject):
        raise UserError(f"--study must have a complete trial, but {study.name!r} has none yet")
    run_id = str(study.subject["run_id"].iloc[0])
    return Subject(study.name, recipe_of(run_id, reader), run_id, study.data_set)


def _check_images(store: Store, experiment: str, data_set: DataSet) -> None:
    """Check that runs of an earlier curve, whose keys do not tell their images, are of the same images.

    Raises:
        DataError: a study of that name had others, before it began anew.
    """
    for run in runs_of(connect(store.tracking_uri), experiment):
        found = run.data.tags.get("data_sha256", data_set.sha256)
        if run.data.tags.get("key") != STUDY_KEY and found != data_set.sha256:
            clean = (
                f"make clean-store{store.for_make()}" if store.holds_mlflow else f"mlflow gc for {store.tracking_uri}"
            )
            raise DataError(
                f"all runs of {experiment} must be of the images {data_set.sha256[:12]}, but {run.info.run_name!r} is "
                f"of {found[:12]}; delete that experiment in MLflow, then run {clean}"
            )


def _open(
    tracker: MlflowTracker, subject: Subject, experiment: str, runs: Sequence[LabelRun], tags: Mapping[str, str]
) -> None:
    """Start or resume the curve's own run; the report reads the plan from there."""
    plan = {"source": subject.source, "runs": [run.key for run in runs]}
    files = {CURVE: json.dumps(plan, indent=1).encode()}
    files[DATA_SET] = subject.data_set.to_json()
    tags = {"stage": "label-curve", "study": experiment, "source_study": subject.study, **tags}
    tracker.open_study(RunLabel(key=STUDY_KEY, name=experiment, tags=tags, params={}, files=files))


def _backbone(wanted: str | None) -> tuple[Backbone | None, str]:
    """Return the pretrained network, or why there is none, which is an error only where one was named.

    Raises:
        BackboneError: there is no such network.
    """
    try:
        return load_backbone(wanted), ""
    except BackboneError as error:
        if wanted is not None:
            raise
        return None, str(error)


def _rows(
    subject: Subject,
    runs: Sequence[BuildRun],
    todo: Sequence[BuildRun],
    data: Splits,
    hardware: Hardware,
    *,
    heads: int,
) -> dict[str, str]:
    """Return the plan as a table of two columns: `runs` train from nothing; `todo` of them and `heads` are left."""
    flops, left = (sum(run.flops for run in some) for some in (runs, todo))
    seeds = Counter(run.labels for run in runs)
    data_set, probe = subject.data_set, max(runs, key=lambda run: run.recipe.batch_size).recipe
    seconds = _OVERHEAD * left / measure_speed(probe, hardware, data_set) if todo else 0.0
    estimate = f"{about(max(60.0, seconds))} at the speed just measured" if todo else ""
    if heads:
        estimate = f"{estimate}, and the heads" if todo else "the heads alone, whose time is not known"
    return {
        "curve": f"{experiment_of(subject.study)}: {subject.recipe.model}",
        "device": f"{hardware.describe()}, {hardware.precision}, {torch.get_num_threads()} threads",
        "data": f"{data_set.name}: {len(data.train):,} labels, {len(data.val):,} images to validate on, no test image",
        "runs": ", ".join(f"{count} with {labels:,} labels" for labels, count in seeds.items()),
        "compute": f"{flops / 1e15:.3g} PFLOP" + ("" if left == flops else f", {left / 1e15:.3g} of it to do"),
        "estimate": estimate or "nothing is left to do",
    }


def _adapted(heads: Sequence[AdaptRun], data: Splits) -> dict[str, str]:
    """Return the row of the heads, if there are any."""
    if not heads:
        return {}
    backbone, images = heads[0].backbone, len(data.train) + len(data.val)
    work = images * flops_per_image(backbone) / 1e15
    cost = f"features of {images:,} images, {work:.2g} PFLOP unless they are in the cache"
    return {"adapted": f"{len(heads)} heads on {backbone.name}: {cost}"}


def _parse_shares(text: str) -> tuple[float, ...]:
    try:
        shares = tuple(sorted(to_number(part) for part in text.split(",")))
    except ValueError:
        shares = ()
    if not shares or not all(0 < share <= 1 for share in shares):
        raise argparse.ArgumentTypeError(f"must be numbers in (0, 1] with commas between them, but got {text!r}")
    return shares


_pflop = number("must be a number above 0 and at most 1e9", lambda value: 0 < value <= 1e9, float)


main = main_of(build_parser, _run, stopped="stopped before training; the same command starts again")

if __name__ == "__main__":
    start(main)
