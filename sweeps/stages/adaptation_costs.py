"""Costs of a head and of a fine-tuned network, as metrics of their runs."""

from __future__ import annotations

from collections.abc import Sequence

from cifar_core.transfer.adapted import flops_per_image
from cifar_core.transfer.backbone import Backbone
from cifar_core.transfer.features import Features
from cifar_core.transfer.head import Head, HeadRecipe
from cifar_core.transfer.tuning import Tuning, tuning_flops


def head_costs(
    recipe: HeadRecipe, head: Head, images: int, fit_seconds: float, feature_seconds: float, backbone: Backbone
) -> dict[str, float]:
    """Return the costs of a head, and of the features that it needs.

    Args:
        images: number of images that it was fitted to, mirrored ones included.
    """
    return {
        "cost/seconds": fit_seconds + feature_seconds,
        "cost/fit_seconds": fit_seconds,
        "cost/training_flops": _fit_flops(head, images) + images * flops_per_image(backbone),
        "cost/epochs": float(len(recipe.views)),
        "cost/images_per_second": images / feature_seconds,
        "cost/validation_share": 0.0,
    }


def tuning_costs(
    recipe: HeadRecipe, head: Head, state: Tuning, views: Sequence[Features], fit_seconds: float, backbone: Backbone
) -> dict[str, float]:
    """Return the costs of a fine-tuned network: of the features, the fit of its head, and the fine-tuning.

    Args:
        views: the training images and their mirror images, as both are trained on, whatever the head was fitted to.
    """
    images = len(views[0].values)
    trained = float(state.recipe.steps(images) * state.recipe.batch_size)
    flops = len(views) * images * flops_per_image(backbone) + trained * tuning_flops(backbone)
    return {
        "cost/seconds": fit_seconds + state.seconds + sum(view.seconds for view in views),
        "cost/tuning_seconds": state.seconds,
        "cost/training_flops": flops + _fit_flops(head, len(recipe.views) * images),
        "cost/epochs": state.recipe.epochs,
        "cost/images_per_second": trained / state.seconds,
        "cost/validation_share": state.validation_seconds / (state.validation_seconds + state.seconds),
    }


def _fit_flops(head: Head, images: int) -> float:
    """Return the FLOPs of fitting a head: a matrix product forward, and one for the gradient of the weights."""
    return 4.0 * head.evaluations * images * head.linear.weight.numel()
