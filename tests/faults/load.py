"""Clients that keep asking and remember every response they received to its end."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import threading

from tests.faults.acks import Ack, read_ack

PLAN = (("GET", "/items/7", None), ("POST", "/items", b'{"name":"tea"}'), ("GET", "/stream", None))
PER_CONNECTION = 50  # then a fresh one, so that every worker of a port gets its share


class Load:
    """Client threads of one port. `open` lets them ask, `pause` lets them wait; they run while the context is open."""

    def __init__(self, port: int, *, clients: int, pause_s: float = 0.0):
        self.broken = 0
        self.unacknowledged = 0
        """Complete responses without an acknowledgement: the app answered without having a record."""
        self.port = port
        self._pause_s = pause_s
        self._is_open = threading.Event()
        self._is_over = threading.Event()
        self._acks: list[list[Ack]] = [[] for _ in range(clients)]
        self._threads = [threading.Thread(target=self._run, args=(acks,), daemon=True) for acks in self._acks]

    @property
    def acks(self) -> list[Ack]:
        return list(itertools.chain.from_iterable(self._acks))

    @property
    def count(self) -> int:
        return sum(map(len, self._acks))

    def open(self) -> None:
        self._is_open.set()

    def pause(self) -> None:
        self._is_open.clear()

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._is_over.set()
        self._is_open.set()
        for thread in self._threads:
            thread.join(15)

    def _run(self, acks):
        while not self._is_over.is_set():
            self._is_open.wait()
            with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)) as connection:
                try:
                    self._ask_for_a_while(connection, acks)
                except ConnectionRefusedError:
                    self._is_over.wait(0.005)  # dead already; whoever killed it pauses us in a moment
                except (OSError, http.client.HTTPException):
                    self.broken += 1

    def _ask_for_a_while(self, connection, acks):
        for method, path, body in itertools.islice(itertools.cycle(PLAN), PER_CONNECTION):
            if not self._is_open.is_set() or self._is_over.is_set():
                return
            connection.request(method, path, body)
            ack = read_ack(connection.getresponse().read())  # raises unless the response came to its end
            if ack is None:
                self.unacknowledged += 1
            else:
                acks.append(ack)
            if self._pause_s:
                self._is_over.wait(self._pause_s)
