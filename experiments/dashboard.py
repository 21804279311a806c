"""Look at the Optuna studies of a store in optuna-dashboard, which can change nothing here.

python experiments/dashboard.py [--store DIR] [--port N]
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterable
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from optuna_dashboard import wsgi

from experiments.serving.local import HOST, PortError, port
from sweeps.command_line import OneLineParser, add_store, main_of, start, store_of
from sweeps.snapshot import readable
from sweeps.studies.storage import open_storage

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

_HOSTS = ("127.0.0.1", "localhost")


def build_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="dashboard.py",
        description="Look at the Optuna studies of a store in optuna-dashboard; it changes nothing.",
    )
    parser.add_argument("--port", type=port, default=8080, metavar="N", help=f"on {HOST} (default: %(default)s)")
    add_store(parser, server=False)
    return parser


def read_only(application: WSGIApplication) -> WSGIApplication:
    """Return the application without what changes a study, and only under a name of this machine.

    The dashboard could delete a study on the word of any process, and of any page in the same browser.
    """

    def guarded(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ.get("HTTP_HOST", "").partition(":")[0] not in _HOSTS:
            return _refuse(start_response, "403 Forbidden", "this page is at 127.0.0.1 alone\n")
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return _refuse(start_response, "405 Method Not Allowed", "this dashboard changes nothing\n")
        return application(environ, start_response)

    return guarded


def _refuse(start_response: StartResponse, status: str, why: str) -> list[bytes]:
    start_response(status, [("Content-Type", "text/plain")])
    return [why.encode()]


def _run(options: argparse.Namespace) -> int:
    warnings.simplefilter("ignore")  # those of libraries, which say nothing to who browses
    store = store_of(options)
    store.check()
    with readable(store) as source:
        application = read_only(wsgi(open_storage(source.storage_url)))
        try:
            server = make_server(HOST, options.port, application, server_class=_Server, handler_class=_Quiet)
        except OSError as error:
            raise PortError(options.port, error) from error
        print(f"In your browser: http://{HOST}:{server.server_port}/dashboard (Ctrl-C ends it)", flush=True)
        with server:
            server.serve_forever()
    return 0


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Print no line for a request."""


main = main_of(build_parser, _run, stopped="stopped")


if __name__ == "__main__":
    start(main)
