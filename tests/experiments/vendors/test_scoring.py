from __future__ import annotations

import datetime
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cifar_core.data.data_set import CIFAR10
from experiments.decision.facts import Facts
from experiments.reading.study import ImageAnswers
from experiments.reading.vendor_score import VendorScore, load_scores
from experiments.vendors.answers import NOT_ANSWERED, Answer, image_name
from experiments.vendors.scoring import keep, score
from sweeps.store import Store
from sweeps.validation import InvalidFileError
from tests.experiments.support import with_artifacts

LABELS = [index % 10 for index in range(100)]


def answer(index: int, text: str | None = None, **fields: Any) -> Answer:
    return Answer(image_name(index), CIFAR10.classes[LABELS[index]] if text is None else text, **fields)


def scored(demo: Facts, answers: list[Answer], ours: ImageAnswers | None = None) -> VendorScore:
    study = with_artifacts(demo, answers={} if ours is None else {"a" * 32: ours}).study
    return score(answers, LABELS, study, vendor="A|B", sha256="0" * 64, today=datetime.date(2026, 11, 27))


def test_what_names_no_class_or_is_missing_is_wrong_and_counted(demo: Facts) -> None:
    answers = [answer(index, seconds=index / 100, usd=0.01) for index in range(90)]
    answers[0] = answer(0, "no idea", seconds=9.0, usd=0.01)
    answers[1] = answer(1, "cat or automobile", seconds=9.0, usd=0.01)
    answers.append(Answer(image_name(3), "", None, 0.5, NOT_ANSWERED))  # a try that broke off
    found = scored(demo, answers)
    assert (found.right, found.images, found.unparsable, found.missing) == (88, 100, 2, 10)
    assert found.classes["airplane"] == (8, 10)
    assert found.classes["ship"] == (9, 10)
    assert found.p95_seconds == pytest.approx(0.87)
    assert found.usd == pytest.approx(0.9), "without the try that failed"
    assert scored(demo, [*answers, answer(95)]).usd is None, "the cost of one is not known"
    assert found.accuracy.low == pytest.approx(0.8019, abs=1e-4)
    assert (found.mcnemar, found.study) == (None, "")


@pytest.mark.parametrize(("timed", "within"), [(0, None), (1, None), (58, None), (59, 3.2)])
def test_a_few_times_do_not_tell_within_what_95_percent_come(demo: Facts, timed: int, within: float | None) -> None:
    answers = [answer(index, seconds=3.2 if index < timed else None) for index in range(100)]
    assert scored(demo, answers).p95_seconds == within


def test_it_is_compared_with_ours_image_by_image(demo: Facts) -> None:
    true = tuple(CIFAR10.classes[label] for label in LABELS)
    ours = ImageAnswers(true, ("frog",) * 30 + true[30:], (1.0,) * 100)  # wrong on 27 of the first 30
    found = scored(demo, [answer(index) for index in range(95)], ours)
    assert found.mcnemar is not None
    counts = [found.mcnemar[name] for name in ("images", "ours_only", "theirs_only")]
    assert counts == [95, 0, 27], "the five without an answer are no errors of the vendor"
    assert found.mcnemar["p"] == pytest.approx(5.6e-7, rel=0.01)
    assert found.study == "demo"


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (
            [replace(answer(1), state=NOT_ANSWERED)],
            "at least one image must be answered, but none of 1 rows has an answer",
        ),
        ([answer(1), answer(1)], "each image must be answered once, but 00001.png is answered twice"),
        ([Answer("cat.png", "cat")], "image must be one of 00000.png to 00099.png, as exported, but got 'cat.png'"),
    ],
)
def test_an_image_is_answered_once_and_was_exported(demo: Facts, answers: list[Answer], message: str) -> None:
    with pytest.raises(InvalidFileError, match=message):
        scored(demo, answers)


def test_a_score_is_kept_with_its_answers_and_the_look_is_on_record(demo: Facts, tmp_path: Path) -> None:
    found = scored(demo, [answer(index) for index in range(100)])
    keep(found, b"image,answer\n", Store.locate(tmp_path))
    assert load_scores(tmp_path, CIFAR10) == {"a_b": found}
    assert (tmp_path / "vendors" / "a_b-9a5bcfec" / "answers.csv").read_bytes() == b"image,answer\n"
    [look] = [json.loads(line) for line in (tmp_path / "test_looks.jsonl").read_text().splitlines()]
    assert (look["study"], look["key"]) == ("vendors", "a_b-00000000")
    (tmp_path / "vendors" / "a_b-9a5bcfec" / "score.json").write_text("{}")
    with pytest.raises(InvalidFileError, match=r"score\.json: field 'vendor' is missing"):
        load_scores(tmp_path, CIFAR10)


def test_a_vendor_has_a_score_for_each_data_set(demo: Facts, tmp_path: Path) -> None:
    own = replace(CIFAR10, sha256="ab" * 32)
    first = scored(demo, [answer(index) for index in range(100)])
    second = replace(first, data_sha256=own.sha256, right=1)
    for found in (first, second):
        keep(found, b"image,answer\n", Store.locate(tmp_path))
    assert load_scores(tmp_path, CIFAR10) == {"a_b": first}
    assert load_scores(tmp_path, own) == {"a_b": second}
