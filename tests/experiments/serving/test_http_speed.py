"""Timing of a server over HTTP."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator

import pytest

from experiments.serving.http_speed import measure
from sweeps.store import StoreError


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    status = 200
    images: list[int]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).images.append(len(body["inputs"]))
        self.send_response(self.status)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def port() -> Iterator[int]:
    _Handler.images, _Handler.status = [], 200
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def test_one_image_several_clients_and_large_requests(port: int) -> None:
    speed = measure("127.0.0.1", port, 4, seconds=0.05)
    assert (speed.clients, speed.batch) == (4, 64)
    assert 0 < speed.latency <= speed.p95
    assert speed.per_second > 0
    assert speed.per_second_batched > 0
    assert set(_Handler.images) == {1, 64}
    assert _Handler.images[-3:] == [64, 64, 64]


def test_a_server_that_refuses_and_one_that_is_not_there(port: int) -> None:
    _Handler.status = 400
    with pytest.raises(StoreError, match=r"^the server must label an image, but answered 400: b'\{\}'$"):
        measure("127.0.0.1", port, 4, seconds=0)
    with pytest.raises(StoreError, match=r"^the server on 127\.0\.0\.1:1 must answer, but gave: .*refused"):
        measure("127.0.0.1", 1, 4, seconds=0)
