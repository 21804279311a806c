"""Serve the champion of a store over HTTP, with MLflow's own scoring server.

    python experiments/serve.py [--store DIR] [--port N]

`POST /invocations` takes `{"inputs": [image, ...]}` and returns the class and the probabilities of each image.
"""

from __future__ import annotations

import argparse
import logging
import socket
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.pyfunc import scoring_server

from cifar_core.hardware import set_up_cpu
from experiments.reading.study import HttpSpeed
from experiments.serving.champion import better_tested, record_speed, registered
from experiments.serving.guard import Guard
from experiments.serving.http_speed import measure
from experiments.serving.local import HOST, listen, port, run
from sweeps.command_line import OneLineParser, add_store, main_of, start, store_of
from sweeps.executors.worker_process import tied
from sweeps.snapshot import readable
from sweeps.store import Store, StoreError
from sweeps.tracking.mlflow_client import answering
from sweeps.words import percent

_READY = "Serving"


def build_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="serve.py",
        description="Serve the champion of a store with MLflow's scoring server: POST /invocations takes images and "
        "returns their classes and probabilities.",
        epilog="The store's studies and their champions: `make ui`.",
    )
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="registered model to serve, where the store has several; NAME/VERSION: a version that is not its champion",
    )
    parser.add_argument("--port", type=port, default=5001, metavar="N", help=f"on {HOST} (default: %(default)s)")
    parser.add_argument(
        "--measure",
        action="store_true",
        help="measure latency and requests a second over HTTP for 15 seconds, record them for the report, and exit",
    )
    add_store(parser)
    return parser


def _run(options: argparse.Namespace) -> int:
    store = store_of(options)
    if options.measure:
        version = registered(store, options.model)
        _print_speed(record_speed(store, version, lambda: _measure(store, version)))
        return 0
    with listen(options.port) as listening, readable(store) as source:
        _serve(source, registered(source, options.model), listening)
    print("stopped")
    return 0


def _serve(store: Store, version: ModelVersion, listening: socket.socket) -> None:
    """Serve until a signal ends it."""
    set_up_cpu()
    logging.getLogger(scoring_server.__name__).setLevel(logging.ERROR)  # it warns of tables at each wrong shape
    mlflow.set_tracking_uri(store.tracking_uri)
    with answering(store.tracking_uri), TemporaryDirectory() as folder:  # MLflow writes a file beside the network
        model = mlflow.pyfunc.load_model(f"models:/{version.name}/{version.version}", dst_path=folder)
        application = Guard(scoring_server.init(model), int(version.tags["side"]))
        better = better_tested(store, version)

    def announce(address: str) -> None:
        print(f"Version {version.version} of {version.name}: {version.description}", flush=True)
        if better is not None:
            accuracy = percent(float(better.tags["test_accuracy"]), 2)
            print(
                f"Version {better.version}, of study {better.tags['study']}, has {accuracy} of the test images; the "
                f"champion is chosen by validation images. To serve that one: --model {version.name}/{better.version}"
            )
        print(f"{_READY} on {address}/invocations (Ctrl-C ends it)", flush=True)

    run(application, listening, announce)


def _measure(store: Store, version: ModelVersion) -> HttpSpeed:
    """Time a server of the champion in a process of its own."""
    model = f"{version.name}/{version.version}"
    command = tied(Path(__file__), *store.as_option(), "--port", "0", "--model", model)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            ready = next((line for line in process.stdout if line.startswith(_READY)), None)
            if ready is None:
                raise StoreError("the server must start, but ended")
            return measure(HOST, urlsplit(ready.split()[2]).port or 0, int(version.tags["side"]))
        finally:
            process.terminate()


def _print_speed(speed: HttpSpeed) -> None:
    print(f"One image a request: {1000 * speed.latency:.1f} ms, 95 % within {1000 * speed.p95:.1f} ms")
    print(f"{speed.clients} clients at once: {speed.per_second:.1f} requests a second")
    print(f"{speed.batch} images a request: {speed.per_second_batched:.0f} images a second")
    print("`make report` puts these into the report")


main = main_of(build_parser, _run, stopped="stopped before it served")

if __name__ == "__main__":
    start(main)
