"""The adapted network beside a study: a pretrained one whose head, or last blocks too, learnt from the same images."""

from __future__ import annotations

from collections.abc import Sequence

from mlflow.entities import Run

from cifar_core.data.data_set import DataSet
from cifar_core.evaluation.serving import Timing
from experiments.reading.study import Adapted, HttpSpeed, ImageAnswers
from experiments.stats import mean_accuracy
from sweeps.stages.adapted_result import adapted_study
from sweeps.studies.keys import tuned_key
from sweeps.tracking.figures import metrics_of


def find_adapted(runs: Sequence[Run], study: str, data_set: DataSet) -> Run | None:
    """Return the tested run on these images: that of the study `NAME-adapted`, else the newest.

    Args:
        runs: of all adapted networks.
        study: NAME.
    """
    tested = [
        run for run in runs if "test/accuracy" in run.data.metrics and run.data.tags["data_sha256"] == data_set.sha256
    ]
    own = adapted_study(study)
    return max(tested, key=lambda run: (run.data.tags.get("study") == own, run.info.start_time), default=None)


def adapted_of(
    run: Run,
    data_set: DataSet,
    answers: ImageAnswers | None,
    serving: tuple[Timing, ...],
    http: HttpSpeed | None = None,
) -> Adapted:
    """Return the record of an adapted network; `answers`, `serving` and `http` are artifacts of its run."""
    tags, params, metrics = run.data.tags, run.data.params, metrics_of(run)
    images = len(answers.true) if answers is not None else data_set.test_images
    return Adapted(
        study=tags["study"],
        run_id=run.info.run_id,
        backbone=tags["backbone"],
        source=tags["backbone_source"],
        pretrained_on=tags["pretrained_on"],
        device=tags.get("device", ""),
        threads=int(tags.get("threads", "1")),
        side=int(params["side"]),
        parameters=int(params["parameters"]),
        validation=float(tags["val_accuracy"]),
        test=mean_accuracy([metrics["test/accuracy"]], (run.info.run_id,), images),
        augmented=metrics.get("test/tta_accuracy"),
        model_bytes=metrics.get("cost/model_bytes"),
        study_seconds=metrics.get("cost/study_seconds"),
        seconds=metrics.get("cost/seconds"),
        flops=metrics.get("cost/training_flops"),
        answers=answers,
        serving=serving,
        http=http,
        head=float(tags["head_accuracy"]),
        tuned=float(tags["tuned_accuracy"]) if "tuned_accuracy" in tags else None,
        is_tuned=tags["trial"] == tuned_key(int(tags["source_trial"])),
    )
