"""A Ray cluster of two nodes in network namespaces of their own, whose link can be cut."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.cluster import OBJECT_STORE

_ADDRESSES = ("10.77.0.1", "10.77.0.2")
_LINK = "cable"


def can_be_made() -> bool:
    """Return true for root on a machine that has the program ip."""
    return os.getuid() == 0 and shutil.which("ip") is not None


class LinkedNodes:
    """Two nodes of one CPU each, with token authentication; the first is the head.

    Attributes:
        address: of the cluster, within the namespaces.
        environment: of every process of the cluster, the sweep's included.
    """

    address = f"{_ADDRESSES[0]}:6379"

    def __init__(self, token: Path) -> None:
        token.write_text(secrets.token_hex(32))
        token.chmod(0o600)
        self.environment = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",
        }
        self._spaces = [f"sweeps-{os.getpid()}-{number}" for number in range(2)]
        self._nodes: list[subprocess.Popen[str]] = []

    def start(self) -> None:
        """Make the namespaces and the link between them, and start a node in each."""
        for space in self._spaces:
            _ip("netns", "add", space)
        first, second = self._spaces
        _ip("link", "add", "name", _LINK, "netns", first, "type", "veth", "peer", "name", _LINK, "netns", second)
        for space, address in zip(self._spaces, _ADDRESSES, strict=True):
            _ip("-n", space, "address", "add", f"{address}/24", "dev", _LINK)
            for device in ("lo", _LINK):
                _ip("-n", space, "link", "set", device, "up")
        self.start_node(0, "--head", "--port", "6379", "--include-dashboard", "false")
        self.start_node(1, "--address", self.address)

    def within(self, number: int) -> list[str]:
        """Return the beginning of a command that runs on a node."""
        return ["ip", "netns", "exec", self._spaces[number]]

    def start_node(self, number: int, *options: str) -> None:
        command: Sequence[str] = (
            *self.within(number),
            *(str(Path(sys.executable).with_name("ray")), "start", "--block", *options),
            *("--node-ip-address", _ADDRESSES[number], "--node-name", f"node-{number}"),
            *("--num-cpus", "1", "--object-store-memory", str(OBJECT_STORE)),
        )
        node = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={**os.environ, **self.environment},
        )
        self._nodes.append(node)
        assert node.stdout is not None
        said = []
        for line in node.stdout:
            said.append(line)
            if "Ray runtime started" in line:
                return
        raise AssertionError(f"the node must start, but: {''.join(said)}")

    def join_again(self) -> None:
        """Start the second node again, once it has noticed that the cluster took it for dead."""
        self._nodes[-1].wait(120)
        self.start_node(1, "--address", self.address)

    def cut(self) -> None:
        """Let nothing through."""
        _ip("-n", self._spaces[1], "link", "set", _LINK, "down")

    def restore(self) -> None:
        _ip("-n", self._spaces[1], "link", "set", _LINK, "up")

    def remove(self) -> None:
        for node in self._nodes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(node.pid, signal.SIGKILL)
            node.communicate()
        for space in self._spaces:
            inside = subprocess.run(["ip", "netns", "pids", space], capture_output=True, text=True)
            for pid in inside.stdout.split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            subprocess.run(["ip", "netns", "delete", space], stderr=subprocess.DEVNULL)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
