"""Example images of the report: training images, one prediction and the most confident mistakes."""

from __future__ import annotations

from experiments.decision.facts import Facts
from experiments.pages.blocks import Missing, Photo, Section
from experiments.pages.text import CitedText, article, run_sources


def section(facts: Facts) -> Section:
    """The pictures that the runs logged."""
    return Section("Examples", (_samples(facts), _prediction(facts), _mistakes(facts)))


def _samples(facts: Facts) -> Photo | Missing:
    png = facts.study.artifacts.samples
    if not png:
        return Missing("The study kept no picture of its training images.")
    side = facts.study.data_set.side
    text = f"Training images of {side} x {side} pixels with their labels, before augmentation."
    return Photo("samples", "Training images", CitedText(text, run_sources(facts.run_id)), png)


def _prediction(facts: Facts) -> Photo | Missing:
    kept = facts.study.artifacts
    if not kept.prediction_picture or not kept.prediction:
        return Missing("No prediction on a test image can be shown yet.")
    true, predicted = str(kept.prediction.get("true")), str(kept.prediction.get("predicted"))
    outcome = "which is right" if true == predicted else f"but it is {article(true)}"
    probability = kept.prediction.get("probability")
    sure = f" with probability {probability:.2f}" if isinstance(probability, int | float) else ""
    text = f"Test image {kept.prediction.get('index')}: taken for {article(predicted)}{sure}, {outcome}."
    caption = CitedText(text, run_sources(kept.prediction_run))
    return Photo("prediction", "One prediction", caption, kept.prediction_picture)


def _mistakes(facts: Facts) -> Photo | Missing:
    kept = facts.study.artifacts
    if not kept.mistakes:
        return Missing("There is no picture of mistakes.")
    split = "test" if facts.has_champion else "validation"
    text = f"The most confident wrong predictions on {split} images; the true class is in brackets."
    return Photo("mistakes", "Most confident mistakes", CitedText(text, run_sources(kept.mistakes_run)), kept.mistakes)
