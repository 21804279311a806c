"""Command line of a sweep.

python sweeps/run_study.py --trials 50
"""

from __future__ import annotations

import argparse
import contextlib
import math
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from optuna.exceptions import StorageInternalError

from cifar_core.budget import Budget
from cifar_core.data.data_set import CIFAR10, DataSet
from cifar_core.data.download import default_data_dir, ensure_cifar10
from cifar_core.data.own_images import ImageSource, prepare
from cifar_core.data.picture_cache import CachedPictures
from cifar_core.data.source import DataSource
from cifar_core.evaluation.pictures import samples as draw_samples
from cifar_core.hardware import set_up_cpu
from cifar_core.machine import usable_cores
from cifar_core.memory import release_memory
from cifar_core.recipe import Recipe
from cifar_core.recipes import expand, is_path, read_recipe
from cifar_core.transfer.backbone import Backbone
from sweeps.checks.consistency import check_before_training
from sweeps.checks.repair import repair
from sweeps.checks.status import read_status
from sweeps.checks.verify import findings
from sweeps.command_line import FAILED, Stopper, run_command
from sweeps.console import SweepConsole
from sweeps.coordinator import Coordinator, Interrupted, StoreLostError, Summary
from sweeps.executors.engine import Engine
from sweeps.lock import acquire, exclude_runs
from sweeps.notice import Notice
from sweeps.options import (
    EARLIER_RECIPES,
    UsageError,
    build_parser,
    choose_device,
    choose_preset,
    find_backbone,
    image_source,
    locate_store,
    name_study,
    open_engine,
    public_command,
)
from sweeps.planning.limits import Limits
from sweeps.planning.plan import Plan
from sweeps.planning.search_space import SearchSpace, comparable, for_data_set
from sweeps.planning.space_file import read_space
from sweeps.planning.space_rules import SYSTEMS_GROUP
from sweeps.snapshot import readable
from sweeps.stages.adaptation import Adaptation, Stopped, check_settings, settings_of
from sweeps.stages.adapted_result import adapted_study
from sweeps.stages.stage import Sweep
from sweeps.standard_streams import protect_streams
from sweeps.store import DEFAULT_STORE, Store, StoreError
from sweeps.studies.storage import OneWriterStorage, open_storage
from sweeps.studies.study import (
    ADAPTATION,
    SOURCE,
    TRAIN_IMAGES,
    best_recipes,
    left_out,
    load_study,
    open_study,
    started_trials,
    trials_of,
)
from sweeps.tracking.mlflow_client import connect
from sweeps.tracking.mlflow_queue import unsent
from sweeps.tracking.provenance import ROOT, provenance
from sweeps.tracking.tracker import MlflowTracker
from sweeps.tracking.views import UI_PORT, study_path
from sweeps.words import counted, percent, with_tta


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    0: success. 1: no network could be tested, the store accepted no more writes, MLflow lacks something at the end, the
    report failed, `--verify` found faults, or `--repair` or `--replay` left some. 2: an error that the user can mend.
    129, 130 or 143: interrupted.
    """
    parser = build_parser()
    options = parser.parse_args(arguments)

    def run() -> int:
        try:
            return _run(options, sys.argv[1:] if arguments is None else arguments)
        except StoreLostError as error:
            print(f"{parser.prog}: error: {error}; mend that, and the same command resumes the sweep", file=sys.stderr)
            return FAILED

    # Ctrl-C comes here before the first trial only; later the coordinator handles it.
    trains = not (options.status or options.verify or options.repair or options.replay)
    stopped = "stopped before the first trial; the same command starts again" if trains else "stopped"
    return run_command(parser, run, stopped=stopped)


def _run(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    device = choose_device(options)
    space = read_space(options.space)
    study = name_study(options, choose_preset(options, device), space)
    store = locate_store(options)
    for asked, answer in (
        (options.status, _print_status),
        (options.verify, _verify),
        (options.repair, _repair),
        (options.replay, _replay),
    ):
        if asked:
            return answer(store, study)
    with contextlib.closing(open_engine(options, device)) as engine:
        try:
            return _sweep(options, arguments, engine, space, store, study)
        except StorageInternalError as error:  # outside the coordinator's loop
            raise StoreLostError.of(error) from error


def _sweep(
    options: argparse.Namespace, arguments: Sequence[str], engine: Engine, space: SearchSpace, store: Store, name: str
) -> int:
    """Run the sweep of that name and write the report; return the exit code."""
    source, backbone = image_source(options), find_backbone(options)
    set_up_cpu(engine.threads)
    given = options.enqueue or list(space.enqueue)
    named = {name: comparable(read_recipe(name)) for name in expand(given, SYSTEMS_GROUP)}
    pictures = None if source is None else _prepared(source)
    data_set = CIFAR10 if pictures is None else pictures.data_set
    plan = _plan(options, name, data_set, engine, space)
    if options.tracking_uri is not None:
        connect(options.tracking_uri)
    if options.storage is not None:
        open_storage(options.storage)
    notice = Notice(options.notify, plan.study, store.root)
    if backbone is not None and options.adapt_only:
        if (code := _adapt(options, arguments, plan, store, backbone, pictures, notice)) == 0:
            notice.send("finished")
        return code
    # The epochs of our recipes are of CIFAR-10, those of a file of the data that it is tried on.
    wanted = {
        name: recipe if is_path(name) else for_data_set(recipe, CIFAR10.train_images, data_set)
        for name, recipe in named.items()
    }
    if options.source is not None:
        wanted = _earlier_recipes(options.source, store, plan) | wanted
    recipes, notes = _affordable(wanted, given, plan.preset.trial, data_set)
    if backbone is not None:
        notes.append(f"{backbone.name} is adapted after that; its time is not in the estimate")
    store.create()
    with acquire(store.lock(plan.study), plan.study), notice.of_failure(), SweepConsole() as console:
        loaders = _data_source(options, pictures, console)
        tracker = MlflowTracker(store, plan.study, say=console.say)
        summary = None
        # Workers take seconds to start: they do so while the databases are opened.
        executor = engine.executor(loaders, plan.most_side_by_side, console.say)
        try:
            with contextlib.closing(engine), contextlib.closing(executor), contextlib.suppress(Interrupted):
                storage = OneWriterStorage(open_storage(store.storage_url))
                if backbone is not None:  # refused now, and not after the sweep
                    settings = settings_of(plan.data_set, backbone, plan.preset.name, plan.seed)
                    check_settings(storage, adapted_study(plan.study), settings)
                study = open_study(
                    plan, storage, recipes, lambda trials: check_before_training(store, plan.study, trials, console.say)
                )
                if options.source is not None:
                    study.set_user_attr(SOURCE, options.source)
                plan = replace(plan, trials=max(plan.trials, started_trials(study)))
                checkpoints = store.checkpoint_folder(plan.study)
                console.plan({**plan.rows(plan.trials - started_trials(study)), **engine.rows(checkpoints)})
                for note in (*(() if pictures is None else pictures.notes), *notes, *left_out(study, plan.trials)):
                    console.say(note)
                sweep = Sweep(
                    plan=plan,
                    study=study,
                    storage=storage,
                    tracker=tracker,
                    store=store,
                    console=console,
                    tags=_tags(plan, options.gpus_per_trial),
                    command=public_command(arguments),
                    keeps_checkpoints=engine.keeps_checkpoints,
                )
                stopper = Stopper()  # not earlier: until here Ctrl-C ends everything at once
                summary = Coordinator(sweep, executor, lambda: _samples(loaders), stopper.asked).run()
        finally:
            lacking = _close(tracker, store, plan.study, console.say, ended=summary is not None)
    if summary is not None:
        _print_summary(summary, plan)
    if summary is None or (backbone is not None and stopper.asked()):
        print("stopped; the same command resumes the sweep")
        notice.send("interrupted")
        return 128 + stopper.signal
    report = shlex.join(["python", "experiments/compare.py", "--study", plan.study, *store.as_option()])
    if backbone is not None:
        code = FAILED
        try:
            code = _adapt(options, arguments, plan, store, backbone, pictures, notice, stopper)
        finally:
            if code:
                print(f"the sweep has ended; its report without the adapted network: {report}")
        if code:
            return code
    tested = summary.test_accuracy is not None
    code = FAILED if lacking else _report(plan, store, tracker, tested=tested)
    if code and not lacking and stopper.asked():  # the report, another process, was stopped too
        print(f"stopped; the sweep has ended, and this command writes its report: {report}")
        notice.send("interrupted", summary)
        return 128 + stopper.signal
    if plan.confirm and not tested:
        code = FAILED
    notice.send("finished" if code == 0 else "failed", summary)
    return code


def _samples(loaders: DataSource) -> bytes:
    picture = draw_samples(loaders.train_val().train)
    release_memory()  # each worker loads images of its own
    return picture


def _adapt(
    options: argparse.Namespace,
    arguments: Sequence[str],
    plan: Plan,
    store: Store,
    backbone: Backbone,
    pictures: CachedPictures | None,
    notice: Notice,
    stopper: Stopper | None = None,
) -> int:
    """Adapt a pretrained network, on all cores; return the exit code, and send a notice unless that is 0."""
    set_up_cpu(plan.cores)
    study = adapted_study(plan.study)
    store.create()
    with acquire(store.lock(study), study), notice.of_failure(), SweepConsole() as console:
        if options.adapt_only and pictures is not None:
            for note in pictures.notes:
                console.say(note)
        data = _data_source(options, pictures, console)
        tracker = MlflowTracker(store, study, say=console.say)
        stopper = stopper or Stopper()  # a new one not earlier: until here Ctrl-C ends everything at once
        adaptation = Adaptation(
            study=study,
            backbone=backbone,
            data=data,
            data_set=plan.data_set,
            hardware=plan.hardware,
            seed=plan.seed,
            preset=plan.preset.name,
            store=store,
            storage=OneWriterStorage(open_storage(store.storage_url)),
            tracker=tracker,
            console=console,
            tags=provenance(plan.data_set, plan.hardware, plan.cores),
            budget=None if options.no_fine_tune else plan.preset.final,
            command=public_command(arguments),
            test=plan.confirm,
            stop=stopper.asked,
        )
        result = None
        try:
            with contextlib.suppress(Stopped):
                result = adaptation.run()
        except (StoreError, StorageInternalError, OSError) as error:  # OSError: no room for features or the network
            raise StoreLostError.of(error) from error
        finally:
            lacking = _close(tracker, store, study, console.say, ended=result is not None)
    if result is None:
        print("stopped; the same command resumes the sweep")
        notice.send("interrupted")
        return 128 + stopper.signal
    print(f"Adapted: {result}")
    if lacking:
        notice.send("failed")
    return FAILED if lacking else 0


def _close(tracker: MlflowTracker, store: Store, study: str, say: Callable[[str], None], *, ended: bool) -> int:
    """Close the tracker, and say how to send what MLflow lacks; return the number of those entries."""
    entries = tracker.close() if ended else tracker.close_at_once()
    if not entries:
        return 0
    command = public_command(["--study", study, *store.as_option(storage=True), "--replay"])
    say(
        f"MLflow lacks {counted(entries, 'entry')}, kept in {store.queues(study)}; "
        f"once it answers, this command sends them: {command}"
    )
    return entries


def _data_source(options: argparse.Namespace, pictures: CachedPictures | None, console: SweepConsole) -> DataSource:
    """Return loaders of the user's pictures or of CIFAR-10, which is downloaded if it is not there."""
    if pictures is not None:
        return DataSource.pictures(pictures)
    directory = options.data or default_data_dir()
    ensure_cifar10(directory, console.progress)
    return DataSource.cifar10(directory)


def _prepared(source: ImageSource) -> CachedPictures:
    with SweepConsole() as console:
        return prepare(source, console.progress)


def _affordable(
    wanted: Mapping[str, Recipe], given: Sequence[str], budget: Budget, data_set: DataSet
) -> tuple[list[Recipe], list[str]]:
    """Return the recipes, and a line for each whose width was reduced to the budget of a trial.

    Only recipes of a group are reduced, not those that the user named.

    Raises:
        UserError: the budget does not cover two steps of one of them.
    """
    recipes, notes = [], []
    for name, recipe in wanted.items():
        tried = recipe if name in given else budget.narrow(recipe, data_set)
        budget.apply(tried, data_set.train_images, data_set)
        recipes.append(tried)
        if tried is not recipe:
            batch = "" if tried.batch_size == recipe.batch_size else f" and batch size {tried.batch_size}"
            notes.append(
                f"{name} is tried at width {tried.width:g}{batch}: the budget of a trial covers "
                f"{budget.steps(recipe, data_set):.3g} training steps at width {recipe.width:g}, but "
                f"{budget.steps(tried, data_set):.3g} at this one"
            )
    return recipes, notes


def _earlier_recipes(source: str, store: Store, plan: Plan) -> dict[str, Recipe]:
    """Return the best recipes of the study `source`; none if the plan's study has been given those.

    Raises:
        UserError: there is no such study, it is the plan's own or adapts a network, or it has no complete trial.
    """
    if source == plan.study:
        raise UsageError(f"--from must name another study, but got {source!r}, which this command runs")
    earlier = load_study(store, source, option="--from")
    if trials_of(store, plan.study) and load_study(store, plan.study).user_attrs.get(SOURCE) == source:
        return {}
    if ADAPTATION in earlier.user_attrs:
        raise UsageError(f"--from must name a sweep, but {source!r} adapts a network")
    recipes = best_recipes(earlier, EARLIER_RECIPES)
    if not recipes:
        raise UsageError(f"--from must name a study with a complete trial, but {source!r} has none")
    # Earlier versions did not record it, and most sweeps go from one study of a data set to the next.
    images = earlier.user_attrs.get(TRAIN_IMAGES, plan.data_set.train_images)
    recipes = [comparable(for_data_set(recipe, images, plan.data_set)) for recipe in recipes]
    return {f"{place} of {source}": recipe for place, recipe in enumerate(recipes, start=1)}


def _plan(options: argparse.Namespace, study: str, data_set: DataSet, engine: Engine, space: SearchSpace) -> Plan:
    device = engine.hardware.device.type
    preset = choose_preset(options, device).fitted(data_set)
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
    gpus = min(plan.side_by_side, torch.cuda.device_count())
    if plan.on_cluster:
        gpus = math.ceil(plan.side_by_side * (gpus_per_trial or 0))
    return {
        **provenance(plan.data_set, plan.hardware, plan.threads),
        "workers": str(plan.side_by_side),
        **({"cores": str(plan.cores)} if plan.shares_cores else {}),
        **({"gpus": str(gpus)} if plan.hardware.device.type == "cuda" else {}),
        "preset": plan.preset.name,
        "space": plan.space.name,
    }


def _print_status(store: Store, study: str) -> int:
    with readable(store) as source, SweepConsole() as console:
        console.plan(read_status(source, study))
    return 0


def _verify(store: Store, study: str) -> int:
    """Print the faults of the store; return the exit code, 1 if there are any.

    Raises:
        LockError: the study is running, so its databases may differ at any moment.
    """
    found = mendable = 0
    with exclude_runs(store.lock(study), study), readable(store) as source:
        for finding in findings(source, study):  # printed at once, because a damaged database can end the check
            print(finding, flush=True)
            found += 1
            mendable += finding.repair is not None
    if found:
        ways = f"; --repair mends {mendable} of them" if mendable else ""
        print(f"{counted(found, 'finding')}{ways}")
    else:
        print("nothing found: databases, trials and files agree")
    return 1 if found else 0


def _repair(store: Store, study: str) -> int:
    """Mend the faults of the store that need no guess; return the exit code, 1 if some are left.

    Raises:
        LockError: the study is running.
    """
    store.check()
    store.create()  # which says in a line that it cannot be written to
    with acquire(store.lock(study), study):
        return FAILED if repair(store, study, print) else 0


def _replay(store: Store, study: str) -> int:
    """Send MLflow the entries that it missed or refused; return the exit code.

    Raises:
        LockError: the study is running, and sends them itself.
        StoreError: the store has no such study, or MLflow does not answer.
    """
    if not (entries := unsent(store.queues(study))):
        with readable(store) as source:
            load_study(source, study)
        print(f"nothing waits for MLflow in study {study}")
        return 0
    with acquire(store.lock(study), study):
        tracker = MlflowTracker(store, study, say=print)
        tracker.open()
        refused = tracker.close()
    print(f"MLflow has received {entries - refused} of {counted(entries, 'entry')}")
    return FAILED if refused else 0


def _print_summary(summary: Summary, plan: Plan) -> None:
    if summary.nothing_left:
        print(f"Nothing is left to do: study {plan.study} has its {plan.trials} trials. For more: --trials N")
    counts = ", ".join(f"{summary.trials[state]} {state}" for state in ("complete", "pruned", "failed"))
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
    done = subprocess.run([sys.executable, str(ROOT / "experiments" / "compare.py"), *arguments])
    if store.tracking_uri == Store.locate(store.root).tracking_uri:
        where = "" if store.root == DEFAULT_STORE else f" STORE={shlex.quote(str(store.root))}"
        print(f"Browse all runs: make ui{where}, then http://127.0.0.1:{UI_PORT}{study_path(plan.study)}")
        if tested:
            print(f"Serve the champion: make serve{where}")
    else:
        is_server = store.tracking_uri.startswith(("http://", "https://"))
        print(f"Browse all runs: {tracker.address() if is_server else store.tracking_uri}")
    return FAILED if done.returncode else 0


if __name__ == "__main__":
    protect_streams()
    sys.exit(main())
