"""The adapted network of a study, in MLflow's tags and in words."""

from __future__ import annotations

from dataclasses import dataclass

from cifar_core.transfer.backbone import Backbone
from sweeps.studies.keys import head_key, tuned_key
from sweeps.words import percent, with_tta

_OVERLAP = "whether these hold images of the test set is unknown"


def adapted_study(study: str) -> str:
    """Return the name of the study that adapts a network beside the study of that name."""
    return f"{study}-adapted"


@dataclass(frozen=True, slots=True)
class AdaptedResult:
    """The adapted network of a study.

    Attributes:
        trial: the trial whose head it has, or was fine-tuned from.
        head_accuracy, tuned_accuracy: validation accuracy of that trial, and after fine-tuning; the better network was
            chosen. None: it was not fine-tuned.
        test_accuracy, tta_accuracy: of the network; None if it was not tested.
    """

    backbone: Backbone
    trial: int
    head_accuracy: float
    tuned_accuracy: float | None
    test_accuracy: float | None = None
    tta_accuracy: float | None = None

    @property
    def tuned(self) -> bool:
        """True if the network is the fine-tuned one."""
        return self.tuned_accuracy is not None and self.tuned_accuracy > self.head_accuracy

    @property
    def key(self) -> str:
        """Key of its run."""
        return tuned_key(self.trial) if self.tuned else head_key(self.trial)

    @property
    def val_accuracy(self) -> float:
        """The accuracy that it was chosen by."""
        return max(self.head_accuracy, self.tuned_accuracy or 0.0)

    @property
    def tags(self) -> dict[str, str]:
        """Tags of its run."""
        tags = {"stage": "adapted", "trial": self.key, "source_trial": str(self.trial), "seed": "0", "champion": "true"}
        tags |= {"val_accuracy": f"{self.val_accuracy:.4f}", "head_accuracy": f"{self.head_accuracy:.4f}"}
        return tags | ({} if self.tuned_accuracy is None else {"tuned_accuracy": f"{self.tuned_accuracy:.4f}"})

    def lines(self) -> tuple[str, str, str]:
        """Return lines for people: test accuracy, validation accuracies, and what the backbone learnt from."""
        how, tested = "fine-tuned" if self.tuned else "with a head fitted to all images", "not tested"
        if self.test_accuracy is not None:
            tested = f"{percent(self.test_accuracy, 2)} test accuracy{with_tta(self.tta_accuracy)}"
        chosen = f"Validation accuracy: {percent(self.head_accuracy, 2)} with the head of trial {self.trial}"
        if self.tuned_accuracy is not None:
            chosen += f", {percent(self.tuned_accuracy, 2)} fine-tuned from there"
        before = provenance_of(self.backbone)
        return f"{self.backbone.name}, {how}: {tested}", chosen, before[0].upper() + before[1:]


def backbone_tags(backbone: Backbone) -> dict[str, str]:
    """Return the tags of a run whose network has this backbone."""
    return {
        "backbone": backbone.name,
        "backbone_sha256": backbone.sha256,
        "backbone_source": backbone.source,
        "pretrained_on": backbone.pretrained_on,
    }


def provenance_of(backbone: Backbone) -> str:
    """Return what is known of the images that a backbone learnt from, for the description of a run."""
    return f"the backbone learnt from {images_before(backbone.pretrained_on)}, and {_OVERLAP}"


def images_before(pretrained_on: str) -> str:
    """Return the tag `pretrained_on` for a sentence, also if it is empty."""
    return pretrained_on or "images that its file of weights does not name"
