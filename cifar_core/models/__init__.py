"""Networks by name. Each maps normalised images (N, 3, side, side) to logits (N, classes)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from cifar_core.data.data_set import CIFAR10, DataSet
from cifar_core.models.custom_resnet import CustomResnet
from cifar_core.models.dynamic_conv import DynamicConv
from cifar_core.models.fast_resnet import Airbench, Airbench96, FastResNet
from cifar_core.models.plain import BlockCnn, FiveConv, ThreeConv
from cifar_core.models.vision_transformer import VisionTransformer
from cifar_core.models.wide_resnet import WideResNet
from cifar_core.recipe import Recipe, RecipeError

MODELS: Mapping[str, Callable[[float, int, int], nn.Module]] = {
    "airbench": Airbench,
    "airbench96": Airbench96,
    "block_cnn": BlockCnn,
    "custom_resnet": CustomResnet,
    "dynamic_conv": DynamicConv,
    "fast_resnet": FastResNet,
    "five_conv": FiveConv,
    "three_conv": ThreeConv,
    "vision_transformer": VisionTransformer,
    "wide_resnet": WideResNet,
}


def build_model(recipe: Recipe, examples: Tensor | None = None, *, data_set: DataSet = CIFAR10) -> nn.Module:
    """Build the network of `recipe` in fp32 on the CPU, with initial weights that its seed determines.

    Args:
        examples: normalised training images (N, 3, side, side), from which some networks compute their first layer.
            Without them that layer is random, which suffices where only shapes and costs matter.
        data_set: decides the number of logits and the size of the images.

    Raises:
        RecipeError: unknown model.
    """
    if recipe.model not in MODELS:
        raise RecipeError(f"unknown model {recipe.model!r}; expected one of {', '.join(sorted(MODELS))}")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(recipe.seed)  # torch.manual_seed would reseed GPUs as well
        model = MODELS[recipe.model](recipe.width, len(data_set.classes), data_set.side)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = recipe.bn_momentum
    if examples is not None and isinstance(model, FastResNet):
        model.whiten(examples)
    return model


def build_shapes(model_name: str, width: float, data_set: DataSet = CIFAR10) -> nn.Module:
    """Build the network on the meta device, which has shapes but no data.

    Raises:
        RecipeError: unknown model.
    """
    with torch.device("meta"):
        return build_model(Recipe(model=model_name, width=width), data_set=data_set)


@functools.cache
def parameter_count(model_name: str, width: float, data_set: DataSet = CIFAR10) -> int:
    """Return the number of weights of a network, trained or frozen, without buffers such as running statistics.

    Raises:
        RecipeError: unknown model.
    """
    return sum(weights.numel() for weights in build_shapes(model_name, width, data_set).parameters())
