"""The MLflow UI as users see it, and what its server refuses."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import pytest
import requests
import torch
from mlflow import MlflowClient
from mlflow.server.assistant.api import assistant_router
from mlflow.server.gateway_api import gateway_router
from mlflow.server.job_api import job_api_router
from mlflow.server.mcp_server_api import get_mcp_server_api_route_prefixes
from playwright.sync_api import Browser, Page, expect

from cifar_core.data.data_set import CIFAR10
from cifar_core.evaluation.pictures import class_accuracies, unlabelled
from experiments import ui
from sweeps.store import Store
from sweeps.studies.keys import STUDY_KEY
from sweeps.tracking.locations import uri_for_mlflow
from sweeps.tracking.mlflow_client import runs_of
from sweeps.tracking.notes import link, run_note, study_note
from sweeps.tracking.tracker import MlflowTracker, RunLabel
from tests.experiments.fake_store import Fake

ROOT = Path(__file__).parents[2]
REPORT = b"<p>a report</p><script>document.querySelector('p').textContent += ' that is drawn'</script>"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def browsed(store: Fake, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a study that has a description, and a run with one."""
    root = tmp_path_factory.mktemp("browsed") / "store"
    shutil.copytree(store.folder, root)
    (root / "secret.txt").write_text("not below artifacts/")
    client = MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    study, *runs = sorted(runs_of(client, "demo"), key=lambda run: run.data.tags["stage"] != "study")
    links = [f"[Champion](#/experiments/{study.info.experiment_id}/runs/{runs[0].info.run_id})"]
    note = study_note("**94.1 % test accuracy**", links, [["trial 4", "90 %", "80 %", "seed 0"]], "make study")
    client.set_experiment_tag(study.info.experiment_id, "mlflow.note.content", note)
    client.set_tag(study.info.run_id, "mlflow.note.content", note)
    pruned = next(run for run in runs if run.data.tags.get("state") == "pruned")
    client.set_tag(pruned.info.run_id, "mlflow.note.content", "21.8 %, needed 42.0 %: pruned")
    trained = next(run for run in runs if run.data.tags.get("key") == "trial-3").info
    files = {"pictures/classes.png": class_accuracies(dict.fromkeys(CIFAR10.classes, 0.5))}
    files |= {f"pictures/{name}.png": unlabelled(torch.rand(24, 3, 32, 32)) for name in ("mistakes", "confusion")}
    note = link(run_note("84.0 %", {}, files), lambda _, name: f"get-artifact?run_uuid={trained.run_id}&path={name}")
    client.set_tag(trained.run_id, "mlflow.note.content", note)
    files["report/report.html"] = REPORT
    for run in (trained, study.info):
        for name, content in files.items():
            path = root / "artifacts" / "demo" / run.run_id / "artifacts" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    for step in range(3):
        client.log_metric(trained.run_id, "system/process_memory_megabytes", 900 + step, step=step)
    return root


@pytest.fixture(scope="module")
def address(browsed: Path) -> Iterator[str]:
    """Address of the study that a server prints."""
    command = [sys.executable, "experiments/ui.py", "--store", str(browsed), "--port", "0"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "In your browser (Ctrl-C ends it):\n"
        yield server.stdout.readline().strip()
        server.send_signal(signal.SIGTERM)
        assert server.wait(20) == 0


@pytest.fixture(scope="module")
def site(address: str) -> str:
    return address.partition("/study/")[0]


def refused() -> Iterator[tuple[str, str]]:
    """Yield every route that runs something for whoever asks."""
    for router in (assistant_router, gateway_router, job_api_router):
        for route in router.routes:
            path = re.sub(r"{\w+(:path)?}", "x", route.path)  # type: ignore[attr-defined]
            yield from ((method, path) for method in sorted(route.methods))  # type: ignore[attr-defined]
    yield from (("GET", f"{prefix}/servers") for prefix in get_mcp_server_api_route_prefixes())
    for group in ("gateway/secrets/list", "gateway/endpoints/list", "webhooks", "scorers/list", "jobs/x"):
        yield from (
            ("GET", f"/{api}/{version}/mlflow/{group}") for api in ("api", "ajax-api") for version in ("2.0", "3.0")
        )
    yield "POST", "/ajax-api/2.0/mlflow/gateway-proxy"
    yield "POST", "/ajax-api/3.0/mlflow/scorer/invoke"
    yield "GET", "/ajax-api/3.0//mlflow/assistant/config"
    yield "GET", "/ajax-api/3.0/mlflow/runs/../assistant/config"


def test_routes_that_run_something_are_not_there(site: str) -> None:
    routes = list(refused())
    assert ("GET", "/ajax-api/3.0/mlflow/assistant/config") in routes
    assert len(routes) > 30
    with requests.Session() as session:
        for method, path in routes:
            request = requests.Request(method, site).prepare()
            request.url = site + path  # as it is: a client would resolve the dots
            assert session.send(request).status_code == 404, (method, path)


def test_other_hosts_and_origins_are_refused(site: str) -> None:
    search = f"{site}/ajax-api/2.0/mlflow/experiments/search?max_results=1"
    assert requests.get(search).status_code == 200
    for path in ("", "/study/demo", "/ajax-api/2.0/mlflow/experiments/search?max_results=1"):
        assert requests.get(site + path, headers={"Host": "evil.example"}).status_code == 403
    create = f"{site}/ajax-api/2.0/mlflow/experiments/create"
    evil = {"Origin": "https://evil.example"}
    assert requests.post(create, json={"name": "evil"}, headers=evil).status_code == 403
    assert "Access-Control-Allow-Origin" not in requests.get(search, headers=evil).headers


@pytest.mark.parametrize("up", ["../", "%2e%2e/", "..%2f", "demo/../../"])
@pytest.mark.parametrize(
    ("route", "levels"),  # from its root up to the folder of the store
    [("/api/2.0/mlflow-artifacts/artifacts/", 1), ("/get-artifact?run_id={run}&path=", 4)],
)
def test_artifacts_do_not_leave_their_folder(site: str, browsed: Path, route: str, levels: int, up: str) -> None:
    client = MlflowClient(f"sqlite:///{browsed / 'mlflow.db'}")
    with requests.Session() as session:
        request = requests.Request("GET", site).prepare()
        request.url = site + route.format(run=runs_of(client, "demo")[0].info.run_id) + up * levels + "secret.txt"
        answer = session.send(request)
    assert answer.status_code in (400, 404, 500)
    assert "not below" not in answer.text


def test_an_unknown_study_is_not_found(site: str) -> None:
    answer = requests.get(f"{site}/study/<b>none</b>")
    assert (answer.status_code, answer.text) == (404, "There is no study <b>none</b>")
    assert answer.headers["Content-Type"].startswith("text/plain")


def test_studies_of_adapted_networks_are_listed_last_and_have_views(tmp_path: Path) -> None:
    store = Store.locate(tmp_path / "store")
    store.create()
    for name, stage in (("a", "study"), ("b", "study"), ("b-adapted", "adapted-study"), ("labels/b", "label-curve")):
        tracker = MlflowTracker(store, name)
        tracker.open_study(RunLabel(key=STUDY_KEY, name=name, tags={"stage": stage, "study": name}, params={}))
        assert tracker.close() == 0
    client = MlflowClient(store.tracking_uri)
    for experiment in client.search_experiments():
        for tag in [tag for tag in experiment.tags if tag.startswith("mlflow.sharedViewState.")]:
            client.delete_experiment_tag(experiment.experiment_id, tag)
    assert ui.save_all_views(store) == ["b", "a", "b-adapted"]
    names = {}
    for experiment in client.search_experiments():
        if view := experiment.tags.get("mlflow.sharedViewState.trials"):
            names[experiment.name] = json.loads(view)["name"]
    assert names == {"a": "Trials by accuracy", "b": "Trials by accuracy", "b-adapted": "Heads by accuracy"}


def test_a_store_that_cannot_be_written_to_shows_its_runs_without_views(browsed: Path, tmp_path: Path) -> None:
    shutil.copytree(browsed, tmp_path / "store")
    with closing(sqlite3.connect(tmp_path / "store" / "mlflow.db")) as database, database:
        database.execute("DELETE FROM experiment_tags WHERE key LIKE 'mlflow.sharedViewState.%'")
        for event in ("INSERT", "UPDATE"):  # the root user may write to a read-only file
            database.execute(
                f"CREATE TRIGGER no_{event} BEFORE {event} ON experiment_tags "
                "BEGIN SELECT RAISE(ABORT, 'attempt to write a readonly database'); END"
            )
    assert ui.save_all_views(Store.locate(tmp_path / "store")) == ui.save_all_views(Store.locate(browsed))


def test_a_moved_store_that_cannot_be_written_to_is_shown_from_a_copy(
    browsed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = tmp_path / "moved"
    found: list[str | None] = []
    shutil.copytree(browsed, moved)
    before = (moved / "mlflow.db").read_bytes()

    def application(store: Store) -> None:
        experiment = MlflowClient(uri_for_mlflow(store)).get_experiment_by_name("demo")
        found.append(experiment.artifact_location if experiment is not None else None)

    monkeypatch.setattr("sweeps.snapshot._writable", lambda path: False)  # the root user may write everywhere
    monkeypatch.setattr(ui, "application", application)
    monkeypatch.setattr("uvicorn.Server.run", lambda server, sockets: None)
    assert ui.main(["--store", str(moved), "--port", "0"]) == 0
    assert found == [(moved / "artifacts" / "demo").as_uri()]
    said = f"{moved} cannot be written to; this shows a copy of its database, and keeps no changes\n"
    assert capsys.readouterr().out.startswith(said)
    assert (moved / "mlflow.db").read_bytes() == before


def test_a_port_in_use_and_a_store_without_runs_are_said_in_a_line(
    browsed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert ui.main(["--store", str(browsed), "--port", str(port)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"ui.py: error: --port must be free, but 127.0.0.1:{port} gave: ")
    assert said.count("\n") == 1
    said = f"ui.py: error: a store must hold runs, but {tmp_path} has none: 'make study' makes some\n"
    for _ in range(2):
        assert ui.main(["--store", str(tmp_path)]) == 2
        assert capsys.readouterr().err == said
        (tmp_path / "mlflow.db").touch()  # empty
    assert not (tmp_path / "mlflow.db").stat().st_size


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with browser.new_context(viewport={"width": 1600, "height": 1000}) as context:
        context.set_default_timeout(60_000)
        expect.set_options(timeout=60_000)
        yield context.new_page()


def test_the_address_shows_the_trials_by_accuracy(page: Page, address: str) -> None:
    page.goto(address)
    expect(page.get_by_text("94.1 % test accuracy")).to_be_visible()
    expect(page.get_by_role("columnheader", name="val/accuracy").first).to_be_visible()
    expect(page.get_by_text("21.8 %, needed 42.0 %: pruned").first).to_be_visible()
    cells = page.locator("[role=row] [col-id='metrics.`val/accuracy`']").all_inner_texts()
    accuracies = [float(text) for text in cells if re.fullmatch(r"0?\.\d+", text)]
    assert len(accuracies) > 2
    assert accuracies == sorted(accuracies, reverse=True)
    expect(page.get_by_text("Assistant")).not_to_be_visible()


def test_a_study_clicked_opens_at_its_runs(page: Page, site: str) -> None:
    page.goto(f"{site}/#/experiments")
    page.get_by_role("link", name="demo").first.click()
    expect(page.get_by_role("heading", name="Runs")).to_be_visible()


def test_nothing_lies_over_the_model_registry(page: Page, site: str) -> None:
    page.goto(f"{site}/#/models")
    expect(page.get_by_role("heading", name="Registered Models")).to_be_visible()
    expect(page.get_by_role("dialog")).not_to_be_visible()


def test_charts_begin_with_the_curves_and_the_parameters(page: Page, address: str, site: str) -> None:
    view = requests.get(address, allow_redirects=False).headers["location"]
    page.goto(f"{site}{view}&compareRunsMode=CHART")
    expect(page.get_by_text("Parallel Coordinates")).to_be_visible()
    places = [page.get_by_text(title).first.bounding_box() for title in ("Parallel Coordinates", "train/loss")]
    assert all(place is not None for place in places)
    above, below = (place["y"] for place in places if place is not None)
    assert above < below
    cards = page.get_by_test_id("experiment-view-compare-runs-card")
    widths = [box["width"] for card in cards.all() if (box := card.bounding_box()) is not None]
    assert widths[0] == widths[1] > 1.3 * min(widths), "two charts fill a row that has room for three"


@pytest.fixture(scope="module")
def run_pages(site: str, browsed: Path) -> dict[str, str]:
    """The addresses of the pages of the runs of the study, its own included, by key or stage."""
    runs = runs_of(MlflowClient(f"sqlite:///{browsed / 'mlflow.db'}"), "demo")
    return {
        run.data.tags.get("key", run.data.tags["stage"]): f"{site}/#/experiments/{run.info.experiment_id}/runs/"
        f"{run.info.run_id}"
        for run in runs
    }


def test_a_run_s_page_shows_its_accuracies_its_pictures_and_its_curves(page: Page, run_pages: dict[str, str]) -> None:
    page.goto(run_pages["trial-3"])
    expect(page.locator("img[src*='classes.png']")).to_be_in_viewport(ratio=1)
    expect(page.get_by_text("Accuracy by class")).to_be_in_viewport()
    page.get_by_text("Show more").first.click()
    for name in ("mistakes", "confusion"):
        picture = page.locator(f"img[src*='{name}.png']")
        picture.scroll_into_view_if_needed()
        expect(picture).to_have_js_property("complete", True)  # the browser loads it when it comes into view
        assert picture.evaluate("image => image.naturalWidth") > 600
        page.set_viewport_size({"width": 1280, "height": 900})
        assert picture.evaluate("image => image.width") < 600, "it leaves room for what is beside it"
    for tab, section in (("Model metrics", "train"), ("System metrics", "System metrics")):
        page.get_by_role("tab", name=tab).click()
        header = page.get_by_test_id("experiment-view-compare-runs-section-header").filter(has_text=section)
        header.scroll_into_view_if_needed()
        expect(page.locator("path.js-line").first).to_be_visible()


def test_two_runs_side_by_side(page: Page, site: str, run_pages: dict[str, str]) -> None:
    runs = [run_pages[key].split("/")[-1] for key in ("trial-0", "trial-3")]
    experiment = run_pages["study"].split("/")[-3]
    page.goto(f"{site}/#/compare-runs?runs={quote(json.dumps(runs))}&experiments={quote(json.dumps([experiment]))}")
    expect(page.get_by_text("Comparing 2 Runs from 1 Experiment")).to_be_visible()
    expect(page.locator(".parcoords .axis-title").filter(has_text="train/loss")).to_be_visible()
    expect(page.get_by_text("trial 3").first).to_be_visible()


def test_the_report_is_drawn_among_the_artifacts(page: Page, run_pages: dict[str, str]) -> None:
    page.goto(f"{run_pages['study']}/artifacts/report/report.html")
    expect(page.frame_locator("iframe").get_by_text("a report that is drawn")).to_be_visible()


def test_the_study_s_page_describes_it(page: Page, run_pages: dict[str, str]) -> None:
    page.goto(run_pages["study"])
    page.get_by_text("Show more").first.click()
    expect(page.get_by_role("cell", name="trial 4")).to_be_visible()
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="Champion").first.click()
    expect(opened.value.get_by_text("About this run")).to_be_visible()
    assert run_pages["study"].split("/")[-1] not in opened.value.url
