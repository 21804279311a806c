"""The commands that a report prints.

A report tells neither the folder nor the servers of its store, nor the folder and labels of one's own images: STORE,
URI, URL, DIR and FILE stand for them.
"""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Mapping

from cifar_core.data.data_set import CIFAR10
from cifar_core.data.own_images import SIDES
from experiments.reading.scenario import Scenario, Vendor
from experiments.reading.study import Study
from sweeps.planning.plan import PLACES
from sweeps.planning.presets import PRESETS
from sweeps.planning.space_file import SPACES
from sweeps.tracking.registry import model_name

# Parameters of a study that are options of its command.
_OPTIONS = (
    "study",
    "trials",
    "preset",
    "epochs",
    "space",
    "seed",
    "sampler",
    "pruner",
    "max_parameters",
    "max_latency",
    "timeout",
    "patience",
    "from",
)


def run_study(study: Study, /, **changes: str | None) -> str:
    """The command that runs the study, below a comment on a space of one's own; without changes it resumes it.

    Args:
        changes: options in place of those that the study has; None: left out.
    """
    given = _given(study)
    lines, built_in = [], SPACES.get(given.get("space") or "")
    sha256 = given.get("space_hash")
    if given.get("space") and sha256 is not None and (built_in is None or built_in.hash != sha256):
        given["space"] = f"{given['space']}.toml"  # a study resumes with the name of its space, which is the file's
        lines.append(f"# {given['space']} is the artifact space.toml of the study's own run in MLflow, under this name")
    given |= changes
    options = _options(given)
    options += " --no-starts" if given.get("starts") == "False" else ""
    options += f" --enqueue {enqueued}" if (enqueued := _enqueued(given.get("enqueue") or "")) else ""
    return "\n".join([*lines, _sweep(study, options)])


def run_longer_study(study: Study) -> str:
    """The command for a study that trains for longer, whose network may be more accurate; "" if no preset does."""
    longer = dict(itertools.pairwise(PRESETS)).get(study.params.get("preset", ""))
    if not longer:
        return ""
    return run_study(study, study=f"{study.name}-{longer}", trials=None, timeout=None, patience=None, preset=longer)


def adapt(study: Study) -> str:
    """The command that adapts a pretrained network beside the study, or resumes that."""
    given = _given(study)
    options = _options({name: given.get(name) for name in ("study", "preset", "epochs", "seed")})
    return _sweep(study, f"{options} --adapt-only")


def measure_labels(study: Study) -> str:
    """The command that measures the label curve of the study."""
    return f"python experiments/label_curve.py {_of(study)}"


def measure_vendor(study: Study, scenario: Scenario, vendor: Vendor, *, exported: bool) -> str:
    """The commands that measure a vendor on the test images.

    Args:
        exported: the test images have been exported already, so that command is left out.
    """
    own = study.data_set.sha256 != CIFAR10.sha256
    folder = f"test-images-{study.data_set.sha256[:8]}" if own else "test-images"
    lines = [] if exported else [f"python experiments/export_test.py {folder} {_of(study)}"]
    answers = "ANSWERS.csv"
    if vendor.tokens:
        answers = f"{folder}/MODEL.csv"
        images = f" --images {folder}" if own else ""
        ask = f"python experiments/ask_vendor.py --url URL --model MODEL --price {vendor.tokens.key}{images}"
        lines.append(f"VENDOR_KEY=... {ask}")
    named = f"--vendor {shlex.quote(vendor.name)}{_own(scenario)}"
    return "\n".join([*lines, f"python experiments/score_answers.py {answers} {named} {_of(study)}"])


def set_price(study: Study) -> str:
    """The command that gives the study's machine a price."""
    return f"python experiments/compare.py {_of(study)} --scenario mine.toml  # with compute = PRICE"


def serve(study: Study) -> str:
    """The command that serves the champion of the study over HTTP; the store may have one of other images too."""
    model = model_name(study.data_set.name, study.data_set.sha256)
    store = "" if study.in_default_store else " STORE=STORE"
    return f'make serve{store} ARGS="--model {model}{" --tracking-uri URI" if study.on_server else ""}"'


def reproduce(study: Study, scenario: Scenario) -> str:
    """The commands that run the study and write its report again."""
    commit = study.tags.get("git_commit", "")
    lines = [f"git checkout {commit}"] if re.fullmatch(r"[0-9a-f]{7,40}", commit) else []
    compare = f"python experiments/compare.py --study {shlex.quote(study.name)}{_own(scenario)}{_store(study)}"
    return "\n".join([*lines, run_study(study), compare])


def _own(scenario: Scenario) -> str:
    """The option that names the scenario, after a space; "" for the example."""
    return "" if scenario.is_example else f" --scenario {shlex.quote(scenario.file)}"


def _sweep(study: Study, options: str) -> str:
    """The command of a sweep over the images of the study."""
    if study.data_set.sha256 != CIFAR10.sha256:
        options += " --images DIR" + (f" --size {study.data_set.side}" if study.data_set.side != SIDES[0] else "")
    places = "".join(f" {text}" for text in PLACES if text in study.tags.get("places", ""))
    return f"python sweeps/run_study.py {options}{places}{_store(study)}"


def _given(study: Study) -> dict[str, str | None]:
    """The options of the command that ran the study, and its other params; a param that is not printable is none."""
    printable = {name: value for name, value in study.params.items() if value.isprintable()}
    given: dict[str, str | None] = {"study": study.name, **printable}
    if (given.get("preset") or "").startswith("epochs-"):  # a sweep with --epochs has a preset of this name
        given["epochs"] = str(given.pop("preset")).removeprefix("epochs-")
    return given


def _options(given: Mapping[str, str | None]) -> str:
    """Return those of the values that are options of a command, as it has them."""
    known = {name: shlex.quote(value) for name in _OPTIONS if (value := given.get(name) or "None") != "None"}
    return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in known.items())


def _enqueued(text: str) -> str:
    """Return the recipes that a study was given first, quoted; "" if they are no words, or options."""
    try:
        words = shlex.split(text)
    except ValueError:  # a quote is open
        return ""
    return "" if any(word.startswith("-") for word in words) else shlex.join(words)


def _of(study: Study) -> str:
    """The options that name the study and its store."""
    return f"--study {shlex.quote(study.name)}{_store(study)}"


def _store(study: Study) -> str:
    """The options that name the store of the study, after a space; "" where they are not needed."""
    return ("" if study.in_default_store else " --store STORE") + (" --tracking-uri URI" if study.on_server else "")
