"""A PostgreSQL server that tests start and crash."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

_USER = "postgres"  # PostgreSQL refuses to run as root


def programs() -> Path | None:
    """Return the folder of PostgreSQL's programs, which Debian keeps out of the path; None if it is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    path = shutil.which("pg_ctl") or (str(found[-1]) if found else None)
    return Path(path).resolve().parent if path is not None else None


class Postgres:
    """A server over a folder of its own, on this machine alone, which asks for a password.

    Attributes:
        password: of the user postgres; clients find it in the environment variable PGPASSWORD.
    """

    def __init__(self) -> None:
        found = programs()
        assert found is not None
        self._programs = found
        self._as_user = ["runuser", "-u", _USER, "--"] if os.getuid() == 0 else []
        self._folder = Path(tempfile.mkdtemp(prefix="postgres-"))  # pytest's own is closed to other users
        self.password = secrets.token_hex(16)
        secret = self._folder / "password"
        secret.write_text(self.password)
        if self._as_user:
            for path in (self._folder, secret):
                shutil.chown(path, _USER)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self._run("initdb", "--auth=scram-sha-256", f"--pwfile={secret}", f"--username={_USER}")
        secret.unlink()

    def url(self, database: str) -> str:
        return f"postgresql://{_USER}@127.0.0.1:{self._port}/{database}"

    def start(self) -> None:
        options = f"-p {self._port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self._folder}"
        self._run("pg_ctl", "start", "--wait", f"--options={options}", f"--log={self._folder}/log")

    def create(self, database: str) -> None:
        subprocess.run(
            [str(self._programs / "createdb"), "-h", "127.0.0.1", "-p", str(self._port), "-U", _USER, database],
            check=True,
            env={**os.environ, "PGPASSWORD": self.password},
        )

    def crash(self) -> None:
        """End every process at once; the next start recovers from the log."""
        self._run("pg_ctl", "stop", "--mode=immediate")

    def remove(self) -> None:
        if (self._folder / "data" / "postmaster.pid").exists():
            self.crash()
        shutil.rmtree(self._folder)

    def _run(self, program: str, *arguments: str) -> None:
        command = [*self._as_user, str(self._programs / program), f"--pgdata={self._folder}/data", *arguments]
        subprocess.run(command, check=True, cwd=self._folder, stdout=subprocess.DEVNULL)
