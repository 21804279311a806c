"""Fine-tuning of the last blocks of a pretrained network and of its head, on activations that were computed once."""

from __future__ import annotations

import copy
import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW
from torch.utils.flop_counter import FlopCounterMode

from cifar_core.budget import Budget
from cifar_core.checkpoint import (
    CheckpointError,
    optimizer_state,
    read_tensors,
    restore_optimizer,
    restoring,
    under,
    write_tensors,
)
from cifar_core.data import Split
from cifar_core.data.augment import beta
from cifar_core.hardware import Hardware
from cifar_core.training import EvalSchedule, Progress, evenly, take_batch
from cifar_core.transfer.backbone import Backbone, FeatureNetwork, UpperHalf, meta_network
from cifar_core.transfer.features import compute
from cifar_core.transfer.head import Head

# Of a run's compute. Depthwise blocks compute a fraction of the FLOPs a second that trained networks do on a CPU, and
# two epochs of CIFAR-10 are enough.
_SHARE = 0.23
_TUNING_EPOCHS = 12
_BATCH = 128
_WARM_UP = 0.1  # share of the steps in which the rate rises
_POINTS, _VALIDATIONS = 48, 8  # of the curves; each validation is at a point
_COUNTS = ("step", "seconds", "validation_seconds")  # of a state, that its file holds as numbers


@dataclass(frozen=True, kw_only=True, slots=True)
class TuningRecipe:
    """Everything that decides a fine-tuning but the network and the head that it starts from.

    The rate falls as a cosine to zero, and is reduced in the first tenth of the steps, where it rises. Each image is
    mirrored or not at random, and its activations are mixed with those of another one (Verma et al., "Manifold mixup",
    2019).

    Attributes:
        epochs: passes over the training images.
        learning_rate: where the cosine begins; the rate of AdamW rises to almost this.
        label_smoothing: share of the probability that is spread over all classes.
        mix_alpha: parameter of the Beta distribution of the mixing ratio.
    """

    epochs: float
    batch_size: int = _BATCH
    learning_rate: float = 5e-4
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    mix_alpha: float = 0.2
    seed: int = 0

    @classmethod
    def within(cls, budget: Budget, backbone: Backbone, images: int, seed: int) -> TuningRecipe:
        """Return the recipe with the epochs on `images` images that 23 % of `budget` pay for, at most 12."""
        epochs = min(budget.max_epochs, float(_TUNING_EPOCHS))
        if budget.flops is not None:
            epochs = min(epochs, _SHARE * budget.flops / (images * tuning_flops(backbone)))
        return cls(epochs=epochs, batch_size=min(_BATCH, images), seed=seed)

    def steps(self, images: int) -> int:
        """Return the number of steps, at least one."""
        return max(1, round(self.epochs * images / self.batch_size))

    def rate(self, share: float) -> float:
        """Return the learning rate after a share of the steps in [0, 1)."""
        return self.learning_rate * min(1.0, (share + 1e-3) / _WARM_UP) * (1 + math.cos(math.pi * share)) / 2

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(slots=True, eq=False)
class Tuning:
    """State of a fine-tuning.

    Attributes:
        network: copy of the backbone's network, whose upper half is trained.
        head: head, which is trained with it.
        seconds, validation_seconds: time so far; the first without validation and the caller's time.
    """

    recipe: TuningRecipe
    network: FeatureNetwork
    upper: UpperHalf
    head: Head
    optimizer: AdamW
    generator: torch.Generator
    order: Tensor
    step: int = 0
    seconds: float = 0.0
    validation_seconds: float = 0.0

    @classmethod
    def create(cls, backbone: Backbone, head: Head, recipe: TuningRecipe, hardware: Hardware) -> Tuning:
        """Create the initial state; `head` stays as it is."""
        network = copy.deepcopy(backbone.network)
        hardware.place(network)
        upper, head = _upper_to_train(network), copy.deepcopy(head).to(hardware.device)
        return cls(
            recipe=recipe,
            network=network,
            upper=upper,
            head=head,
            optimizer=AdamW(_weights(upper, head), lr=recipe.learning_rate, weight_decay=recipe.weight_decay),
            generator=torch.Generator().manual_seed(recipe.seed),
            order=torch.empty(0, dtype=torch.long),
        )

    def save(self, path: Path) -> None:
        """Write the state to `path`.

        Raises:
            OSError: writing failed; the older file there, or the new one, is whole.
        """
        numbers, tensors = optimizer_state(self.optimizer, "optimizer.")
        tensors |= {f"upper.{name}": value for name, value in self.upper.state_dict().items()}
        tensors |= {f"head.{name}": value for name, value in self.head.state_dict().items()}
        tensors |= {"generator": self.generator.get_state(), "order": self.order}
        facts = {name: getattr(self, name) for name in _COUNTS}
        write_tensors(path, {**facts, "recipe": self.recipe.to_dict(), "optimizer": numbers}, tensors)

    def load(self, path: Path) -> None:
        """Read the state in `path`, if there is one; fine-tuning resumes from it, on a CPU with the same bits.

        Raises:
            CheckpointError: the file is damaged, or of another recipe or version; this state may be partly read.
        """
        if not path.exists():
            return
        facts, tensors = read_tensors(path)
        if (found := facts.get("recipe")) != self.recipe.to_dict():
            raise CheckpointError(f"{path}: it must have the recipe {self.recipe.to_dict()}, but has {found}")
        with restoring(path):
            self.upper.load_state_dict(under("upper.", tensors))
            self.head.load_state_dict(under("head.", tensors))
            restore_optimizer(self.optimizer, facts["optimizer"], under("optimizer.", tensors))
            self.generator.set_state(tensors["generator"])
            self.order = tensors["order"]
            for name in _COUNTS:
                setattr(self, name, facts[name])


def tune(
    state: Tuning,
    views: Sequence[Tensor],
    train: Split,
    val_activations: Tensor,
    val: Split,
    hardware: Hardware,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Progress]:
    """Train `state` to the end of its recipe; yield progress at 48 points, and validate at 8 of them.

    A state that was saved at a yield, or after `stop`, resumes there with the same bits on as many threads of a CPU.

    Args:
        views: activations (N, D) of the training images, and of their mirror images.
        stop: called after each step but the last; once it returns true, the iteration ends with a last yield.
    """
    total, recipe = state.recipe.steps(len(train)), state.recipe
    points = set(EvalSchedule(evenly(_POINTS)).steps(total))
    validations = set(EvalSchedule(evenly(_VALIDATIONS)).steps(total))
    device = hardware.device
    if device.type == "cuda" and sum(view.nbytes for view in views) < torch.cuda.mem_get_info(device)[0] / 2:
        views = [view.to(device) for view in views]
    targets = F.one_hot(train.labels, len(train.data_set.classes)).float().to(views[0].device)
    losses: list[Tensor] = []
    with ThreadPoolExecutor(torch.get_num_threads(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        began = time.perf_counter()
        while state.step < total:
            rate = recipe.rate(state.step / total)
            losses.append(_step(state, views, targets, rate, hardware, pool))
            state.step += 1
            stopped = state.step < total and stop()
            if not stopped and state.step not in points:
                continue
            mean_loss, mean_right = torch.cat(losses).cpu().double().sum(0).div(len(losses)).tolist()
            losses.clear()
            state.seconds += time.perf_counter() - began
            validation = None
            if state.step in validations:
                began = time.perf_counter()
                validation = state.head.predict(
                    compute(state.upper, val_activations, hardware).to(hardware.device), val
                )
                state.validation_seconds += time.perf_counter() - began
            yield Progress(
                step=state.step,
                fraction=state.step / total,
                epoch=state.step * recipe.batch_size / len(train),
                train_loss=mean_loss,
                train_accuracy=mean_right,
                learning_rate=rate,
                train_seconds=state.seconds,
                validation_seconds=state.validation_seconds,
                validation=validation,
                val_loss=validation.loss if validation else None,
                val_accuracy=validation.accuracy if validation else None,
            )
            if stopped:
                return
            began = time.perf_counter()


def tuning_flops(backbone: Backbone) -> int:
    """Return the FLOPs of training on the activations of one image: products and convolutions, 2 per multiply-add."""
    return _flops(backbone.name, backbone.side)


@functools.cache
def _flops(name: str, side: int) -> int:
    upper = _upper_to_train(meta_network(name, side))
    with FlopCounterMode(display=False) as counter:
        upper(torch.zeros(1, upper.dimensions, device="meta")).sum().backward()
    return int(counter.get_total_flops())


def _upper_to_train(network: FeatureNetwork) -> UpperHalf:
    """Return the upper half, in evaluation mode: batch norm keeps its statistics.

    The filters of single channels stay as they are. They are 5 % of its weights, and their gradient takes most of a
    step's time on a CPU: 735 ms for 64 images and a 5 x 5 filter in bf16, all else of that layer 42 ms (oneDNN 3.7).
    """
    _, upper = network.eval().halves()
    upper.requires_grad_()
    for module in upper.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            module.requires_grad_(requires_grad=False)
    return upper


def _weights(upper: UpperHalf, head: Head) -> list[nn.Parameter]:
    """Return the weights that are trained."""
    return [each for each in (*upper.parameters(), *head.parameters()) if each.requires_grad]


def _step(
    state: Tuning,
    views: Sequence[Tensor],
    targets: Tensor,
    rate: float,
    hardware: Hardware,
    pool: ThreadPoolExecutor,
) -> Tensor:
    """Do a step; return the shares (parts, 2) that each part of the batch has in its loss in nats and its accuracy.

    On a CPU each thread computes the gradient of a part of the batch, as layers are too small for threads to share.
    Elsewhere there is one part, and nothing waits for a GPU that has the views.
    """
    recipe, generator = state.recipe, state.generator
    batch, state.order = take_batch(state.order, recipe.batch_size, len(targets), generator)
    size = len(batch)
    mirrored = torch.rand(size, 1, generator=generator) < 0.5
    share = beta(recipe.mix_alpha, generator).item() if recipe.mix_alpha else 1.0
    batch, mirrored = (each.to(targets.device, non_blocking=True) for each in (batch, mirrored))
    inputs = torch.where(mirrored, views[1][batch], views[0][batch]).to(hardware.device).float()
    inputs = torch.lerp(inputs.roll(1, 0), inputs, share)
    wanted = torch.lerp(targets[batch].roll(1, 0), targets[batch], share).to(hardware.device)
    weights = _weights(state.upper, state.head)

    def gradient(given: Tensor, answers: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
        with hardware.autocast():
            found = state.upper(given)
        logits = state.head(found.float())
        loss = F.cross_entropy(logits, answers, label_smoothing=recipe.label_smoothing, reduction="sum") / size
        right = (logits.detach().argmax(1) == answers.argmax(1)).sum() / size
        return torch.stack((loss.detach(), right)), torch.autograd.grad(loss, weights)

    if hardware.device.type == "cpu":
        threads = torch.get_num_threads()
        try:
            parts = list(pool.map(gradient, inputs.chunk(threads), wanted.chunk(threads)))
        finally:
            torch.set_num_threads(threads)  # the pool has set it to 1, which any thread that starts would take over
    else:
        parts = [gradient(inputs, wanted)]
    for weight, *gradients in zip(weights, *(part[1] for part in parts), strict=True):
        weight.grad = torch.stack(gradients).sum(0)  # its strides may differ, which a fused AdamW would not notice
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    state.optimizer.step()
    return torch.stack([part[0] for part in parts])
