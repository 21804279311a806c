"""Label curves: the accuracy of each training by its number of labels."""

from __future__ import annotations

from dataclasses import dataclass

BUILD, ADAPT = "build", "adapt"  # the ways: training from nothing, and a head on a pretrained network


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledRun:
    """A complete training of a label curve."""

    way: str  # BUILD or ADAPT
    labels: int  # labelled images that it learnt from
    seed: int
    accuracy: float  # on the validation images
    run_id: str
    model: str  # the network that was trained, or the pretrained one
    pretrained_on: str = ""  # images that this learnt from before; "": none, or unknown ones


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelCurve:
    """A label curve.

    Attributes:
        run_id: of its own run.
        source: id of the run of the study whose recipe it is.
        planned: number of its runs, the complete ones included.
        runs: the complete ones.
        diverged: number of those that ended without an accuracy, which are not trained again.
    """

    run_id: str
    source: str
    planned: int
    runs: tuple[LabelledRun, ...]
    diverged: int = 0

    @property
    def ways(self) -> tuple[str, ...]:
        """The ways that have a run, in the order of the plan."""
        return tuple(dict.fromkeys(run.way for run in self.runs))

    def of_way(self, way: str) -> dict[int, list[LabelledRun]]:
        """Return the runs of a way by their number of labels, rising."""
        found: dict[int, list[LabelledRun]] = {}
        for run in sorted(self.runs, key=lambda run: (run.labels, run.seed)):
            if run.way == way:
                found.setdefault(run.labels, []).append(run)
        return found
