"""Score a vendor's answers to the test images that `export_test.py` wrote, and keep them in the store.

python experiments/score_answers.py ANSWERS.csv --vendor NAME
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
from pathlib import Path

from cifar_core.data.source import DataSource
from cifar_core.evaluation.serving import LEAST_TIMED
from experiments.pages.text import duration, fine_percent, probability, span
from experiments.reading.load_study import read_study
from experiments.reading.published import load_published
from experiments.reading.scenario import DEFAULT_SCENARIO, load_scenario, slug
from experiments.reading.study import Study
from experiments.reading.study_reader import StudyReader
from experiments.reading.vendor_score import VendorScore
from experiments.vendors.answer_file import read_source
from experiments.vendors.answers import DESCRIPTION, parse_answers, read_content, read_data_set
from experiments.vendors.scoring import keep, score
from sweeps.command_line import OneLineParser, add_store, main_of, start, store_of
from sweeps.console import SweepConsole
from sweeps.snapshot import readable
from sweeps.validation import InvalidFileError
from sweeps.words import counted, did_you_mean, percent


def build_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="score_answers.py",
        description="Score a service's answers to the test images: accuracy with its interval, the classes, and "
        "McNemar's test against the champion of a study. The report then counts the vendor as measured.",
        epilog="The CSV file has the columns image and answer, and maybe seconds and usd. An answer that names no "
        "class, or several, is wrong, and so is an image without an answer.",
    )
    parser.add_argument("answers", type=Path, metavar="ANSWERS.csv", help="the file of answers")
    parser.add_argument("--vendor", required=True, metavar="NAME", help="the vendor's name in the scenario")
    parser.add_argument(
        "--scenario",
        type=Path,
        default=DEFAULT_SCENARIO,
        metavar="FILE",
        help="the scenario that has the vendor (default: experiments/data/scenario.toml)",
    )
    parser.add_argument(
        "--study",
        metavar="NAME",
        help="whose test images, and whose champion to compare with (default: the most recent study)",
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of CIFAR-10 (default: the cache folder)")
    add_store(parser)
    return parser


def _run(options: argparse.Namespace) -> int:
    _check_vendor(options.vendor, options.scenario)
    content = read_content(options.answers)
    answers = parse_answers(content, options.answers.name)
    store = store_of(options)
    with readable(store) as place:
        study = read_study(StudyReader(place), options.study)
    _check_images(options.answers, study)
    with SweepConsole() as console:
        source = DataSource.find(study.data_set.sha256, study.data_set.name, options.data, console.progress)
    try:
        found = score(
            answers,
            source.test().labels.tolist(),
            study,
            vendor=options.vendor,
            sha256=hashlib.sha256(content).hexdigest(),
            today=datetime.datetime.now(datetime.UTC).date(),
        )
    except InvalidFileError as error:
        raise InvalidFileError(f"{options.answers.name}: {error}") from error
    keep(found, content, store)
    _print(found, study.name)
    return 0


def _check_vendor(name: str, scenario: Path) -> None:
    """Check that the report will find the score.

    Raises:
        InvalidFileError: the scenario has no vendor of that name, or breaks a rule.
    """
    known = [vendor.name for vendor in load_scenario(load_published(), scenario).vendors]
    if slug(name) not in map(slug, known):
        more = "; --scenario FILE takes another scenario" if scenario == DEFAULT_SCENARIO else ""
        raise InvalidFileError(
            f"--vendor must be a vendor of {scenario.name}, but got {name!r}{did_you_mean(name, known)}{more}"
        )


def _check_images(answers: Path, study: Study) -> None:
    """Check that a file of answers is of the images of the study, as far as the files beside it say so.

    Raises:
        InvalidFileError: it is of others, or a file beside it is damaged.
    """
    if (source := read_source(answers)) is not None:
        name, sha256 = source.data_set, source.images
    elif (answers.parent / DESCRIPTION).exists():
        try:
            data_set = read_data_set(answers.parent)
        except (OSError, ValueError) as error:
            raise InvalidFileError(f"{DESCRIPTION} must be what export_test.py wrote, but: {error}") from error
        name, sha256 = data_set.name, data_set.sha256
    else:
        return
    if sha256 != study.data_set.sha256:
        raise InvalidFileError(
            f"--study must be one of {name}, as {answers} has answers to its images, but {study.name!r} is of "
            f"{study.data_set.name}"
        )


def _print(found: VendorScore, study: str) -> None:
    accuracy = found.accuracy
    print(f"{found.vendor}: {fine_percent(accuracy.mean)} of {found.images:,} images (95 % interval {span(accuracy)})")
    if found.missing:
        print("  the interval reaches up to where the missing answers would all be right")
    print(
        f"  counted as wrong: {counted(found.unparsable, 'answer')} with no class or several, {found.missing:,} missing"
    )
    for name, (right, images) in found.classes.items():
        print(f"  {name:<12} {percent(right / images, 1) if images else 'no images':>9}")
    if found.p95_seconds is not None:
        print(f"  95 % of the answers came within {duration(found.p95_seconds)}")
    else:
        print(f"  fewer than {LEAST_TIMED} answers have a time: too few to tell within what 95 % come")
    if found.usd is not None:
        print(f"  the answers cost ${found.usd:,.4f}")
    if found.mcnemar is None:
        print(f"  study {study} has no predictions of a champion to compare with; --study NAME takes another study")
    else:
        images, ours, theirs = (int(found.mcnemar[name]) for name in ("images", "ours_only", "theirs_only"))
        print(f"  against the champion of {found.study}, on {counted(images, 'answered image')}: it alone is right on "
              f"{theirs:,}, the champion alone on {ours:,} ({probability(found.mcnemar['p'])}, McNemar)")  # fmt: skip


main = main_of(build_parser, _run, stopped="stopped; nothing was kept")

if __name__ == "__main__":
    start(main)
