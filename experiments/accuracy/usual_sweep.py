"""A sweep as tutorials have it: a DataLoader, PIL transforms and fp32, trials by Optuna, curves to MLflow.

Optuna's settings are its defaults: TPE, pruning below the median. Networks, ranges and the five passes of a trial are
like those of PyTorch's and Optuna's own examples.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import torch
import torch.nn.functional as F
from mlflow import MlflowClient
from optuna.samplers import TPESampler
from torch import nn
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from cifar_core.data.data_set import CIFAR10
from cifar_core.hardware import Hardware
from cifar_core.transfer.backbone import load_torchvision
from experiments.accuracy.contestants import BestSoFar, SearchBudget, SearchResult
from experiments.benchmarks import real_data
from experiments.benchmarks.usual import WORKERS, Pictures

SMALL, RESNET = "small", "resnet18"
_PASSES = 5  # over the images, of a trial


def usual_sweep(seed: int, budget: SearchBudget, hardware: Hardware, *, networks: Sequence[str]) -> SearchResult:
    """Run trials over `networks` until the time is over; the answer is the best network after any pass of any trial."""
    clock, data = time.perf_counter(), real_data()
    train, val = Pictures(data.train, augmented=True), Pictures(data.val, augmented=False)
    torch.manual_seed(seed)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=TPESampler(seed=seed), direction="maximize")
    points = [BestSoFar(flops=0.0, seconds=0.0, accuracy=1 / len(CIFAR10.classes))]  # a guess
    flops, chosen = 0.0, dict[str, Any]()

    def over() -> bool:
        return time.perf_counter() - clock > budget.seconds

    def objective(trial: optuna.Trial) -> float:
        nonlocal flops, chosen
        run = client.create_run(experiment).info.run_id
        for epoch, (spent, accuracy) in enumerate(_train(trial, networks, train, val, hardware, over), start=1):
            flops += spent
            if accuracy is None:
                break
            client.log_metric(run, "val/accuracy", accuracy, step=epoch)
            if accuracy > points[-1].accuracy:
                points.append(BestSoFar(flops=flops, seconds=time.perf_counter() - clock, accuracy=accuracy))
                chosen = {**trial.params, "epochs": epoch}
            trial.report(accuracy, epoch)
            if epoch == _PASSES:
                return accuracy
            if trial.should_prune():
                break
        if over():
            study.stop()
        raise optuna.TrialPruned

    with tempfile.TemporaryDirectory() as folder:
        client = MlflowClient(f"sqlite:///{Path(folder) / 'mlflow.db'}")
        experiment = client.create_experiment("usual", artifact_location=folder)
        study.optimize(objective)
    points.append(replace(points[-1], flops=flops, seconds=time.perf_counter() - clock))
    return SearchResult(
        hardware=replace(hardware, bf16=False),
        trials=len(study.trials),
        points=points,
        tta_accuracy=None,
        recipe=chosen,
    )


def _train(
    trial: optuna.Trial,
    networks: Sequence[str],
    train: Pictures,
    val: Pictures,
    hardware: Hardware,
    over: Callable[[], bool],
) -> Iterator[tuple[float, float | None]]:
    """Train as the trial suggests until the time is over.

    Yields:
        training FLOPs and validation accuracy of each pass; None of one that the end of the time cuts short.
    """
    model = _network(trial, networks).to(hardware.device)
    with FlopCounterMode(display=False) as counted:
        model.eval()(torch.zeros(1, 3, 32, 32, device=hardware.device))
    flops = 3.0 * counted.get_total_flops() * len(train)  # a backward pass has two products for one of the forward pass
    rate = trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True)
    optimizer: torch.optim.Optimizer
    if trial.suggest_categorical("optimizer", ("Adam", "SGD")) == "Adam":
        optimizer = torch.optim.Adam(model.parameters(), rate)
    else:
        optimizer = torch.optim.SGD(model.parameters(), rate, momentum=0.9)
    size = trial.suggest_categorical("batch_size", (64, 128, 256))
    batches, judged = batches_of(train, size, shuffle=True), batches_of(val, 500)
    for _ in range(_PASSES):
        model.train()
        for step, (images, labels) in enumerate(batches, start=1):
            loss = F.cross_entropy(model(images.to(hardware.device)), labels.to(hardware.device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if over():
                yield flops * step / len(batches), None
                return
        model.eval()
        with torch.no_grad():
            right = sum(
                (model(images.to(hardware.device)).argmax(1).cpu() == labels).sum() for images, labels in judged
            )
        yield flops, int(right) / len(val)


def batches_of(pictures: Pictures, size: int, *, shuffle: bool = False) -> DataLoader[Any]:
    """Return a loader whose workers are forked, as is usual on Linux, also in a process that was spawned itself."""
    context = "fork" if WORKERS else None
    return DataLoader(pictures, size, shuffle=shuffle, num_workers=WORKERS, multiprocessing_context=context)


def _network(trial: optuna.Trial, networks: Sequence[str]) -> nn.Module:
    classes = len(CIFAR10.classes)
    if trial.suggest_categorical("network", networks) == RESNET:
        model = load_torchvision("models").resnet18(num_classes=classes)
        model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()  # for small images
        return model  # type: ignore[no-any-return]
    layers: list[nn.Module] = []
    channels = 3
    for _ in range(trial.suggest_int("layers", 2, 4)):
        width = trial.suggest_int(f"width_{len(layers) // 4}", 16, 128, log=True)
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)]
        channels = width
    dropout = trial.suggest_float("dropout", 0.0, 0.5)
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(dropout), nn.LazyLinear(classes))
