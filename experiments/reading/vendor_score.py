"""Scores of vendors' answers to the test images, as `score_answers.py` keeps them in a store."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic.dataclasses import dataclass

from cifar_core.data.data_set import DataSet
from experiments.reading.published import Dated
from experiments.reading.scenario import slug
from experiments.stats import Estimate, wilson
from sweeps.store import VENDORS
from sweeps.validation import STRICT, NonNegative, Text, read_json
from sweeps.words import counted

SCORE, ANSWERS = "score.json", "answers.csv"


@dataclass(config=STRICT, frozen=True, kw_only=True, slots=True)
class VendorScore:
    """A vendor's answers to the test images, scored. Unparsable and missing answers count as wrong."""

    vendor: Text
    date: Text  # day of the scoring
    sha256: Text  # hash of the file of answers
    data_sha256: Text  # hash of the data set whose test images were answered
    images: int
    right: int
    unparsable: int
    missing: int
    classes: Mapping[str, tuple[int, int]]  # right, and images
    p95_seconds: NonNegative | None  # over the answers with a time, if at least `LEAST_TIMED` have one
    usd: NonNegative | None  # for the tokens of these answers, without tries that failed
    study: str  # study whose champion the answers were compared with; "" if none
    mcnemar: Mapping[str, float] | None  # images (the answered ones), ours_only, theirs_only, p

    def __post_init__(self) -> None:
        if not 0 <= self.right <= self.images or self.images < 1:
            raise ValueError(f"0 <= right <= images must hold, but got {self.right} of {self.images}")

    @property
    def key(self) -> str:
        """Key of the score as a source to cite."""
        return f"score-{slug(self.vendor)}"

    @property
    def entry(self) -> Dated:
        """The score as a source to cite."""
        answers = f"{counted(self.images - self.missing, 'answer')} to {self.images:,} test images"
        source = f"{answers}, SHA-256 {self.sha256[:12]}"
        return Dated(name=f"{self.vendor}, measured", source=source, date=self.date)

    @property
    def accuracy(self) -> Estimate:
        """Share of right answers with its 95 % interval over images (Wilson, 1927).

        The vendor may be right about images that it did not answer, so the interval reaches up to that.
        """
        share, most = self.right / self.images, (self.right + self.missing) / self.images
        low, high = wilson(share, self.images)[0], wilson(most, self.images)[1]
        return Estimate(share, low, high, (), self.images)


def load_scores(root: Path, data_set: DataSet) -> dict[str, VendorScore]:
    """Load the scores on the test images of a data set by the slug of the vendor.

    Raises:
        InvalidFileError: a score breaks a rule.
    """
    scores = [read_json(path, VendorScore) for path in sorted((root / VENDORS).glob(f"*/{SCORE}"))]
    return {slug(score.vendor): score for score in scores if score.data_sha256 == data_set.sha256}


def score_folder(root: Path, score: VendorScore) -> Path:
    """Return the folder of a score: one for each vendor and data set."""
    return root / VENDORS / f"{slug(score.vendor)}-{score.data_sha256[:8]}"
