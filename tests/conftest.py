"""Settings of every test: no telemetry, and no writing into the project's own store."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

STORE = os.path.join(os.path.realpath(Path(__file__).parents[1]), "mlruns")

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["DO_NOT_TRACK"] = "1"
# Where MLflow goes when a test forgets to name a store, and what child processes inherit.
_nowhere = tempfile.TemporaryDirectory(prefix="cifar-sweeps-tests-")
os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{_nowhere.name}/mlflow.db"

# A first example often pays for an import or a compilation; pytest-timeout watches the whole test.
settings.register_profile("here", deadline=None)
settings.register_profile("ci", parent=settings.get_profile("here"), derandomize=True, database=None)
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
    """The longest come first, so that nothing waits for them at the end."""
    items.sort(key=lambda item: not any(item.get_closest_marker(name) for name in ("long", "slow")))


@pytest.fixture(autouse=True)
def _denormal_numbers() -> Iterator[None]:
    """Commands turn them off in their process, which is that of other tests here."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)
