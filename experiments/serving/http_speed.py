"""Latency and throughput of the champion's server over HTTP."""

from __future__ import annotations

import http.client
import json
import random
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

from cifar_core.evaluation.serving import p95
from experiments.reading.study import HttpSpeed
from sweeps.store import StoreError

_CLIENTS = 4  # at once
_BATCH = 64  # images in a large request
_SECONDS = 5.0  # for each of the three measurements


def measure(host: str, port: int, side: int, seconds: float = _SECONDS) -> HttpSpeed:
    """Time requests of random images of `side` x `side` pixels to a server that runs, from this machine.

    Raises:
        StoreError: the server does not answer, or answers with an error.
    """
    one, many = _body(1, side), _body(_BATCH, side)
    _repeat(host, port, one, 0)  # the first calls set up kernels
    taken = _repeat(host, port, one, seconds)
    with ThreadPoolExecutor(_CLIENTS) as pool:
        started = time.perf_counter()
        futures = [pool.submit(_repeat, host, port, one, seconds) for _ in range(_CLIENTS)]
        answered = sum(len(future.result()) for future in futures)
        together = time.perf_counter() - started
    batches = _repeat(host, port, many, seconds)
    return HttpSpeed(
        latency=statistics.median(taken),
        p95=p95(taken),
        clients=_CLIENTS,
        per_second=answered / together,
        batch=_BATCH,
        per_second_batched=_BATCH / statistics.median(batches),
    )


def _body(images: int, side: int) -> bytes:
    draw = random.Random(0)
    pixels = [[[draw.choices(range(256), k=3) for _ in range(side)] for _ in range(side)] for _ in range(images)]
    return json.dumps({"inputs": pixels}).encode()


def _repeat(host: str, port: int, body: bytes, seconds: float) -> list[float]:
    """Send a request again and again over one connection, at least three times; return the seconds that each took."""
    taken: list[float] = []
    connection = http.client.HTTPConnection(host, port, timeout=60)
    try:
        began = time.perf_counter()
        while len(taken) < 3 or time.perf_counter() - began < seconds:
            started = time.perf_counter()
            connection.request("POST", "/invocations", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            content = answer.read()
            taken.append(time.perf_counter() - started)
            if answer.status != 200:
                raise StoreError(f"the server must label an image, but answered {answer.status}: {content[:200]!r}")
    except (OSError, http.client.HTTPException) as error:
        raise StoreError(f"the server on {host}:{port} must answer, but gave: {error}") from error
    finally:
        connection.close()
    return taken
