"""Command line of a sweep.

python sweeps/run_study.py --trials 50
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import math
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from optuna.exceptions import StorageInternalError

from cifar_core.data.data_set import CIFAR10, DataSet
from cifar_core.data.own_images import prepare
from cifar_core.data.picture_cache import CachedPictures
from cifar_core.data.source import DataSource
from cifar_core.errors import UserError
from cifar_core.evaluation.pictures import samples as draw_samples
from cifar_core.hardware import set_up_cpu
from cifar_core.machine import usable_cores
from cifar_core.memory import release_memory
from cifar_core.recipe import Recipe
from cifar_core.transfer.backbone import Backbone
from sweeps.checks.commands import repair_store, replay_queue, show_status, verify_store
from sweeps.checks.consistency import check_before_training
from sweeps.command_line import (
    FAILED,
    Interrupted,
    Stopper,
    print_error,
    run_command,
    start,
    stop_signals_blocked,
    unwind_on_signals,
)
from sweeps.console import SweepConsole
from sweeps.coordinator import Coordinator, StoreLostError, Summary
from sweeps.executors.engine import Engine
from sweeps.executors.worker_process import tied
from sweeps.lock import acquire
from sweeps.notice import Notice
from sweeps.options import (
    build_parser,
    choose_device,
    choose_preset,
    find_backbone,
    image_source,
    locate_store,
    name_places,
    name_study,
    open_engine,
    public_command,
)
from sweeps.planning.limits import Limits
from sweeps.planning.plan import Plan
from sweeps.planning.search_space import SearchSpace
from sweeps.planning.space_file import read_space
from sweeps.stages.adaptation import Adaptation
from sweeps.stages.adapted_result import adapted_study
from sweeps.stages.stage import Sweep
from sweeps.standard_streams import output_lost
from sweeps.states import ENDED
from sweeps.store import Store, StoreError
from sweeps.studies.given_recipes import affordable, earlier_recipes, for_this_data, read_given
from sweeps.studies.settings import adaptation_settings, check_adaptation
from sweeps.studies.storage import OneWriterStorage, open_storage
from sweeps.studies.study import SEARCH_SECONDS, SOURCE, left_out, open_study, started_trials
from sweeps.tracking.mlflow_client import connect
from sweeps.tracking.provenance import ROOT, provenance
from sweeps.tracking.registry import model_name
from sweeps.tracking.tracker import MlflowTracker
from sweeps.tracking.views import UI_PORT, study_path
from sweeps.words import percent, with_tta

_FEW_IMAGES = 10_000  # to train on; with fewer, an adapted network was the better one (docs/labels.md)
_LEAST_IMAGES = 4  # of two steps
_ADAPT_TOO = (
    f"a pretrained network is usually better with fewer than {_FEW_IMAGES:,} pictures to train on: --adapt adapts one "
    "after this sweep, --adapt-only in its place"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    0: success. 1: no network could be tested, the store accepted no more writes, MLflow lacks something at the end, the
    report failed, `--verify` found faults, or `--repair` or `--replay` left some. 2: an error that the user can mend.
    129, 130 or 143: interrupted.
    """
    parser = build_parser()
    options = parser.parse_args(arguments)

    def run() -> int:
        unwind_on_signals()
        try:
            return _run(options, sys.argv[1:] if arguments is None else arguments)
        except StoreLostError as error:
            print_error(parser.prog, f"{error}; mend that, and the same command resumes the sweep")
            return FAILED

    # A signal comes here before the first trial only; later the coordinator handles it.
    trains = not (options.status or options.verify or options.repair or options.replay)
    stopped = "stopped before it trained anything; the same command starts again" if trains else "stopped"
    return run_command(parser, run, stopped=stopped)


def _run(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    device = choose_device(options)
    space = read_space(options.space)
    study = name_study(options, choose_preset(options, device), space)
    store = locate_store(options)
    for asked, answer in (
        (options.status, show_status),
        (options.verify, verify_store),
        (options.repair, repair_store),
        (options.replay, replay_queue),
    ):
        if asked:
            code = answer(store, adapted_study(study) if options.adapt_only else study)
            return code or (FAILED if output_lost() else 0)
    with contextlib.closing(open_engine(options, device)) as engine:
        try:
            return _train(options, arguments, engine, space, store, study)
        except StorageInternalError as error:  # outside the coordinator's loop
            raise StoreLostError.of(error) from error


def _train(
    options: argparse.Namespace, arguments: Sequence[str], engine: Engine, space: SearchSpace, store: Store, name: str
) -> int:
    """Check all that was asked for before anything is written, then run it; return the exit code."""
    source, backbone = image_source(options), find_backbone(options)
    set_up_cpu(engine.threads)
    given = options.enqueue or list(space.enqueue)
    named = read_given(given)
    pictures = None
    if source is not None:
        with SweepConsole() as console:
            pictures = prepare(source, console.progress)
    data_set = CIFAR10 if pictures is None else pictures.data_set
    plan = _plan(options, name, data_set, engine, space)
    if options.tracking_uri is not None:
        connect(options.tracking_uri)
    if options.storage is not None:
        open_storage(options.storage)
    command = _Command(
        options=options,
        text=public_command(arguments),
        plan=plan,
        store=store,
        backbone=backbone,
        pictures=pictures,
        notice=Notice(options.notify, plan.study, store.root),
    )
    run: Callable[[], int] = command.adapt
    if not options.adapt_only:
        wanted = for_this_data(named, data_set)
        if options.source is not None:
            wanted = earlier_recipes(options.source, store, plan) | wanted
        run = functools.partial(command.sweep, engine, *affordable(wanted, given, plan.preset.trial, data_set))
    store.create()
    return command.notice.after(run)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Command:
    """A sweep, an adaptation, or one after the other.

    Args:
        text: the command line, without passwords.
        backbone: pretrained network to adapt, if any.
        pictures: the user's own, if any; otherwise the images are CIFAR-10.
    """

    options: argparse.Namespace
    text: str
    plan: Plan
    store: Store
    backbone: Backbone | None
    pictures: CachedPictures | None
    notice: Notice

    def sweep(self, engine: Engine, recipes: Sequence[Recipe], notes: Sequence[str]) -> int:
        """Run the sweep, adapt the pretrained network if there is one, and write the report.

        Args:
            recipes: recipes to try first.
            notes: lines to print after the plan.
        """
        study, summary, stopper = self.plan.study, None, Stopper()
        with acquire(self.store.lock(study), study), SweepConsole() as console:
            data = self._data(console)
            tracker = MlflowTracker(self.store, study, say=console.say)
            # Workers take seconds to start: they do so while the databases are opened.
            executor = engine.executor(data, console.say)
            try:
                with contextlib.closing(engine), contextlib.closing(executor), contextlib.suppress(Interrupted):
                    sweep = self._open(engine, recipes, notes, tracker, console, stopper.asked)
                    tracker.open()  # which may send for minutes what an earlier command left
                    stopper.listen()  # not earlier: until here Ctrl-C ends everything at once
                    summary = Coordinator(sweep, executor, lambda: _samples(data), stopper.asked).run()
                    self.notice.summary = summary
            finally:
                ended = summary is not None and not stopper.asked()
                lacking = self._finish(tracker, study, ended=ended)
        if summary is None:
            return _stopped(stopper)
        _print_summary(summary, sweep.plan)
        return self._follow_up(summary, tracker, stopper, lacking)

    def _follow_up(self, summary: Summary, tracker: MlflowTracker, stopper: Stopper, lacking: int) -> int:
        """Adapt the pretrained network if there is one, and write the report; return the exit code.

        Args:
            lacking: number of entries of the sweep that MLflow lacks.
        """
        report = shlex.join(["python", "experiments/compare.py", "--study", self.plan.study, *self.store.as_option()])
        if self.backbone is not None:
            if stopper.asked():
                return _stopped(stopper)
            code = FAILED
            try:
                code = self.adapt(stopper)
            finally:
                if code:
                    print(f"the sweep has ended; its report without the adapted network: {report}")
            if code:
                return code
        if lacking:
            print(f"no report yet; once MLflow has everything, this command writes it: {report}")
            return _unfinished(stopper)
        tested = summary.test_accuracy is not None
        code = FAILED if stopper.asked() else _report(self.plan, self.store, tracker, tested=tested)
        if code:
            if stopper.asked():
                print(f"stopped; the sweep has ended, and this command writes its report: {report}")
            return _unfinished(stopper)
        return FAILED if self.plan.confirm and not tested else 0

    def adapt(self, stopper: Stopper | None = None) -> int:
        """Adapt the pretrained network, on all cores; return the exit code.

        Args:
            stopper: the one of the sweep before it, if any.
        """
        assert self.backbone is not None
        plan, store, study, alone = self.plan, self.store, adapted_study(self.plan.study), stopper is None
        stopper = stopper or Stopper()
        try:
            store.create()  # again: the sweep may have filled the disk
        except StoreError as error:
            raise StoreLostError.of(error) from error
        with acquire(store.lock(study), study), SweepConsole() as console:
            set_up_cpu(plan.cores)
            if alone and self.pictures is not None:
                for note in self.pictures.notes:
                    console.say(note)
            data = self._data(console)
            tracker = MlflowTracker(store, study, say=console.say)
            if alone:
                stopper.listen()  # not earlier: until here Ctrl-C ends everything at once
            adaptation = Adaptation(
                study=study,
                plan=plan,
                backbone=self.backbone,
                fine_tune=not self.options.no_fine_tune,
                data=data,
                store=store,
                storage=OneWriterStorage(open_storage(store.storage_url, stop=stopper.asked, say=console.say)),
                tracker=tracker,
                console=console,
                tags=provenance(plan.data_set, plan.hardware, plan.cores),
                command=self.text,
                stop=stopper.asked,
            )
            result = None
            try:
                with contextlib.suppress(Interrupted):
                    result = adaptation.run()
            except (StoreError, StorageInternalError, OSError) as error:  # OSError: no room for features or the network
                lost = StoreLostError.of(error)
                if not stopper.asked():
                    raise lost from error
                console.say(str(lost))
            finally:
                ended = result is not None and not stopper.asked()
                lacking = self._finish(tracker, study, ended=ended)
        if result is None or (lacking and stopper.asked()):
            return _stopped(stopper)
        print("Adapted: " + "\n".join(result.lines()))
        if alone:
            _print_next(plan, study, store, tracker, tested=plan.confirm)
        return _unfinished(stopper) if lacking else 0

    def _data(self, console: SweepConsole) -> DataSource:
        if self.pictures is not None:
            return DataSource.pictures(self.pictures)
        return DataSource.cifar10(self.options.data, console.progress)

    def _open(
        self,
        engine: Engine,
        recipes: Sequence[Recipe],
        notes: Sequence[str],
        tracker: MlflowTracker,
        console: SweepConsole,
        stop: Callable[[], bool],
    ) -> Sweep:
        """Open the study, and print the plan."""
        store, plan, source = self.store, self.plan, self.options.source
        storage = OneWriterStorage(open_storage(store.storage_url, stop=stop, say=console.say))
        if self.backbone is not None:  # refused now, and not after the sweep
            settings = adaptation_settings(plan.data_set, self.backbone, plan.preset.name, plan.seed)
            check_adaptation(storage, adapted_study(plan.study), settings)
            notes = [*notes, f"{self.backbone.name} is adapted after that; its time is not in the estimate"]
        elif self.pictures is not None and plan.data_set.train_images < _FEW_IMAGES and not plan.on_cluster:
            notes = [*notes, _ADAPT_TOO]
        study = open_study(
            plan, storage, recipes, lambda trials: check_before_training(store, plan.study, trials, console.say)
        )
        if source is not None:
            study.set_user_attr(SOURCE, source)
        plan = replace(plan, trials=max(plan.trials, started_trials(study)))
        checkpoints = store.checkpoint_folder(plan.study)
        nodes_without = engine.nodes_without(checkpoints)
        ended = sum(trial.state.is_finished() for trial in study.get_trials(deepcopy=False))
        searched = float(study.user_attrs.get(SEARCH_SECONDS, 0.0))
        console.plan({**plan.rows(plan.trials - ended, searched), **engine.rows(checkpoints, nodes_without)})
        of_pictures = () if self.pictures is None else self.pictures.notes
        for note in (*of_pictures, *notes, *left_out(study, plan.trials)):
            console.say(note)
        return Sweep(
            plan=plan,
            study=study,
            storage=storage,
            tracker=tracker,
            store=store,
            console=console,
            tags=_tags(plan, self.options.gpus_per_trial),
            command=self.text,
            keeps_checkpoints=not nodes_without,
        )

    def _finish(self, tracker: MlflowTracker, study: str, *, ended: bool) -> int:
        """Close the tracker, and say how to send what MLflow lacks; return the number of those entries."""
        command = public_command(["--study", study, *self.store.as_option(storage=True), "--replay"])
        return tracker.finish(at_once=not ended, way=f"this command sends them: {command}")


def _stopped(stopper: Stopper) -> int:
    """Say that the user stopped the sweep; return the exit code."""
    print("stopped; the same command resumes the sweep")
    return 128 + stopper.signal


def _unfinished(stopper: Stopper) -> int:
    """Return the exit code of a command that leaves something to do."""
    return 128 + stopper.signal if stopper.asked() else FAILED


def _samples(data: DataSource) -> bytes:
    picture = draw_samples(data.train_val().train)
    release_memory()  # each worker loads images of its own
    return picture


def _plan(options: argparse.Namespace, study: str, data_set: DataSet, engine: Engine, space: SearchSpace) -> Plan:
    device = engine.hardware.device.type
    preset = choose_preset(options, device).fitted(data_set)
    if options.epochs is not None and (images := options.epochs * data_set.train_images) < _LEAST_IMAGES:
        share = f"{options.epochs:g} of {data_set.train_images:,} images are {images:.2g}"
        raise UserError(f"--epochs must cover two training steps of two images, but {share}")
    probe = Recipe(batch_size=64 if device == "cpu" else 1024)
    return Plan(
        study=study,
        trials=options.trials,
        space=space,
        preset=preset,
        seed=options.seed,
        sampler=options.sampler,
        pruner=options.pruner,
        timeout=options.timeout,
        patience=options.patience,
        confirm=not options.no_confirm,
        starts=not options.no_starts,
        earlier=options.source,
        enqueue=tuple(options.enqueue),
        places=name_places(options),
        hardware=engine.hardware,
        workers=engine.workers,
        threads=engine.threads,
        cores=usable_cores(),
        flops_per_second=engine.speed(probe, data_set),
        data_set=data_set,
        keep_weights=options.keep_weights,
        on_cluster=engine.on_cluster,
        limits=Limits(parameters=options.max_parameters, latency=options.max_latency),
    )


def _tags(plan: Plan, gpus_per_trial: float | None) -> dict[str, str]:
    gpus = min(plan.workers, torch.cuda.device_count())
    conditions = provenance(plan.data_set, plan.hardware, plan.threads)
    if plan.on_cluster:
        del conditions["kernels"]  # of this machine, not of the nodes that train
        gpus = math.ceil(plan.workers * (gpus_per_trial or 0))
    return {
        **conditions,
        "workers": str(plan.workers),
        **({"cores": str(plan.cores)} if plan.shares_cores else {}),
        **({"gpus": str(gpus)} if plan.hardware.device.type == "cuda" else {}),
        "preset": plan.preset.name,
        "space": plan.space.name,
    }


def _print_summary(summary: Summary, plan: Plan) -> None:
    if summary.nothing_left:
        print(f"Nothing is left to do: study {plan.study} has its {plan.trials} trials. For more: --trials N")
    counts = ", ".join(f"{summary.trials[state]} {state}" for state in ENDED)
    saved = percent(summary.metrics["study/saved_fraction"], 0)
    print(f"Search: {counts}; pruning saved {saved} of the compute of full trials")
    if summary.gain is not None:
        print(summary.gain.describe())
    champion = summary.champion
    if champion is not None:
        print(
            f"Champion: {champion.recipe.model} of trial {champion.source}, {percent(champion.accuracy, 2)} validation "
            "accuracy when it was confirmed"
        )
    if summary.test_accuracy is not None:
        accuracy = f"{percent(summary.test_accuracy, 2)} test accuracy{with_tta(summary.tta_accuracy)}"
        print(f"Trained on all images it has {accuracy}")


def _report(plan: Plan, store: Store, tracker: MlflowTracker, *, tested: bool) -> int:
    """Write the report, and print how to continue; return the exit code."""
    arguments = ["--study", plan.study, "--store", str(store.root), "--tracking-uri", store.tracking_uri]
    sys.stdout.flush()  # what the other process prints comes after this
    with stop_signals_blocked():  # it takes seconds, and ends whole unless this process is gone
        process = subprocess.Popen(tied(ROOT / "experiments" / "compare.py", *arguments))
    code = process.wait()
    _print_next(plan, plan.study, store, tracker, tested=tested)
    return FAILED if code else 0


def _print_next(plan: Plan, study: str, store: Store, tracker: MlflowTracker, *, tested: bool) -> None:
    """Print how to browse the runs of a study, and how to serve the champion."""
    if store.tracking_uri == Store.locate(store.root).tracking_uri:
        where = store.for_make()
        print(f"Browse all runs: make ui{where}, then http://127.0.0.1:{UI_PORT}{study_path(study)}")
        if tested:
            model = model_name(plan.data_set.name, plan.data_set.sha256)  # the store may have one of other images too
            print(f'Serve the champion: make serve{where} ARGS="--model {model}"')
    else:
        is_server = store.tracking_uri.startswith(("http://", "https://"))
        print(f"Browse all runs: {tracker.address() if is_server else store.tracking_uri}")


if __name__ == "__main__":
    start(main)
