"""Report on the weakest group and classes of a network, and on the classes that it confuses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

from cifar_core.data.data_set import DataSet
from cifar_core.evaluation.metrics import Predictions
from sweeps.words import counted, escape_markdown, percent

_NAMED = 3  # names in a list; the others are counted


def weakness_report(predictions: Predictions) -> str:
    """Return Markdown: the weaker group, the classes from the weakest to the strongest, and the worst confusion.

    Ties are named as such. Classes without images come last in the table. A data set without two groups of classes has
    no lines about groups.
    """
    if not len(predictions):
        return "There are no images to judge.\n"
    data_set = predictions.data_set
    names = tuple(escape_markdown(name).replace("|", "\\|") for name in data_set.classes)
    grouped = len(data_set.groups) == 2
    confusion: list[list[int]] = predictions.confusion().tolist()
    accuracies = predictions.class_accuracy()
    present = [label for label in range(len(names)) if not math.isnan(accuracies[label])]
    order = sorted(present, key=accuracies.__getitem__)
    order += [label for label in range(len(names)) if label not in present]
    group = " group |" if grouped else ""
    return "\n".join(
        [
            *([_groups(predictions, confusion), ""] if grouped else []),
            f"| class |{group} accuracy in % | correct / total | most often taken for |",
            f"| --- |{' --- |' if grouped else ''} ---: | ---: | --- |",
            *(_row(label, data_set, names, confusion[label], accuracies[label]) for label in order),
            "",
            f"{_weakest(names, accuracies, present)} {_most_confused(names, confusion)}",
            "",
        ]
    )


def _groups(predictions: Predictions, confusion: list[list[int]]) -> str:
    accuracies = predictions.group_accuracy()
    shares: dict[str, str] = {}
    for group, members in predictions.data_set.groups:
        labels = [predictions.data_set.classes.index(name) for name in members]
        correct, total = (
            sum(confusion[label][label] for label in labels),
            sum(sum(confusion[label]) for label in labels),
        )
        if total:
            shares[group] = f"{percent(accuracies[group], 2)} ({correct:,} of {total:,})"
    if len(shares) == 1:
        [(group, share)] = shares.items()
        [missing] = accuracies.keys() - {group}
        return f"Accuracy on {group} is {share}; there are no {missing} among the images."
    one, other = accuracies
    if accuracies[one] == accuracies[other]:
        return f"{one.capitalize()} and {other} are recognised equally well: {shares[one]} and {shares[other]}."
    weaker, stronger = sorted(accuracies, key=accuracies.__getitem__)
    return f"{weaker.capitalize()} are the weaker group: accuracy {shares[weaker]}, on {stronger} {shares[stronger]}."


def _row(label: int, data_set: DataSet, names: Sequence[str], counts: list[int], accuracy: float) -> str:
    group = data_set.group_of(data_set.classes[label])
    mistakes = [0 if predicted == label else count for predicted, count in enumerate(counts)]
    most = max(mistakes)
    taken = [names[predicted] for predicted, count in enumerate(mistakes) if count == most]
    each = " each" if len(taken) > 1 else ""
    confused = f"{_listed(taken)} ({most:,}{each})" if most else "-"
    share = "-" if math.isnan(accuracy) else f"{100 * accuracy:.2f}"
    of_group = f" {group.removesuffix('s')} |" if group else ""
    return f"| {names[label]} |{of_group} {share} | {counts[label]:,} / {sum(counts):,} | {confused} |"


def _weakest(classes: Sequence[str], accuracies: list[float], present: list[int]) -> str:
    lowest = min(accuracies[label] for label in present)
    names, accuracy = [classes[label] for label in present if accuracies[label] == lowest], percent(lowest, 2)
    if len(present) == 1:
        return f"The only class with images is {names[0]}, with an accuracy of {accuracy};"
    if len(names) == len(present):
        which = "All classes" if len(present) == len(classes) else f"The {len(present)} classes with images"
        return f"{which} are equally strong, with an accuracy of {accuracy};"
    if len(names) == 1:
        return f"The weakest class is {names[0]}, with an accuracy of {accuracy};"
    return f"The weakest classes are {_listed(names)}, each with an accuracy of {accuracy};"


def _most_confused(classes: Sequence[str], confusion: list[list[int]]) -> str:
    mistakes = {
        (one, other): confusion[one][other] + confusion[other][one]
        for one, other in combinations(range(len(classes)), 2)
    }
    most = max(mistakes.values())
    if not most:
        return "no image is taken for another class."
    pairs = [pair for pair, count in mistakes.items() if count == most]
    if len(pairs) > 1:
        names = _listed([f"{classes[one]}/{classes[other]}" for one, other in pairs])
        return f"the pairs most often confused with each other are {names}, with {counted(most, 'mistake')} each."
    [(one, other)] = pairs
    directions = " and ".join(
        f"{counted(confusion[true][predicted], f'{classes[true]} image')} taken for {classes[predicted]}"
        for true, predicted in ((one, other), (other, one))
    )
    return (
        f"the pair most often confused with each other is {classes[one]} and {classes[other]}, "
        f"with {counted(most, 'mistake')}: {directions}."
    )


def _listed(names: Sequence[str]) -> str:
    """Return "a", "a and b", or "a, b and c"; names beyond `_NAMED` are only counted."""
    shown = list(names[:_NAMED])
    if len(names) > _NAMED:
        shown.append(f"{len(names) - _NAMED} more")
    return f"{', '.join(shown[:-1])} and {shown[-1]}" if len(shown) > 1 else shown[0]
