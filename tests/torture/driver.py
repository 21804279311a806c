"""Sweeps whose parts are killed, stopped and starved at random moments, and what an oracle finds of them afterwards.

python -m tests.torture.driver [PHASE...]      # all of it, about an hour on two cores

Needs root for the full disk (a small tmpfs); without, that phase says so and is left out.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cifar_core.checkpoint import read_tensors
from sweeps.command_line import OneLineParser
from tests.processes import find_processes
from tests.torture.edits import EDITS, Edit, fingerprint
from tests.torture.oracle import Judgement, digest, judge
from tests.torture.server import MlflowServer

ROOT = Path(__file__).parents[2]
_OPTIONS = ("--space", "fast", "--keep-weights", "--device", "cpu")
# Small networks, of which a trial takes seconds, that draw on the generator at every step.
_RECIPE = """
width = 0.25
batch_size = 64
flip = true
translate = 2
mix = "cutmix"
"""
_NETWORKS = (
    'model = "fast_resnet"\noptimizer = "muon"\nlearning_rate = 0.1',
    'model = "three_conv"\noptimizer = "adamw"\nlearning_rate = 0.001',
)


@dataclass
class Torture:
    """One study that is disturbed, over as many processes as that takes.

    Args:
        trials: of the study; more are added where they end before the disturbances do.
        epochs: of each trial, without confirmations.
        preset: in place of these, trials of its own recipes, confirmations, a final and a test.
        engine: options that choose where the trials train.
        within: the beginning of the command, which says where it runs.
        environment: of every process.
    """

    folder: Path
    seed: int
    trials: int = 4
    epochs: float = 0.3
    preset: str | None = None
    workers: int = 2
    tracking_uri: str | None = None
    storage: str | None = None
    engine: Sequence[str] = ()
    within: Sequence[str] = ()
    store: Path = field(init=False)
    environment: dict[str, str] = field(default_factory=dict)
    injected: Counter[str] = field(default_factory=Counter)
    slowest_stop: float = 0.0  # seconds from a SIGINT or SIGTERM to the end of the process
    log: list[str] = field(default_factory=list)
    judged: Judgement | None = None
    furthest: dict[str, int] = field(default_factory=dict)  # acknowledged step of each run
    deaths: dict[str, int] = field(default_factory=dict)  # of workers of each run since it got there
    next_stranger: int = 4  # acknowledged points before a worker is killed of which nothing is known

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.store = self.folder / "store"
        self.truth = self.folder / "truth.jsonl"
        self.truth.touch()
        self.random = random.Random(self.seed)

    def command(self, *more: str) -> list[str]:
        where = ["--store", str(self.store), "--study", "torture", "--pruner", "none"]
        where += ["--tracking-uri", self.tracking_uri] if self.tracking_uri else []
        where += ["--storage", self.storage] if self.storage else []
        size = ["--trials", str(self.trials), "--workers", str(self.workers)]
        if self.preset is not None:
            size += ["--preset", self.preset]
        else:
            size += ["--epochs", str(self.epochs), "--no-confirm", "--enqueue", *self.recipes()]
        options = [*_OPTIONS, *self.engine, *where, *size, *more]
        return [*self.within, sys.executable, "tests/torture/witness.py", str(self.truth), *options]

    def recipes(self) -> list[str]:
        """A file for every trial, no two alike, as the same one is not tried twice."""
        paths = [self.folder / "recipes" / f"{number}.toml" for number in range(self.trials)]
        for number, path in enumerate(paths):
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"{_NETWORKS[number % 2]}{_RECIPE}color_jitter = {number / 10_000}\n", encoding="utf-8")
        return [str(path) for path in paths]

    @contextlib.contextmanager
    def sweep(self, *more: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
        """The command, running; what it says is kept in `log`."""
        with subprocess.Popen(
            self.command(*more),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **self.environment, **environment},
        ) as process:
            reader = threading.Thread(target=self._read, args=(process,), daemon=True)
            reader.start()
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.kill()
                process.wait()
                reader.join(10)

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self.log.extend(process.stdout)

    def finish(self) -> None:
        """Let the study come to its end, undisturbed."""
        before = len(self.log)
        with self.sweep() as process:
            process.wait()
        said = "".join(self.log[before:])
        if process.returncode or "Traceback" in said or f"{self.trials} complete, 0 pruned, 0 failed" not in said:
            raise AssertionError(f"the sweep must come to its end, but ended with {process.returncode}:\n{said}")
        checked = subprocess.run([*self.command(), "--verify"], cwd=ROOT, capture_output=True, text=True)
        if checked.returncode:
            raise AssertionError(f"--verify must find nothing, but: {checked.stdout}{checked.stderr}")

    def acknowledged(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.truth.read_text(encoding="utf-8").splitlines()]

    def wait_for_points(self, process: subprocess.Popen[str], count: int) -> bool:
        """Wait until `count` more points were acknowledged; false if the process ended before."""
        goal = len(self.acknowledged()) + count
        while len(self.acknowledged()) < goal:
            if process.poll() is not None:
                return False
            time.sleep(0.05)
        return True

    # Disturbances of a process that runs

    def kill_worker(self, process: subprocess.Popen[str]) -> None:
        """Kill a worker at random, but none whose run would then have died three times without getting any further.

        Such a run has failed, by design. Of a worker that never had a point acknowledged nobody knows which run it has;
        one of those is killed now and then.
        """
        lines = self.acknowledged()
        runs = {line["pid"]: line["key"] for line in lines}
        furthest = {line["key"]: line["step"] for line in sorted(lines, key=lambda line: line["step"])}
        self.deaths |= {key: 0 for key, step in furthest.items() if step != self.furthest.get(key)}
        self.furthest = furthest
        alive = workers(process.pid)
        victims = [pid for pid in alive if pid in runs and self.deaths[runs[pid]] < 2]
        if len(lines) >= self.next_stranger and not any(self.deaths.values()):
            victims += [pid for pid in alive if pid not in runs]
        if not victims:
            return
        victim = self.random.choice(victims)
        if victim in runs:
            self.deaths[runs[victim]] += 1
        else:
            self.next_stranger = len(lines) + 8
            self.deaths |= dict.fromkeys(self.deaths, 1)  # it may have had any of them
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
            self.injected["SIGKILL of a worker"] += 1

    def freeze(self, process: subprocess.Popen[str]) -> None:
        """SIGSTOP a worker or the coordinator for some seconds."""
        alive = workers(process.pid)
        pid = self.random.choice([process.pid, *alive])
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            time.sleep(self.random.uniform(0.5, 4))
            os.kill(pid, signal.SIGCONT)
            self.injected["SIGSTOP and SIGCONT"] += 1

    def second_coordinator(self, process: subprocess.Popen[str]) -> None:
        with self.sweep() as second:
            second.wait()
        if process.poll() is None:
            if second.returncode != 2:
                raise AssertionError(f"a second coordinator must be refused, but ended with {second.returncode}")
            self.injected["a second coordinator"] += 1

    def stop(self, process: subprocess.Popen[str], number: signal.Signals) -> None:
        """Ask it to stop, as Ctrl-C does, and see that it does so within 10 s."""
        started = time.monotonic()
        process.send_signal(number)
        process.wait(60)
        self.slowest_stop = max(self.slowest_stop, time.monotonic() - started)
        if process.returncode != 128 + number and process.returncode != 0:
            raise AssertionError(f"{number.name} must end it with {128 + number}, but it was {process.returncode}")
        self.injected[number.name] += 1

    def resume(self, said: str) -> None:
        """Run the sweep for a moment; it must say what matches `said`."""
        before = len(self.log)
        with self.sweep() as process:
            self.wait_for_points(process, 1)
            if process.poll() is None:
                self.stop(process, signal.SIGINT)
            else:
                self.trials += 2
        told = "".join(self.log[before:])
        if "Traceback" in told or not re.search(said, told):
            raise AssertionError(f"the sweep must say {said!r}, but said: {told}")

    def expect_refusal(self, edit: Edit) -> None:
        """A sweep must be refused without training anything; then the store is mended."""
        before, points = len(self.log), len(self.acknowledged())
        with self.sweep() as process:
            process.wait()
        told = "".join(self.log[before:])
        if process.returncode != 2 or not re.search(edit.said, told) or len(self.acknowledged()) != points:
            raise AssertionError(f"the sweep must be refused with {edit.said!r}, but: {process.returncode} {told}")
        if edit.mend is not None:
            edit.mend(self.store)
            return
        repaired = subprocess.run([*self.command(), "--repair"], cwd=ROOT, capture_output=True, text=True)
        if repaired.returncode or "nothing is left to mend" not in repaired.stdout:
            raise AssertionError(f"--repair must mend it, but: {repaired.stdout}{repaired.stderr}")

    def judge(self) -> Judgement:
        return judge(self.store, "torture", self.truth, self.tracking_uri, self.storage)


def workers(coordinator: int) -> list[int]:
    return find_processes(lambda command: "witness_worker.py" in command, coordinator)


# Phases: each disturbs a study of its own, lets it end, and leaves it to the oracle


def kills(folder: Path, seed: int, *, of_workers: int = 50, of_coordinator: int = 20, trials: int = 12) -> Torture:
    """SIGKILL of workers and of the coordinator at random moments."""
    torture = Torture(folder, seed, trials=trials)
    while torture.injected.total() < of_workers + of_coordinator:
        with torture.sweep() as process:
            life = torture.random.uniform(1, 25)
            if torture.injected["SIGKILL of the coordinator"] >= of_coordinator:
                life = 1e9
            elif torture.injected["SIGKILL of a worker"] < of_workers:
                life += 6  # which it takes to begin
            born = time.monotonic()
            while process.poll() is None and time.monotonic() - born < life:
                time.sleep(torture.random.uniform(0.2, 1))
                if torture.injected["SIGKILL of a worker"] < of_workers:
                    torture.wait_for_points(process, 1)
                    time.sleep(torture.random.uniform(0, 2))
                    torture.kill_worker(process)
                elif torture.injected["SIGKILL of the coordinator"] >= of_coordinator:
                    break
            if process.poll() is None and torture.injected["SIGKILL of the coordinator"] < of_coordinator:
                process.kill()
                torture.injected["SIGKILL of the coordinator"] += 1
        if process.returncode == 0:  # it had come to its end
            torture.trials += 4
    return torture


def stops(folder: Path, seed: int, *, each: int = 3, trials: int = 8) -> Torture:
    """Ctrl-C, SIGTERM, frozen processes, second coordinators and a clock that goes back by an hour."""
    torture = Torture(folder, seed, trials=trials)
    hours = 0
    for _ in range(each):
        for number in (signal.SIGINT, signal.SIGTERM):
            with torture.sweep(TORTURE_CLOCK=str(-3600 * hours)) as process:
                for disturb in (torture.freeze, torture.second_coordinator, torture.freeze):
                    torture.wait_for_points(process, 1)
                    disturb(process)
                if process.poll() is None:
                    torture.stop(process, number)
                else:
                    torture.trials += 4
        hours += 1
        torture.injected["clock set back by an hour"] += 1
    torture.environment["TORTURE_CLOCK"] = str(-3600 * hours)
    return torture


def outages(folder: Path, seed: int, *, each: int = 3, trials: int = 8) -> Torture:
    """An MLflow server that is killed, stays away for a while and comes back."""
    server = MlflowServer(folder)
    server.start()
    torture = Torture(folder / "sweep", seed, trials=trials, tracking_uri=server.uri)
    try:
        while torture.injected["MLflow server killed"] < each:
            with torture.sweep() as process:
                while process.poll() is None and torture.injected["MLflow server killed"] < each:
                    torture.wait_for_points(process, 1)
                    server.kill()
                    torture.injected["MLflow server killed"] += 1
                    torture.wait_for_points(process, 2)  # training continues meanwhile
                    server.start()
                process.wait()
            torture.trials += 4
        torture.finish()
        # Gone at the end: the queue stays, and --replay sends it.
        torture.trials += 2
        with torture.sweep() as process:
            torture.wait_for_points(process, 1)
            server.kill()
            process.wait()
        said = "".join(torture.log[-10:])
        if process.returncode != 1 or "--replay" not in said:
            raise AssertionError(f"an MLflow that is gone at the end must give exit code 1, but: {said}")
        server.start()
        replayed = subprocess.run([*torture.command(), "--replay"], cwd=ROOT, capture_output=True, text=True)
        if replayed.returncode or not re.search(r"MLflow has received [1-9]", replayed.stdout):
            raise AssertionError(f"--replay must send the queue, but: {replayed.stdout}{replayed.stderr}")
        torture.injected["MLflow server gone at the end, then --replay"] += 1
        torture.finish()
        torture.judged = torture.judge()
    finally:
        server.kill()
    return torture


def full_disk(folder: Path, seed: int, *, each: int = 3, trials: int = 6) -> Torture:
    """A tmpfs that is filled up while the sweep runs: one line and exit code 1; with room again it resumes."""
    torture = Torture(folder, seed, trials=trials)
    torture.store.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=700m", "torture", str(torture.store)])
    if mounted.returncode:
        raise PermissionError("a tmpfs must be mounted, which needs root")
    filler = torture.store / "filler"
    try:
        while torture.injected["disk full"] < each:
            with torture.sweep() as process:
                torture.wait_for_points(process, 1)
                with contextlib.suppress(OSError), filler.open("wb") as file:
                    while True:
                        file.write(bytes(1 << 16))
                process.wait()
            filler.unlink()
            said = "".join(torture.log[-8:])
            if process.returncode == 0:
                torture.trials += 4
                continue
            if process.returncode != 1 or "Traceback" in said:
                raise AssertionError(
                    f"a full disk must give one line and exit code 1, but: {process.returncode} {said}"
                )
            torture.injected["disk full"] += 1
        torture.finish()
        torture.judged = torture.judge()
    finally:
        subprocess.run(["umount", "-l", str(torture.store)])
    return torture


def crowd(folder: Path, seed: int, *, seconds: float = 600, trials: int = 16) -> Torture:
    """Eight workers for ten minutes."""
    torture = Torture(folder, seed, trials=trials, workers=8)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with torture.sweep() as process:
            while process.poll() is None and time.monotonic() < end:
                time.sleep(1)
            if process.poll() is None:
                torture.stop(process, signal.SIGINT)
        if time.monotonic() < end:
            torture.trials += 16
    torture.injected["minutes with eight workers"] = round(seconds / 60)
    return torture


def edited(folder: Path, seed: int, *, each: int = 1, trials: int = 4) -> Torture:
    """A store that is edited by hand between sweeps: each edit must be mended or refused, in a line."""
    torture = Torture(folder, seed, trials=trials)
    torture.resume("")
    edits = [*EDITS.items()] * each
    torture.random.shuffle(edits)
    for name, edit in edits:
        old, store = torture.store, edit.do(torture.store, torture.random)
        torture.store, original = store, fingerprint(old) if old.exists() and old != store else None
        if edit.refused:
            torture.expect_refusal(edit)
            torture.resume("")
        else:
            torture.resume(edit.said)
        if original is not None and fingerprint(old) != original:
            raise AssertionError(f"a copy must never write into the original, but {old} has changed")
        torture.injected[name] += 1
    return torture


def confirmed(folder: Path, seed: int, *, each: int = 4) -> Torture:
    """SIGKILL and Ctrl-C while recipes are confirmed, trained to the end and tested; all runs have other lengths."""
    torture, calm = (Torture(folder / name, seed, trials=2, preset="smoke") for name in ("disturbed", "calm"))
    while torture.injected.total() < 2 * each:
        with torture.sweep() as process:
            time.sleep(torture.random.uniform(10, 30))  # it takes some eight to begin
            if process.poll() is None and torture.injected.total() % 2:
                torture.stop(process, signal.SIGINT)
            elif process.poll() is None:
                process.kill()
                torture.injected["SIGKILL of the coordinator"] += 1
        if process.returncode == 0:
            torture.trials = calm.trials = torture.trials + 1  # another candidate for the confirmation
        elif process.returncode not in (-signal.SIGKILL, 128 + signal.SIGINT):
            raise AssertionError(f"the sweep must go on, but ended with {process.returncode}: {torture.log[-8:]}")
    for each_one in (torture, calm):
        each_one.finish()
    ours, theirs = (_tested(each_one.store) for each_one in (torture, calm))
    if not theirs or not theirs.items() <= ours.items():  # ours may have had another champion before a further trial
        raise AssertionError(f"the networks that were tested must be {theirs}, but are {ours}")
    return torture


def _tested(store: Path) -> dict[str, str]:
    """Digests of the weights of all networks that were tested, by key."""
    looks = [json.loads(line)["key"] for line in (store / "test_looks.jsonl").read_text(encoding="utf-8").splitlines()]
    paths = {key: store / "weights" / "torture" / f"{key}.safetensors" for key in looks}
    return {key: digest(read_tensors(path)[1]) for key, path in paths.items()}


PHASES: dict[str, Callable[..., Torture]] = {
    "kills": kills,
    "stops": stops,
    "outages": outages,
    "full_disk": full_disk,
    "crowd": crowd,
    "confirmed": confirmed,
    "edited": edited,
}


def main() -> int:
    parser = OneLineParser(prog="driver.py", description="Break sweeps in every way, and judge what is left of them.")
    parser.add_argument("phases", nargs="*", metavar="PHASE", help=f"one or more of {', '.join(PHASES)} (default: all)")
    names = parser.parse_args().phases or list(PHASES)
    if unknown := [name for name in names if name not in PHASES]:
        parser.error(f"a phase must be one of {', '.join(PHASES)}, but got {unknown[0]!r}")
    print("| fault | times | lost points | doubled points | stuck trials | weights that differ |")
    print("| --- | --- | --- | --- | --- | --- |")
    faults = 0
    for number, name in enumerate(names):
        with tempfile.TemporaryDirectory(prefix="torture-") as folder:
            started = time.monotonic()
            try:
                torture = PHASES[name](Path(folder) / "phase", number)
            except PermissionError as error:
                print(f"| {name}: left out, as {error} | | | | | |", flush=True)
                continue
            if torture.judged is None:
                torture.finish()
                torture.judged = torture.judge()
            found = torture.judged
        faults += found.faults
        cells = f"{found.lost} | {found.doubled} | {found.stuck} | {found.unequal}"
        for fault, times in torture.injected.items():
            print(f"| {fault} | {times} | {cells} |")
        minutes = (time.monotonic() - started) / 60
        slowest = f", slowest stop {torture.slowest_stop:.1f} s" if torture.slowest_stop else ""
        size = f"{found.trials} trials, {found.acknowledged} acknowledged points"
        print(f"<!-- {name}: {size}, {minutes:.0f} min{slowest} -->", flush=True)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
