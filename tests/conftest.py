"""Settings of every test: no telemetry, and no writing into the project's own store; refused arguments."""

from __future__ import annotations

import gc
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

Refused = Callable[..., str]  # the fixture `refused`

STORE = os.path.join(os.path.realpath(Path(__file__).parents[1]), "mlruns")

# Tests of the reports, which share their stores and pages.
_OF_PAGES = tuple(
    f"tests/experiments/{name}"
    for name in ("test_same_answers", "test_browser", "test_compare", "sections/", "comparison/", "decision/", "pages/")
)

gc.disable()  # until all modules are imported

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["DO_NOT_TRACK"] = "1"
# Where MLflow goes when a test forgets to name a store, and what child processes inherit.
_nowhere = tempfile.TemporaryDirectory(prefix="cifar-sweeps-tests-")
os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{_nowhere.name}/mlflow.db"

# A first example often pays for an import or a compilation; pytest-timeout watches the whole test.
settings.register_profile("here", deadline=None)
# The build server draws the same examples every time, so more of them would find nothing new there.
settings.register_profile("ci", parent=settings.get_profile("here"), derandomize=True, database=None, max_examples=40)
settings.load_profile("ci" if os.environ.get("CI") else "here")


def _keep_store_clean(event: str, args: tuple[object, ...]) -> None:
    """Refuses what would change the store that people's own studies are in."""
    if event == "open":
        path, _, flags = args
        writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    elif event in ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "sqlite3.connect"):
        path, writes = args[1 if event == "os.rename" else 0], 1
        if event.startswith("os.") and args[-1] != -1:
            return  # relative to an open folder, as when a temporary one is cleared away
    else:
        return
    if writes and isinstance(path, str | bytes | os.PathLike):
        place = os.path.realpath(os.fsdecode(path).removeprefix("file:"))
        if place == STORE or place.startswith(STORE + os.sep):
            raise RuntimeError(f"a test must keep out of {STORE} (use tmp_path), but does {event} on {place}")


sys.addaudithook(_keep_store_clean)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with long tests come first, then those with slow ones, so that nothing waits for them at the end."""
    ranks: dict[Path, int] = {}
    for item in items:
        rank = next((rank for rank, name in enumerate(("long", "slow")) if item.get_closest_marker(name)), 2)
        ranks[item.path] = min(rank, ranks.get(item.path, rank))
    items.sort(key=lambda item: ranks[item.path])


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling:
    return _ByFile(config, log)


class _ByFile(LoadFileScheduling):  # type: ignore[misc]  # xdist comes without types
    """A file goes to one process, and all files that look at the report's pages to the same, which writes each once."""

    def _split_scope(self, nodeid: str) -> str:
        return "pages" if nodeid.startswith(_OF_PAGES) else super()._split_scope(nodeid)


def pytest_collection_finish() -> None:
    """The libraries stay to the end, so no collection of garbage need walk through their million objects."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def _denormal_numbers() -> Iterator[None]:
    """Commands turn them off in their process, which is that of other tests here."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)


@pytest.fixture(scope="session")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables and nothing in them: making one takes seconds, copying it none."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("blank") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def settings_of_this_process() -> Iterator[None]:
    """Signal handlers and threads, which a sweep takes over, are given back."""
    import torch

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Call the `main` of a command, which must exit with 2 and one line; returns that line's message."""

    def call(main: Callable[[list[str]], int], *arguments: str) -> str:
        capsys.readouterr()
        try:
            code: object = main([*arguments])
        except SystemExit as ended:
            code = ended.code
        printed = capsys.readouterr()
        assert (code, printed.out) == (2, ""), printed
        [line] = printed.err.splitlines()
        command, _, message = line.partition(": error: ")
        assert command.endswith(".py")
        return message.removesuffix(" (--help lists the options)")

    return call
