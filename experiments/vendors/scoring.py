"""Score a vendor's answers to the test images, and keep them in the store."""

from __future__ import annotations

import datetime
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

from cifar_core.evaluation.serving import LEAST_TIMED, p95
from cifar_core.files import write_atomically
from experiments.reading.scenario import slug
from experiments.reading.study import Study
from experiments.reading.vendor_score import ANSWERS, SCORE, VendorScore, score_folder
from experiments.stats import mcnemar
from experiments.vendors.answers import NOT_ANSWERED, Answer, image_name, meant_class
from sweeps.store import VENDORS, Store, StoreError
from sweeps.validation import InvalidFileError


def score(
    answers: Sequence[Answer],
    labels: Sequence[int],
    study: Study,
    *,
    vendor: str,
    sha256: str,
    today: datetime.date,
) -> VendorScore:
    """Score answers to the test images of a study, and compare them with those of its champion, if they are on record.

    The interval of the accuracy holds missing answers for open; the comparison leaves their images out.

    Args:
        labels: classes of the test images, in their order.
        sha256: SHA-256 of the file of answers.

    Raises:
        InvalidFileError: no image is answered, one is answered twice, or is none of the exported ones.
    """
    given, data_set = _by_image(answers, len(labels)), study.data_set
    meant = {index: meant_class(answer.text, data_set.classes) for index, answer in given.items()}
    right = [meant.get(index) == data_set.classes[label] for index, label in enumerate(labels)]
    images, hits = Counter(labels), Counter(label for label, hit in zip(labels, right, strict=True) if hit)
    compared, ours = None, next(iter(study.artifacts.answers.values()), None)
    if ours is not None and len(ours.right) == len(right):
        test = mcnemar([ours.right[index] for index in given], [right[index] for index in given])
        counts = {"images": test.images, "ours_only": test.first, "theirs_only": test.second}
        compared = {name: float(count) for name, count in counts.items()} | {"p": test.p}
    times = [answer.seconds for answer in given.values() if answer.seconds is not None]
    costs = [answer.usd for answer in given.values() if answer.usd is not None]
    return VendorScore(
        vendor=vendor,
        date=today.isoformat(),
        sha256=sha256,
        data_sha256=data_set.sha256,
        images=len(labels),
        right=sum(right),
        unparsable=sum(found is None for found in meant.values()),
        missing=len(labels) - len(given),
        classes={name: (hits[label], images[label]) for label, name in enumerate(data_set.classes)},
        p95_seconds=p95(times) if len(times) >= LEAST_TIMED else None,
        usd=sum(costs) if len(costs) == len(given) else None,
        study=study.name if compared else "",
        mcnemar=compared,
    )


def _by_image(answers: Sequence[Answer], images: int) -> dict[int, Answer]:
    """Return the answers by the index of their image, without rows that have none.

    Raises:
        InvalidFileError: as for `score`.
    """
    known = {image_name(index): index for index in range(images)}
    given: dict[int, Answer] = {}
    for answer in answers:
        if answer.state == NOT_ANSWERED:
            continue
        index = known.get(answer.image)
        if index is None:
            names = f"{image_name(0)} to {image_name(images - 1)}"
            raise InvalidFileError(f"image must be one of {names}, as exported, but got {answer.image[:40]!r}")
        if index in given:
            raise InvalidFileError(f"each image must be answered once, but {answer.image} is answered twice")
        given[index] = answer
    if not given:
        raise InvalidFileError(f"at least one image must be answered, but none of {len(answers):,} rows has an answer")
    return given


def keep(found: VendorScore, content: bytes, store: Store) -> None:
    """Keep a score with the file of answers; record the evaluation first, unless these answers were scored before.

    Raises:
        StoreError: the store cannot be written to.
    """
    folder = score_folder(store.root, found)
    try:
        key = f"{slug(found.vendor)}-{found.sha256[:8]}"
        if (VENDORS, key) not in store.evaluations(found.data_sha256):
            store.record_test_set_evaluation(study=VENDORS, key=key, data_sha256=found.data_sha256)
        write_atomically(folder / ANSWERS, content)
        write_atomically(folder / SCORE, json.dumps(asdict(found), indent=1) + "\n")
    except OSError as error:
        raise StoreError(f"the store {store.root} must be a folder to write to, but: {error}") from error
