"""Load a study from a store: its tables alone, or with artifacts, curves and the adapted network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
from mlflow.entities import Run

from experiments.reading.run_table import state_of, time_of
from experiments.reading.study import Adapted, Study, StudyArtifacts, TestSetEvaluations
from experiments.reading.study_reader import StudyReader
from experiments.stats import mean_accuracy
from sweeps.stages.adapted_result import adapted_study
from sweeps.store import DEFAULT_STORE, lines_of, parse_evaluation
from sweeps.studies.keys import tuned_key
from sweeps.tracking.figures import metrics_of
from sweeps.tracking.mlflow_client import answering, models_of

# Params that may change when a study is resumed: tags have the last value.
_LATEST = ("trials", "sampler", "pruner", "timeout", "patience", "from", "enqueue")
_CURVES = ("lr", "train/accuracy", "train/loss", "val/accuracy", "val/loss")


def read_study(reader: StudyReader, name: str | None = None) -> Study:
    """Load the study of that name, or the most recent one.

    Raises:
        StoreError: as for `read_tables`, or artifacts that it must have are missing.
    """
    study = read_tables(reader, name)
    with answering(reader.store.tracking_uri):
        artifacts, curves = _artifacts(reader, study), _curves(reader, study)
        adapted, beside = _adapted(reader, study), adapted_study(study.name)
        runs = [] if adapted is not None else reader.runs("tags.stage = 'adapted-study'", beside)
        adapting = beside if any(run.data.tags.get("state") != "finished" for run in runs) else ""
        return replace(study, artifacts=artifacts, curves=curves, adapted=adapted, adapting=adapting)


def read_tables(reader: StudyReader, name: str | None = None) -> Study:
    """Load a study without curves, artifacts and adapted network.

    Raises:
        StoreError: there is no such study, or none at all; its data set is missing.
    """
    parent = reader.study_run(name)
    name, tags = reader.experiments[parent.info.experiment_id], parent.data.tags
    attempts = reader.attempts(parent)
    search = attempts[attempts["tags.stage"] == "search"].drop_duplicates("trial", keep="last")
    start = time_of(parent.info.start_time) or datetime.fromtimestamp(0, UTC)
    state = "finished" if (said := state_of(parent)) == "complete" else said
    # MLflow keeps the end of a run that is running again.
    end = None if state == "running" else time_of(parent.info.end_time)
    return Study(
        name=name,
        run_id=parent.info.run_id,
        state=state,
        start=start,
        end=end or max(attempts["end"].dropna(), default=start),
        tags={k: v for k, v in tags.items() if not k.startswith("mlflow.")},
        params=parent.data.params | {name: tags[name] for name in _LATEST if name in tags},
        metrics=metrics_of(parent) if state == "finished" else {},  # else those of an earlier, shorter search
        attempts=attempts,
        search=search.reset_index(drop=True),
        confirm=_last_attempts(attempts, "confirm"),
        final=_last_attempts(attempts, "final"),
        data_set=reader.data_set(parent),
        in_default_store=reader.store.root == DEFAULT_STORE,
        on_server=reader.store.mlflow_file is None,
        test_set_evaluations=count_test_set_evaluations(reader.store.test_set_evaluations, name),
    )


def count_test_set_evaluations(path: Path, study: str) -> TestSetEvaluations:
    """Count the lines of the record of test set evaluations; one that cannot be opened counts as none."""
    try:
        recorded, lines = path.exists(), [line for line in lines_of(path) if line.strip()]
    except OSError:
        return TestSetEvaluations(recorded=False)
    found = [evaluation for line in lines if (evaluation := parse_evaluation(line)) is not None]
    keys = [key for name, key, _ in found if name == study]
    return TestSetEvaluations(
        recorded,
        study=len(keys),
        store=len(found),
        unreadable=len(lines) - len(found),
        again=len(keys) - len(set(keys)),
        adapted=sum(name == adapted_study(study) for name, _, _ in found),
    )


def _last_attempts(attempts: pd.DataFrame, stage: str) -> pd.DataFrame:
    """The last attempt of each run of a stage that trains recipes of the search again."""
    last = attempts[attempts["tags.stage"] == stage].drop_duplicates(["source_trial", "seed"], keep="last")
    return last.sort_values(["source_trial", "seed"], kind="stable").reset_index(drop=True)


def _artifacts(reader: StudyReader, study: Study) -> StudyArtifacts:
    run_ids, is_champion = list(study.subject["run_id"]), len(study.champion) > 0
    runs = {run_id: reader.run(run_id) for run_id in run_ids}
    missing = tuple(line for run in runs.values() for line in reader.require_artifacts(run))
    # Of the champion the report shows the test set, of any other run the validation set.
    confusion, mistakes = "confusion.json", "pictures/mistakes.png"
    if is_champion:
        confusion, mistakes = "test/confusion.json", "test/mistakes.png"
    confusions = {r: read for r in run_ids if (read := reader.confusion(r, confusion))}
    classes = next((names for names, _ in confusions.values()), ())
    recipe = next((text for r in run_ids if (text := reader.artifact(r, "recipe.toml"))), None)
    space = reader.artifact(study.run_id, "space.toml")
    shown, picture = _first_picture(reader, run_ids, "test/prediction.png")
    prediction = reader.json(shown, "test/prediction.json") if shown else None
    mistakes_run, mistakes_picture = _first_picture(reader, run_ids, mistakes)
    return StudyArtifacts(
        samples=_first_picture(reader, [study.run_id], "pictures/samples.png")[1],
        mistakes=mistakes_picture,
        mistakes_run=mistakes_run,
        prediction_picture=picture if prediction else None,
        prediction=prediction or None,
        prediction_run=shown,
        confusions={run_id: counts for run_id, (names, counts) in confusions.items() if names == classes},
        classes=classes,
        recipe=recipe.decode(errors="replace") if recipe else None,
        space=space.decode(errors="replace") if space else None,
        model_uris={r: f"models:/{models[0]}" for r, run in runs.items() if (models := models_of(run))},
        answers={r: known for r in run_ids if is_champion and (known := reader.answers(r)) is not None},
        serving={r: found for r in run_ids if is_champion and (found := reader.serving(r))},
        http={r: speed for r in run_ids if is_champion and (speed := reader.http(r)) is not None},
        missing=missing,
    )


def _first_picture(reader: StudyReader, run_ids: Sequence[str], path: str) -> tuple[str, bytes | None]:
    """The first of the runs that has this picture, and the picture."""
    for run_id in run_ids:
        picture = reader.artifact(run_id, path)
        if picture and picture.startswith(b"\x89PNG"):
            return run_id, picture
    return "", None


def _curves(reader: StudyReader, study: Study) -> pd.DataFrame:
    """The curves of the study's subject; see `Study` for the columns."""
    run_ids = study.subject["run_id"]
    rows = [(run_id, key, *point) for run_id in run_ids for key in _CURVES for point in reader.curve(run_id, key)]
    return pd.DataFrame(rows, columns=["run_id", "key", "step", "value"])


def _adapted(reader: StudyReader, study: Study) -> Adapted | None:
    """The adapted network that the store has for the images of the study; None if it has none."""
    run = _find_adapted(reader, study)
    if run is None:
        return None
    run_id, tags, params, metrics = run.info.run_id, run.data.tags, run.data.params, metrics_of(run)
    answers = reader.answers(run_id)
    images = len(answers.true) if answers is not None else study.data_set.test_images
    return Adapted(
        study=tags["study"],
        run_id=run_id,
        backbone=tags["backbone"],
        source=tags["backbone_source"],
        pretrained_on=tags["pretrained_on"],
        device=tags.get("device", ""),
        threads=int(tags.get("threads", "1")),
        side=int(params["side"]),
        parameters=int(params["parameters"]),
        validation=float(tags["val_accuracy"]),
        test=mean_accuracy([metrics["test/accuracy"]], (run_id,), images),
        augmented=metrics.get("test/tta_accuracy"),
        study_seconds=metrics.get("cost/study_seconds"),
        seconds=metrics.get("cost/seconds"),
        flops=metrics.get("cost/training_flops"),
        answers=answers,
        serving=reader.serving(run_id),
        http=reader.http(run_id),
        head=float(tags["head_accuracy"]),
        tuned=float(tags["tuned_accuracy"]) if "tuned_accuracy" in tags else None,
        is_tuned=tags["trial"] == tuned_key(int(tags["source_trial"])),
    )


def _find_adapted(reader: StudyReader, study: Study) -> Run | None:
    """Return the tested run on these images: that of the study `NAME-adapted`, else the newest."""
    own, sha256 = adapted_study(study.name), study.data_set.sha256
    runs = reader.runs("tags.stage = 'adapted'")
    tested = [run for run in runs if "test/accuracy" in run.data.metrics and run.data.tags.get("data_sha256") == sha256]
    return max(tested, key=lambda run: (run.data.tags.get("study") == own, run.info.start_time), default=None)
