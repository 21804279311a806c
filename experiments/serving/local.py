"""Ports of this machine, on which nobody else can reach a server."""

from __future__ import annotations

import os

from cifar_core.errors import UserError
from sweeps.command_line import number

HOST = "127.0.0.1"

port = number("must be a port from 0 to 65535", lambda value: 0 <= value <= 65535, int)
"""Type of an argument; 0 is any port that is free."""


class PortError(UserError):
    """A port that a server cannot have."""

    def __init__(self, port: int, error: OSError) -> None:
        super().__init__(f"--port must be free, but {HOST}:{port} gave: {os.strerror(error.errno or 0)}")
