"""Serve the champion of a store over HTTP, with MLflow's own scoring server.

    python experiments/serve.py [--store DIR] [--port N]

`POST /invocations` takes `{"inputs": [image, ...]}` and returns the class and the probabilities of each image.
"""

from __future__ import annotations

import argparse
import logging
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import mlflow
import uvicorn
from mlflow.entities.model_registry import ModelVersion
from mlflow.pyfunc import scoring_server

from experiments.serving.champion import record_speed, registered
from experiments.serving.guard import Guard
from experiments.serving.http_speed import measure
from sweeps.command_line import OneLineParser, number, run_command
from sweeps.standard_streams import protect_streams
from sweeps.store import DEFAULT_STORE, Store, StoreError
from sweeps.tracking.mlflow_client import answering
from sweeps.tracking.registry import champion_uri

HOST = "127.0.0.1"
_READY = "Serving"
_AT_ONCE = 64  # requests; further ones get a 503


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0 once Ctrl-C has ended the server, 2 for a user's error."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    return run_command(parser, lambda: _run(options), stopped="stopped before it served")


def build_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="serve.py",
        description="Serve the champion of a store with MLflow's scoring server: POST /invocations takes images and "
        "returns their classes and probabilities.",
        epilog="The store's studies and their champions: `make ui`.",
    )
    parser.add_argument("--model", metavar="NAME", help="where studies of several data sets are in the store: whose")
    parser.add_argument("--port", type=_port, default=5001, metavar="N", help="on 127.0.0.1 (default: %(default)s)")
    parser.add_argument(
        "--measure",
        action="store_true",
        help="time a server of it over HTTP for a quarter of a minute, record that for the report, and end",
    )
    parser.add_argument("--store", type=Path, default=DEFAULT_STORE, metavar="DIR", help="default: mlruns")
    parser.add_argument("--tracking-uri", metavar="URI", help="an MLflow server in place of the store's database")
    return parser


def _run(options: argparse.Namespace) -> int:
    with socket.socket() as probe:  # before the seconds that a model takes to load
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, options.port))
        except OSError as error:
            raise StoreError(f"--port must be free, but {HOST}:{options.port} gave: {error.strerror}") from error
    store = Store.locate(options.store, tracking_uri=options.tracking_uri)
    version = registered(store, options.model)
    if options.measure:
        return _measure(store, version, options)
    logging.getLogger(scoring_server.__name__).setLevel(logging.ERROR)  # it warns of tables at each wrong shape
    mlflow.set_tracking_uri(store.tracking_uri)
    with answering(store.tracking_uri):
        application = Guard(scoring_server.init(mlflow.pyfunc.load_model(champion_uri(version.name))))
    print(f"Version {version.version} of {version.name}: {version.description}", flush=True)
    print(f"{_READY} on http://{HOST}:{options.port}/invocations (Ctrl-C ends it)", flush=True)
    uvicorn.run(application, host=HOST, port=options.port, log_level="warning", limit_concurrency=_AT_ONCE)
    print("stopped")
    return 0


def _measure(store: Store, version: ModelVersion, options: argparse.Namespace) -> int:
    """Time a server in a process of its own, and record the result with the champion's run."""
    command = [sys.executable, __file__, "--store", str(options.store), "--port", str(options.port)]
    command += ["--model", version.name]
    command += ["--tracking-uri", options.tracking_uri] if options.tracking_uri else []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            if not any(line.startswith(_READY) for line in process.stdout):
                raise StoreError("the server must start, but ended")
            while process.poll() is None and not _listens(options.port):
                time.sleep(0.1)
            speed = measure(HOST, options.port, int(version.tags["side"]))
        finally:
            process.terminate()
    record_speed(store, version, speed)
    print(f"One image a request: {1000 * speed.latency:.1f} ms, 95 % within {1000 * speed.p95:.1f} ms")
    print(f"{speed.clients} clients at once: {speed.per_second:.1f} requests a second")
    print(f"{speed.batch} images a request: {speed.per_second_batched:.0f} images a second")
    print("`make report` puts these into the report")
    return 0


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


_port = number("must be a port from 1 to 65535", lambda value: 1 <= value <= 65535, int)


if __name__ == "__main__":
    protect_streams()
    sys.exit(main())
