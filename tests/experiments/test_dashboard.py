"""optuna-dashboard over a store: it shows the study, changes nothing, and answers to this machine's names alone."""

from __future__ import annotations

import socket
from pathlib import Path
from wsgiref.util import setup_testing_defaults

import optuna
import pytest
from optuna_dashboard import wsgi

from experiments import dashboard
from experiments.dashboard import read_only
from sweeps.store import Store


def ask(storage: optuna.storages.BaseStorage, path: str, method: str = "GET", host: str = "localhost:8080") -> str:
    said: list[str] = []
    environ = {"PATH_INFO": path, "REQUEST_METHOD": method, "HTTP_HOST": host}
    setup_testing_defaults(environ)
    body = read_only(wsgi(storage))(environ, lambda status, headers, *rest: said.append(status))  # type: ignore[arg-type]
    return f"{said[0]}: {b''.join(body).decode()}"


@pytest.fixture
def storage() -> optuna.storages.BaseStorage:
    storage = optuna.storages.InMemoryStorage()
    optuna.create_study(study_name="mine", storage=storage)
    return storage


def test_it_shows_the_studies(storage: optuna.storages.BaseStorage) -> None:
    said = ask(storage, "/api/studies")
    assert said.startswith("200 OK: ")
    assert '"mine"' in said


@pytest.mark.parametrize(("method", "path"), [("DELETE", "/api/studies/0"), ("POST", "/api/studies"), ("PUT", "/x")])
def test_it_changes_nothing(storage: optuna.storages.BaseStorage, method: str, path: str) -> None:
    assert ask(storage, path, method) == "405 Method Not Allowed: this dashboard changes nothing\n"
    assert optuna.get_all_study_names(storage) == ["mine"]


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:8080", ""])
def test_other_hosts_are_refused(storage: optuna.storages.BaseStorage, host: str) -> None:
    assert ask(storage, "/api/studies", host=host).startswith("403 Forbidden: ")


def test_what_is_wrong_is_said_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dashboard.main(["--store", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("dashboard.py: error: a store must hold a study, but there is no ")
    store = Store.locate(tmp_path)
    store.create()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert dashboard.main(["--store", str(tmp_path), "--port", str(port)]) == 2
    assert capsys.readouterr().err.startswith(f"dashboard.py: error: --port must be free, but 127.0.0.1:{port} gave: ")
