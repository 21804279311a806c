"""Options of `run_study.py`, and what follows from them alone."""

from __future__ import annotations

import argparse
import itertools
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from cifar_core.data.download import default_data_dir
from cifar_core.data.image_folder import LAYOUTS
from cifar_core.data.own_images import SIDES, ImageSource
from cifar_core.errors import UserError
from cifar_core.hardware import DEVICES, Hardware
from cifar_core.transfer.backbone import ARCHITECTURES, Backbone, load_backbone
from sweeps.command_line import OneLineParser, add_store, existing_folder, number, positive_int, server_url
from sweeps.executors.engine import ENGINES, Engine, LocalEngine, RayEngine
from sweeps.planning.plan import PLACES
from sweeps.planning.presets import PRESETS, Preset, fixed_epochs
from sweeps.planning.search_space import SearchSpace
from sweeps.planning.space_file import SPACES
from sweeps.store import RESERVED_STUDIES, Store, folder_name
from sweeps.studies.given_recipes import EARLIER_RECIPES
from sweeps.studies.pruners import PRUNERS
from sweeps.studies.study import SAMPLERS

_STUDY_LETTERS = 200  # of 255 that a file system allows


def build_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="run_study.py",
        description="Search for the best image classifier at equal compute per trial, confirm the best few "
        "with more compute, and test the champion once. After an interruption the same command resumes the sweep.",
        epilog="Browse the runs with `make ui`. Write the report again with `python experiments/compare.py`.",
    )
    _add_search(parser)
    _add_adapting(parser)
    _add_machine(parser)
    _add_data(parser)
    _add_store(parser)
    return parser


def _add_search(parser: argparse.ArgumentParser) -> None:
    search = parser.add_argument_group("the search")
    search.add_argument(
        "--trials", type=positive_int, default=50, metavar="N", help="trials in total (default: %(default)s)"
    )
    search.add_argument(
        "--space",
        default="full",
        metavar="NAME|FILE.toml",
        help=f"{_listing(SPACES, 'full')}; or a file of your own (docs/sweeps.md)",
    )
    length = search.add_mutually_exclusive_group()
    length.add_argument("--preset", choices=list(PRESETS), help=_listing(PRESETS, "quick on a CPU, standard on a GPU"))
    length.add_argument(
        "--epochs",
        type=_epochs,
        metavar="N",
        help="train every run for N epochs instead of a compute budget",
    )
    search.add_argument(
        "--seed", type=_seed, default=0, metavar="N", help="seed of the whole sweep (default: %(default)s)"
    )
    search.add_argument(
        "--sampler",
        choices=sorted(SAMPLERS),
        default="tpe",
        help="tpe: learns from pruned trials too; gp: a Gaussian process, and cmaes: CMA-ES, which draws choices at "
        "random, learn from complete trials alone; random: random search (default: %(default)s)",
    )
    search.add_argument(
        "--pruner",
        choices=sorted(PRUNERS),
        default="halving",
        help="halving: end a trial after 1/4 unless it is among the best quarter of the trials of its network; "
        "hyperband: Optuna's, which compares trials of all networks; median: end it below the median of the trials of "
        "its network; none: train all to the end (default: %(default)s)",
    )
    search.add_argument(
        "--enqueue",
        nargs="+",
        action="extend",
        default=[],
        metavar="RECIPE",
        help="recipes to try first: names in cifar_core/recipes, 'systems' for the five published ones, or "
        "TOML files (default: those that the space names)",
    )
    search.add_argument(
        "--from",
        dest="source",
        metavar="STUDY",
        help=f"try the {EARLIER_RECIPES} best recipes of an earlier study in the store first",
    )
    search.add_argument(
        "--max-parameters", type=positive_int, metavar="N", help="train only networks of at most N weights"
    )
    search.add_argument(
        "--max-latency",
        type=_positive_float,
        metavar="MS",
        help="train only networks whose latency for one image on this machine is at most MS milliseconds",
    )
    search.add_argument(
        "--timeout",
        type=_positive_float,
        metavar="SECONDS",
        help="start no new trial once the search has run for so long, earlier commands included",
    )
    search.add_argument(
        "--patience",
        type=positive_int,
        metavar="N",
        help="start no new trial after N trials in a row without a new best",
    )
    search.add_argument("--no-starts", action="store_true", help="do not try the space's known-good recipes first")
    search.add_argument(
        "--no-confirm", action="store_true", help="stop after the search: no confirmation, no final, no test"
    )


def _add_adapting(parser: argparse.ArgumentParser) -> None:
    adapt = parser.add_argument_group("adapting a pretrained network (docs/adapting.md)")
    when = adapt.add_mutually_exclusive_group()
    when.add_argument(
        "--adapt",
        action="store_true",
        help="adapt a pretrained network too, as the study NAME-adapted, once the sweep ends",
    )
    when.add_argument(
        "--adapt-only", action="store_true", help="adapt a pretrained network, and train none from nothing"
    )
    adapt.add_argument(
        "--backbone",
        metavar="NAME|FILE",
        help=f"{', '.join(ARCHITECTURES)}, or a file of weights of one of them: safetensors, or a checkpoint that "
        "loads with weights only (default: the first whose package is installed)",
    )
    adapt.add_argument(
        "--no-fine-tune",
        action="store_true",
        help="only fit heads; otherwise the last blocks are trained too, with 23 %% of the compute of a final run",
    )


def _add_machine(parser: argparse.ArgumentParser) -> None:
    machine = parser.add_argument_group("the machine")
    machine.add_argument("--device", choices=DEVICES, default="auto", help="default: %(default)s")
    machine.add_argument(
        "--workers",
        type=positive_int,
        metavar="N",
        help="number of parallel runs (default: one per CPU core or GPU, or as many as fit into memory)",
    )
    machine.add_argument(
        "--engine",
        choices=ENGINES,
        default="local",
        help="train on this machine, or on a Ray cluster (docs/clusters.md; default: %(default)s)",
    )
    machine.add_argument(
        "--address",
        metavar="HOST:PORT",
        help="head of the cluster (default: auto, the one that this machine belongs to)",
    )
    machine.add_argument(
        "--cpus-per-trial",
        type=_cpus,
        metavar="N",
        help="CPUs of each trial on the cluster, and its threads (default: 1)",
    )
    machine.add_argument(
        "--gpus-per-trial",
        type=_gpus,
        metavar="N",
        help="GPUs of each trial on the cluster, or a fraction of one (default: 0, train on CPUs)",
    )


def _add_data(parser: argparse.ArgumentParser) -> None:
    data = parser.add_argument_group("the data")
    given = data.add_mutually_exclusive_group()
    given.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help=f"folder of CIFAR-10; files that it lacks are downloaded into it (default: {default_data_dir()})",
    )
    given.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help=f"your own pictures in place of CIFAR-10: {LAYOUTS} (docs/own-images.md)",
    )
    data.add_argument(
        "--labels", type=Path, metavar="FILE", help="CSV file with the columns path (from --images) and label"
    )
    data.add_argument(
        "--size",
        type=_size,
        metavar=f"{{{','.join(map(str, SIDES))}}}",
        help=f"pixels of your pictures once scaled (default: {SIDES[0]})",
    )
    data.add_argument("--skip-unreadable", action="store_true", help="leave out files that are no readable pictures")


def _add_store(parser: argparse.ArgumentParser) -> None:
    keep = parser.add_argument_group("where results go")
    look = keep.add_mutually_exclusive_group()
    look.add_argument("--status", action="store_true", help="print the status of the study, and change nothing")
    look.add_argument("--replay", action="store_true", help="send MLflow the entries that it missed or refused")
    look.add_argument("--verify", action="store_true", help="check the store for faults; exit 1 if there are any")
    look.add_argument(
        "--repair",
        action="store_true",
        help="list the faults of the store, then repair those that have one possible repair",
    )
    keep.add_argument("--study", metavar="NAME", help="name of the study (default: from preset, space and seed)")
    add_store(keep)
    keep.add_argument(
        "--keep-weights",
        action="store_true",
        help="keep the weights of every complete trial too, beside those of confirmations and finals",
    )
    keep.add_argument(
        "--notify",
        metavar="COMMAND",
        help="run this shell command at the end or on a failure, with SWEEP_STATE (finished, interrupted or failed), "
        "SWEEP_STUDY, SWEEP_STORE and, once known, SWEEP_VAL_ACCURACY, SWEEP_TEST_ACCURACY and SWEEP_TTA_ACCURACY in "
        "its environment",
    )
    keep.add_argument(
        "--checkpoints",
        type=existing_folder,
        metavar="DIR",
        help="existing folder outside the store for the checkpoints of running trials (default: in the store); on a "
        "cluster one that all nodes share, so that a trial survives its node",
    )
    keep.add_argument(
        "--storage",
        type=server_url,
        metavar="URL",
        help="an Optuna storage, such as PostgreSQL, instead of the database in the store (docs/clusters.md)",
    )


def choose_device(options: argparse.Namespace) -> str:
    """Return the kind of device that runs train on.

    Raises:
        UserError: there is none of that kind here, or options do not go together.
    """
    if options.engine == "local":
        _refuse(options, ("address", "cpus_per_trial", "gpus_per_trial"), "--engine ray, but the engine is local")
        return Hardware.detect(options.device).device.type
    _refuse(options, ("max_latency", "adapt", "adapt_only"), "--engine local, but the engine is ray")
    device = "cuda" if options.gpus_per_trial else "cpu"
    if options.device not in ("auto", device):
        given = "a GPU" if options.gpus_per_trial else "no GPU"
        raise UserError(f"--device must be auto or {device} for trials that take {given}, but got {options.device}")
    return device


def open_engine(options: argparse.Namespace, device: str) -> Engine:
    """Return the place to train in.

    Raises:
        UserError: it cannot be used as asked.
    """
    most = choose_preset(options, device).largest_stage(options.trials, confirm=not options.no_confirm)
    if options.engine == "local":
        return LocalEngine(device, options.workers, options.size or SIDES[0], most)
    return RayEngine(
        options.address or "auto",
        cpus=options.cpus_per_trial or 1.0,
        gpus=options.gpus_per_trial or 0.0,
        most=min(options.workers or most, most),
        checkpoints=options.checkpoints,
        say=print,
    )


def choose_preset(options: argparse.Namespace, device: str) -> Preset:
    """Return the preset that is asked for, or that of the device; with `--epochs` one of that length."""
    if options.epochs is not None:
        return fixed_epochs(options.epochs)
    return PRESETS[options.preset or ("quick" if device == "cpu" else "standard")]


def name_study(options: argparse.Namespace, preset: Preset, space: SearchSpace) -> str:
    """Return the name that is asked for, or one from the data, the preset, the space and the seed.

    Raises:
        UserError: no study can have that name.
    """
    seed, starts = [f"seed{options.seed}"] * (options.seed != 0), ["nostarts"] * options.no_starts
    data = [] if options.images is None else [ImageSource(folder=options.images).name]
    size = [] if options.size in (None, SIDES[0]) else [f"{options.size}px"]
    parts = [*data, *size, preset.name, space.name, *seed, *starts]
    name: str = "-".join(parts) if options.study is None else options.study
    if name in RESERVED_STUDIES:
        reserved = ", ".join(RESERVED_STUDIES)
        raise UserError(f"--study must not be one of {reserved}, which other commands or MLflow use, but got {name!r}")
    if not name.strip() or "/" in name or "\\" in name or name.startswith((".", "-")):
        raise UserError(f"--study must be a name without slashes that begins with no dot or hyphen, but got {name!r}")
    if not name.isprintable():
        raise UserError(f"--study must be a name without line breaks and control characters, but got {name!r}")
    if len(folder_name(name)) > _STUDY_LETTERS:
        raise UserError(
            f"--study must be a name of at most {_STUDY_LETTERS} letters once quoted for a folder, but got {name!r}"
        )
    return name


def locate_store(options: argparse.Namespace) -> Store:
    """Return the store, without touching it.

    Raises:
        UserError: the checkpoints would lie among its other files.
    """
    # `Path.resolve` raises for a link to itself.
    store = os.path.realpath(options.store)
    if options.checkpoints is not None and Path(os.path.realpath(options.checkpoints)).is_relative_to(store):
        raise UserError(f"--checkpoints must be a folder outside the store, but got {options.checkpoints}")
    return Store.locate(
        options.store,
        tracking_uri=options.tracking_uri,
        storage_url=options.storage,
        checkpoints=options.checkpoints,
    )


def image_source(options: argparse.Namespace) -> ImageSource | None:
    """Return the user's own pictures, if there are any.

    Raises:
        UserError: an option about them is given without them.
    """
    if options.images is not None:
        return ImageSource(
            folder=options.images,
            labels=options.labels,
            side=options.size or SIDES[0],
            skip_unreadable=options.skip_unreadable,
        )
    _refuse(options, ("labels", "size", "skip_unreadable"), "--images, but there is none")
    return None


def name_places(options: argparse.Namespace) -> str:
    """Return those of the options in `PLACES` that were given, for the commands that a report prints.

    Those of the store and the pictures are left out: a study tells whether its command had them.
    """
    given = (options.labels, options.skip_unreadable, options.storage)
    return " ".join(itertools.compress(PLACES, given))


def find_backbone(options: argparse.Namespace) -> Backbone | None:
    """Load the pretrained network, if one is to be adapted.

    Raises:
        UserError: an option of adapting is given, but no network is to be adapted.
        BackboneError: it cannot be loaded.
    """
    if options.adapt or options.adapt_only:
        return load_backbone(options.backbone)
    _refuse(options, ("backbone", "no_fine_tune"), "--adapt or --adapt-only, but there is neither")
    return None


def public_command(arguments: Sequence[str]) -> str:
    """Return the command line without --notify, which may hold a password; `server_url` refuses those in URLs."""
    kept = list(arguments)
    for place in reversed(range(len(kept))):
        option, equals, _ = kept[place].partition("=")
        if len(option) > len("--no") and "--notify".startswith(option):
            del kept[place : place + (1 if equals else 2)]
    return shlex.join(["python", "sweeps/run_study.py", *kept])


def _refuse(options: argparse.Namespace, names: Sequence[str], needed: str) -> None:
    """Refuse options, named as attributes, that need what is not there."""
    for name in names:
        given = getattr(options, name)
        if given is not None and given is not False:  # 0 is given too
            raise UserError(f"--{name.replace('_', '-')} must come with {needed}")


def _listing(table: Mapping[str, Preset] | Mapping[str, SearchSpace], default: str) -> str:
    entries = "; ".join(f"{name}: {entry.description}" for name, entry in table.items())
    return f"{entries} (default: {default})".replace("%", "%%")


_positive_float = number("must be a number above 0", lambda value: 0 < value < float("inf"), float)
# Ray counts CPUs and GPUs in units of 0.0001.
_cpus = number("must be a number of at least 0.0001", lambda value: 0.0001 <= value < float("inf"), float)
_gpus = number(
    "must be a whole number or a fraction of 1 of at least 0.0001",
    lambda value: value == 0 or 0.0001 <= value <= 1 or (value > 1 and float(value).is_integer()),
    float,
)
_epochs = number("must be a number above 0 and at most 10000", lambda value: 0 < value <= 10_000, float)
_size = number(f"must be one of {', '.join(map(str, SIDES))}", lambda value: value in SIDES, int)
_seed = number("must be a whole number in [0, 2**32)", lambda value: 0 <= value < 2**32, int)
