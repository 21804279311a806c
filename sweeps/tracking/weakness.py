"""Table of the classes of a network, the weakest first."""

from __future__ import annotations

import math

from cifar_core.evaluation.metrics import Predictions
from sweeps.words import escape_markdown, percent


def weakness_report(predictions: Predictions) -> str:
    """Return Markdown: the accuracy of each group, and the classes from the weakest; those without images come last."""
    names = [escape_markdown(name).replace("|", "\\|") for name in predictions.data_set.classes]
    confusion: list[list[int]] = predictions.confusion().tolist()
    accuracies = predictions.class_accuracy()
    order = sorted(range(len(names)), key=lambda label: (math.isnan(accuracies[label]), accuracies[label]))
    groups = [f"{group} {_share(accuracy)}" for group, accuracy in predictions.group_accuracy().items()]
    rows = []
    for label in order:
        counts, mistakes = confusion[label], [*confusion[label]]
        mistakes[label] = 0
        most = max(mistakes)
        taken = f"{names[mistakes.index(most)]} ({most:,})" if most else "-"
        cells = names[label], _share(accuracies[label]), f"{counts[label]:,} / {sum(counts):,}", taken
        rows.append(f"| {' | '.join(cells)} |")
    head = ["| class | accuracy | correct / total | most often taken for |", "| --- | ---: | ---: | --- |"]
    return "\n".join([*([f"Accuracy: {', '.join(groups)}", ""] if groups else []), *head, *rows, ""])


def _share(accuracy: float) -> str:
    return "-" if math.isnan(accuracy) else percent(accuracy, 2)
