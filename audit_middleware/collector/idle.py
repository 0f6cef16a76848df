"""Connections that are kept for whoever searches next."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, Generic, Protocol, TypeVar

IDLE: Final = 4


class Closable(Protocol):
    """A connection."""

    def close(self) -> None:
        """Close it."""


Connection = TypeVar("Connection", bound=Closable)


class IdleConnections(Generic[Connection]):
    """At most `IDLE` connections that wait; safe from any thread."""

    def __init__(self, is_alive: Callable[[Connection], bool] = lambda _connection: True) -> None:
        self._is_alive = is_alive
        self._idle: list[Connection] = []

    @contextmanager
    def lend(self, connect: Callable[[], Connection]) -> Iterator[Connection]:
        """Lend an idle connection while it lives, else a new one; one in whose use something failed is closed."""
        connection = self._living() or connect()
        try:
            yield connection
        except BaseException:
            connection.close()
            raise
        if len(self._idle) < IDLE:
            self._idle.append(connection)
        else:
            connection.close()

    def close(self) -> None:
        """Close what is idle."""
        while self._idle:
            self._idle.pop().close()

    def _living(self) -> Connection | None:
        with suppress(IndexError):  # of searches in other threads
            while True:
                connection = self._idle.pop()
                if self._is_alive(connection):
                    return connection
                connection.close()
        return None
