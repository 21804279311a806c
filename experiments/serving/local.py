"""Servers on ports of this machine, which its users alone can reach."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Callable
from typing import Any

from cifar_core.errors import UserError
from sweeps.command_line import number, stop_signals

HOST = "127.0.0.1"

port = number("must be a port from 0 to 65535", lambda value: 0 <= value <= 65535, int)
"""Type of an argument; 0 is any port that is free."""


class PortError(UserError):
    """A port that a server cannot have."""

    def __init__(self, port: int, error: OSError) -> None:
        super().__init__(f"--port must be free, but {HOST}:{port} gave: {os.strerror(error.errno or 0)}")


def listen(port: int) -> socket.socket:
    """Return a socket that listens on a port, so that it is taken before the seconds that a server takes to load.

    Raises:
        PortError: the port is in use.
    """
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        raise PortError(port, error) from error


def run(application: Callable[..., Any], listening: socket.socket, announce: Callable[[str], None]) -> None:
    """Serve an ASGI application until Ctrl-C, or a signal that ends a command as Ctrl-C does.

    Args:
        announce: called with the address, once the signals end the server in order.
    """
    import uvicorn  # not for optuna-dashboard, which has a server of its own

    config = uvicorn.Config(application, log_level="warning")
    with contextlib.suppress(KeyboardInterrupt):
        if signal.SIGHUP in stop_signals():
            signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))  # which uvicorn knows
        announce(f"http://{HOST}:{listening.getsockname()[1]}")
        uvicorn.Server(config).run(sockets=[listening])
