"""The pictures of the report: figures where the store has the data for them, and photographs that runs left."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiments.decision.costs import build, buy
from experiments.decision.measures import Measures
from experiments.decision.sensitivity import Swing, saved
from experiments.pages import text as words
from experiments.pages.page import Picture
from experiments.pages.text import CitedText
from experiments.reading.studies import Study
from experiments.sections import (
    captions,
    cost_figures,
    figures,
    static_cost_figures,
    static_figures,
    static_sweep_figures,
    sweep_figures,
)
from experiments.sections.learned import best_so_far

_ACCURACY, _SWEEP, _COST = (
    (figures, static_figures),
    (sweep_figures, static_sweep_figures),
    (cost_figures, static_cost_figures),
)


def draw(study: Study, m: Measures, swings: tuple[Swing, ...]) -> dict[str, Picture]:
    """The pictures that the store has the data for, by name."""
    curves, trials = study.curves, best_so_far(study.search)
    keys = set(curves["key"])
    shown = [*m.published.group("benchmark"), *m.published.group("system")]
    label = f"this study ({m.model or 'champion'})"
    ours, gain = build(m.cost, m.scenario), saved(m)
    ways = [*([ours] if ours else []), *(buy(v, m.scenario) for v in m.scenario.vendors)]
    # name: title, whether there is data, the two modules that draw it, and the arguments of the function in both
    plots: Mapping[str, tuple[str, bool, tuple[Any, Any], tuple[Any, ...]]] = {
        "cost_curves": ("Cost over the horizon", True, _COST, (ways, m.scenario.months)),
        "tornado": ("What moves the decision", len(swings) > 0, _COST, (swings, gain)),
        "benchmarks": ("Test accuracy beside published figures", True, _ACCURACY, (shown, m.test, label, m.bar)),
        "losses": ("Loss", bool(keys & {"train/loss", "val/loss"}), _ACCURACY, (curves,)),
        "accuracies": ("Accuracy", bool(keys & {"train/accuracy", "val/accuracy"}), _ACCURACY, (curves,)),
        "learning_rate": ("Learning rate", "lr" in keys, _ACCURACY, (curves,)),
        "classes": ("Accuracy by class", len(m.classes) > 1, _ACCURACY, (m.classes, m.bar)),
        "confusion": ("What is taken for what", m.confusion is not None, _ACCURACY, (m.confusion,)),
        "reliability": ("Calibration", m.calibration is not None, _ACCURACY, (m.calibration,)),
        "history": ("Best so far", len(trials) > 0, _ACCURACY, (trials,)),
        "architectures": (
            "Accuracy by architecture",
            len(trials) > 0,
            _ACCURACY,
            (trials, m.search.architectures),
        ),
        "importances": ("Importance of the parameters", len(m.importances.shares) > 0, _SWEEP, (m.importances,)),
        "slices": ("By the most important parameters", len(m.slices) > 0, _SWEEP, (m.slices,)),
        "front": (
            "Accuracy against compute",
            len(m.front.runs) > 0,
            _SWEEP,
            (m.front, m.published.accuracies, m.test, label),
        ),
    }
    pictures = {
        name: Picture(
            name=name,
            title=title,
            caption=captions.caption(m, name, curves),
            png=getattr(static, name)(*arguments),
            figure=getattr(plotly, name)(*arguments),
        )
        for name, (title, there, (plotly, static), arguments) in plots.items()
        if there
    }
    return pictures | _photographs(study, m)


def _photographs(study: Study, m: Measures) -> dict[str, Picture]:
    shown = study.exhibits
    pictures = {}
    if shown.samples:
        text = "Training images of 32 x 32 pixels with their labels: what the network gets to see."
        pictures["samples"] = Picture(
            "samples", "Training images", CitedText(text, (f"run/{m.run_id}",)), shown.samples
        )
    if shown.prediction_picture and shown.prediction:
        said = prediction_sentence(shown.prediction, shown.prediction_run)
        pictures["prediction"] = Picture("prediction", "One prediction", said, shown.prediction_picture)
    if shown.mistakes:
        split = "test" if m.has_champion else "validation"
        text = f"The {split} images it was surest of and got wrong: its answer and, in brackets, the truth."
        said = CitedText(text, (f"run/{shown.mistakes_run}",))
        pictures["mistakes"] = Picture("mistakes", "Most confident mistakes", said, shown.mistakes)
    return pictures


def prediction_sentence(prediction: Mapping[str, Any], run_id: str) -> CitedText:
    """What one test image is, and what the network took it for."""
    true, predicted = str(prediction.get("true")), str(prediction.get("predicted"))
    right = "which is right" if true == predicted else f"but it is {words.article(true)}"
    probability = prediction.get("probability")
    sure = f" with probability {probability:.2f}" if isinstance(probability, int | float) else ""
    text = f"Test image {prediction.get('index')}: taken for {words.article(predicted)}{sure}, {right}."
    return CitedText(text, (f"run/{run_id}",))
