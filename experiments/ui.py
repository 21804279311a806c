"""Browse the runs of a store in the MLflow UI.

python experiments/ui.py

MLflow's own application, without what browsing does not need: its assistant, gateway and job routes run commands and
requests for whoever asks.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import sys
import warnings
import webbrowser
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.serving.local import HOST, listen, port, run
from sweeps.command_line import OneLineParser, add_store, main_of, start, store_of
from sweeps.snapshot import readable
from sweeps.store import Store, StoreError
from sweeps.tracking.locations import uri_for_mlflow
from sweeps.tracking.views import TRIALS, UI_PORT, VIEWS, study_path, view_route

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import ASGIApp, Receive, Scope, Send

# The parts of MLflow's API that serve runs, models and their files. Other paths are not found.
_SERVED = re.compile(
    r"/(static-files/.*|health|version|graphql|get-artifact|model-versions/get-artifact|study/.*)?"
    r"|/(ajax-)?api/2\.0/mlflow-artifacts/artifacts(/.*)?"
    r"|/(ajax-)?api/[23]\.0/mlflow/(experiments|runs|metrics|artifacts|logged-models|registered-models|model-versions"
    r"|traces|server-info)(/.*)?"
)
_LANGUAGE_MODELS = "/ajax-api/2.0/mlflow/gateway-proxy"  # the UI asks for their list, and shows an error without one
# What the UI keeps in the browser. Without it, the UI opens an assistant that is not there, pages for agents, and an
# advertisement of the model registry over the registry.
_BROWSER: Mapping[str, object] = {
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": True,
    "mlflow.workflowType_v1": "machine_learning",
    "_mlflow_model_registry_promo_modal_dismissed_v1": True,
}
# A description is folded below its first picture, and not below its second line; wide pictures leave room for what is
# beside it.
_HEAD = """<style>
[data-assistant-ui] { display: none !important }
div:has(> [data-testid="truncation-gradient"]) { max-height: 440px !important }
[data-testid="truncation-gradient"] { top: 380px !important; bottom: auto !important; height: 60px !important }
.note-editor-preview-content img { max-width: 100%% }
.note-editor-preview-content :is(td, th) { padding: 0 16px 4px 0 }
</style>
<script>
for (const [key, value] of Object.entries(%s))
  if (localStorage.getItem(key) === null) localStorage.setItem(key, JSON.stringify(value))
</script>"""


def build_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="ui.py", description="Browse the runs of a store in the MLflow UI.")
    parser.add_argument("--port", type=port, default=UI_PORT, metavar="N", help=f"on {HOST} (default: %(default)s)")
    add_store(parser, server=False)
    return parser


def _run(options: argparse.Namespace) -> int:
    warnings.simplefilter("ignore")  # those of libraries, which say nothing to who browses
    return serve(store_of(options), options.port)


def serve(store: Store, number: int) -> int:
    """Serve the UI until a signal ends it, and return 0.

    Raises:
        UserError: there are no runs to browse, the database cannot be read, or the port is in use.
    """
    if not store.has_mlflow():
        raise StoreError(f"a store must hold runs, but {store.root} has none: 'make study' makes some")
    with listen(number) as listening, readable(store) as source:
        if source is not store:
            print(
                f"{store.root} cannot be written to; this shows a copy of its database, and keeps no changes",
                flush=True,
            )
        app = application(source)
        studies = save_all_views(source)

        def announce(address: str) -> None:
            print("In your browser (Ctrl-C ends it):", flush=True)
            for study in studies or [""]:
                print(f"  {address}{study_path(study) if study else ''}", flush=True)
            if studies and sys.stdout.isatty() and ("DISPLAY" in os.environ or sys.platform == "darwin"):
                webbrowser.open(f"{address}{study_path(studies[0])}")

        run(app, listening, announce)
    return 0


def save_all_views(store: Store) -> list[str]:
    """Give each study the views of its runs that it lacks; return the names of the studies.

    The most recent comes first, and studies that adapt a network last.

    In a store that cannot be written to, studies stay without the views.

    Raises:
        StoreError: the database cannot be read.
    """
    from sweeps.tracking.mlflow_client import answering, connect, every_experiment, every_run, save_views

    client = connect(store.tracking_uri)
    with answering(store.tracking_uri):
        experiments = {experiment.experiment_id: experiment for experiment in every_experiment(client)}
        runs = every_run(client, list(experiments), "tags.stage LIKE '%study'")
    recent = sorted(runs, key=lambda r: (r.data.tags["stage"] == "study", r.info.start_time), reverse=True)
    studies = {r.info.experiment_id: r.data.tags["stage"] for r in recent if r.data.tags["stage"] in VIEWS}
    with contextlib.suppress(StoreError), answering(store.tracking_uri):
        for experiment_id, stage in studies.items():
            save_views(client, experiments[experiment_id], stage)
    return [experiments[experiment_id].name for experiment_id in studies]


def application(store: Store) -> FastAPI:
    """Return MLflow's application for this store. MLflow reads its settings once, so a process can have one of them.

    Raises:
        StoreError: the database cannot be read.
    """
    from mlflow.server import constants

    os.environ |= {
        constants.BACKEND_STORE_URI_ENV_VAR: uri_for_mlflow(store),
        constants.ARTIFACT_ROOT_ENV_VAR: "mlflow-artifacts:/",
        constants.SERVE_ARTIFACTS_ENV_VAR: "true",
        constants.ARTIFACTS_DESTINATION_ENV_VAR: str(store.root / "artifacts"),
        # They keep other pages in the same browser from reading this server. Any port will do, as that of a tunnel
        # (ssh -L 8080:localhost:5000).
        "MLFLOW_SERVER_ALLOWED_HOSTS": "127.0.0.1,127.0.0.1:*,localhost,localhost:*",
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": "http://127.0.0.1:*,http://localhost:*",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    from mlflow.server import app as flask_app
    from mlflow.server.fastapi_app import create_fastapi_app
    from starlette.requests import Request
    from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
    from starlette.routing import Route

    from sweeps.tracking.mlflow_client import connect

    app: FastAPI = create_fastapi_app(flask_app)
    index = Path(str(flask_app.static_folder), "index.html").read_text(encoding="utf-8")
    index = index.replace("<head>", "<head>" + _HEAD % json.dumps(dict(_BROWSER)), 1)

    def home(request: Request) -> Response:
        return HTMLResponse(index, headers={"Cache-Control": "no-cache"})

    def study(request: Request) -> Response:
        name = request.path_params["name"]
        experiment = connect(store.tracking_uri).get_experiment_by_name(name)
        if experiment is None:
            return PlainTextResponse(f"There is no study {name}", 404)
        return RedirectResponse(f"/{view_route(experiment.experiment_id, TRIALS)}")

    app.router.routes[:0] = [Route("/", home), Route("/study/{name:path}", study)]
    app.add_middleware(_OnlyServed)
    return app


class _OnlyServed:
    """Answers 404 to what browsing runs does not need."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        from starlette.responses import JSONResponse, PlainTextResponse

        answer: Any = self._app
        if scope["type"] == "http" and (scope["method"], scope["path"]) == ("GET", _LANGUAGE_MODELS):
            answer = JSONResponse({"endpoints": []})
        elif scope["type"] == "http" and not _SERVED.fullmatch(scope["path"]):
            answer = PlainTextResponse("Not Found", 404)
        await answer(scope, receive, send)


main = main_of(build_parser, _run, stopped="stopped")


if __name__ == "__main__":
    start(main)
