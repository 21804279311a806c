"""The subject's accuracy in detail: classes, groups of classes, confusions, calibration, and what selection did."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
import torch

from cifar_core.evaluation.metrics import ANIMALS, VEHICLES, Reliability, reliability
from experiments.reading.studies import Study, champion_runs
from experiments.stats import Estimate, estimate, mean_accuracy

_GROUPS = {"animals": ANIMALS, "vehicles": VEHICLES}


@dataclass(frozen=True, slots=True)
class ClassAccuracy:
    """Accuracy within one class, as means over runs; the interval is that of the split that is shown."""

    name: str
    validation: float | None
    test: float | None
    low: float | None = None
    high: float | None = None
    images: int | None = None  # of this class, in each run

    @property
    def shown(self) -> float:
        """Test accuracy, or validation accuracy where there is none; NaN where neither was measured."""
        return next((v for v in (self.test, self.validation) if v is not None), math.nan)

    @property
    def group(self) -> str:
        return "animal" if self.name in ANIMALS else "vehicle" if self.name in VEHICLES else "other"


@dataclass(frozen=True, slots=True)
class Confusion:
    """How often images of a class (row) were called another (column), as shares of the row, over all runs."""

    classes: tuple[str, ...]
    shares: tuple[tuple[float, ...], ...]
    run_ids: tuple[str, ...]
    images: int  # in each run
    split: str  # test | validation

    def worst_pair(self) -> tuple[str, str, float] | None:
        """(true class, called class, share of the true class) of the most frequent confusion."""
        pairs = [
            (-share, self.classes[i], self.classes[j])
            for i, row in enumerate(self.shares)
            for j, share in enumerate(row)
            if i != j and share > 0
        ]
        if not pairs:
            return None
        share, true, called = min(pairs)
        return true, called, -share

    def weakest_pair(self) -> tuple[str, str, float] | None:
        """(class, class, mean of the shares called each other) of the two that are told apart worst."""
        pairs = [
            (-(self.shares[i][j] + self.shares[j][i]) / 2, self.classes[i], self.classes[j])
            for i, j in combinations(range(len(self.classes)), 2)
        ]
        share, one, other = min(pairs, default=(0.0, "", ""))
        return (one, other, -share) if share < 0 else None


@dataclass(frozen=True, slots=True)
class Calibration:
    """Whether the probabilities of the champion's answers mean what they say, on the test images of all its runs."""

    reliability: Reliability
    images: int  # in each run
    runs: tuple[str, ...]

    @property
    def surer_than_right(self) -> float:
        """Share of answers in bins that are surer than right."""
        bins = self.reliability
        rows = zip(bins.counts, bins.confidence, bins.accuracy, strict=True)
        return sum(n for n, sure, right in rows if n and sure > right) / sum(bins.counts)


@dataclass(frozen=True, slots=True)
class Selection:
    """What became of the search's best trial when it was trained again."""

    trial: int
    searched: float  # its validation accuracy in the search: the best of all complete trials
    search_run: str
    trials: int  # complete ones that it is the best of
    confirmed: Estimate | None  # validation accuracy of its new runs; None: it was not trained again
    search_flops: float | None
    confirm_flops: float | None

    @property
    def same_compute(self) -> bool:
        """The new runs had as much compute, within a tenth, so that what changed is luck."""
        if not self.search_flops or not self.confirm_flops:
            return False
        return abs(self.confirm_flops / self.search_flops - 1) < 0.1


def classes_of(
    subject: pd.DataFrame, confusion: Confusion | None, counts: Mapping[str, int]
) -> tuple[ClassAccuracy, ...]:
    """The classes, weakest first; `counts` are the images of each in the split that is shown."""
    columns = {split: f"metrics.{key}_class/" for split, key in (("validation", "val"), ("test", "test"))}
    means: dict[str, dict[str, float]] = {
        split: {
            c.removeprefix(prefix): statistics.fmean(known)
            for c in subject
            if c.startswith(prefix) and (known := [float(v) for v in subject[c].dropna()])
        }
        for split, prefix in columns.items()
    }
    rows = []
    for name in sorted({name for split in means.values() for name in split}):
        split = "test" if name in means["test"] else "validation"
        images = counts.get(name)
        of_split = confusion is not None and confusion.split == split
        found = estimate(subject, columns[split] + name, images) if images and of_split else None
        rows.append(
            ClassAccuracy(
                name,
                means["validation"].get(name),
                means["test"].get(name),
                found.low if found else None,
                found.high if found else None,
                images if found else None,
            )
        )
    return tuple(sorted(rows, key=lambda row: (row.shown, row.name)))


def groups_of(study: Study) -> dict[str, Estimate]:
    """Accuracy on animals and on vehicles, on the images of the confusion matrices."""
    matrices = _square(study)
    found = {}
    for group, names in _GROUPS.items():
        rows = [i for i, name in enumerate(study.exhibits.classes) if name in names]
        images = [int(m[rows].sum()) for m in matrices.values()]
        if rows and matrices and all(images):
            shares = [float(m[rows, rows].sum() / count) for m, count in zip(matrices.values(), images, strict=True)]
            found[group] = mean_accuracy(shares, tuple(matrices), images[0])
    return found


def confusion_of(study: Study) -> tuple[Confusion | None, dict[str, int]]:
    """Confusions over all runs, and the images of each class in one run."""
    matrices = _square(study)
    classes = study.exhibits.classes
    if not matrices:
        return None, {}
    counts = np.sum(list(matrices.values()), axis=0).astype(float)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    confusion = Confusion(
        classes=classes,
        shares=tuple(tuple(float(v) for v in row) for row in shares),
        run_ids=tuple(matrices),
        images=round(float(counts.sum()) / len(matrices)),
        split="test" if len(champion_runs(study.confirm)) else "validation",
    )
    each = counts.sum(axis=1) / len(matrices)
    return confusion, {name: round(float(n)) for name, n in zip(classes, each, strict=True)}


def calibration_of(study: Study) -> Calibration | None:
    answers = study.exhibits.answers
    if not answers:
        return None
    probability = torch.from_numpy(np.concatenate([a.probability for a in answers.values()]))
    right = torch.from_numpy(np.concatenate([a.right for a in answers.values()]))
    return Calibration(reliability(probability, right), len(right) // len(answers), tuple(answers))


def selection_of(study: Study, images: int) -> Selection | None:
    """None where no trial is complete."""
    complete = study.search[(study.search["state"] == "complete") & study.search["metrics.val/accuracy"].notna()]
    best = complete.sort_values(["metrics.val/accuracy", "trial"], ascending=[False, True], kind="stable").head(1)
    if not len(best):
        return None
    row = best.iloc[0]
    again = study.confirm[(study.confirm["source_trial"] == row["trial"]) & (study.confirm["state"] == "complete")]
    flops = again["metrics.cost/training_flops"].dropna()
    own = row["metrics.cost/training_flops"]
    return Selection(
        trial=int(row["trial"]),
        searched=float(row["metrics.val/accuracy"]),
        search_run=str(row["run_id"]),
        trials=len(complete),
        confirmed=estimate(again, "metrics.val/accuracy", images),
        search_flops=None if math.isnan(own) else float(own),
        confirm_flops=float(flops.mean()) if len(flops) else None,
    )


def _square(study: Study) -> dict[str, np.ndarray[tuple[int, int], np.dtype[np.int64]]]:
    matrices: Mapping[str, Sequence[Sequence[int]]] = study.exhibits.confusions
    size = len(study.exhibits.classes)
    return {r: np.asarray(m, dtype=np.int64) for r, m in matrices.items() if np.shape(m) == (size, size)}
