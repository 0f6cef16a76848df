"""A network that loses things: a TCP relay on loopback between shipper and collector.

It reads whole HTTP messages, so that a fault hits where it hurts: before the collector saw anything, in the middle
of a request, after everything was stored, in the middle of the answer.
"""

from __future__ import annotations

import contextlib
import random
import re
import socket
import struct
import threading
import time
from collections import Counter

FATES = ("lost", "torn", "unheard", "half", "refused", "portal", "late")
"""What may happen to an exchange: reset before it is forwarded; reset after half of the request; forwarded, but the
answer dropped; half of the answer; a 503 that no collector said; a 200 from a captive portal; delayed."""

LATE_S = 0.05
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)\r\n", re.IGNORECASE)
_REFUSED = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 7\r\nretry-after: 0\r\n\r\nlater!\n"
_PORTAL = b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 14\r\n\r\n<html>hi</html"


class Relay:
    """Relays to ``upstream_port`` while the context is open; ``rate`` of all exchanges suffer one of `FATES`."""

    def __init__(self, upstream_port: int, *, seed: str, rate: float, fates=FATES):
        self.rate = rate
        self.fates = fates
        self.counts: Counter[str] = Counter()
        self.in_flight = 0
        """Exchanges whose request may be with the collector and whose answer is not here yet."""
        self._upstream = ("127.0.0.1", upstream_port)
        self._random = random.Random(f"{seed}/relay")
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self):
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()
        return self

    def __exit__(self, *_):
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept(), which close() alone does not
        self._accepting.join(5)
        self._listener.close()
        with self._lock:
            for each in self._sockets:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)

    def calm(self) -> None:
        """From now on nothing goes wrong here."""
        self.rate = 0.0

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(client,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, client):
        with self._known(client), contextlib.suppress(OSError):
            client.settimeout(60)
            try:
                with self._known(socket.create_connection(self._upstream, 10)) as upstream:
                    self._exchanges(client, upstream)
            except OSError:
                _reset_on_close(client)

    @contextlib.contextmanager
    def _known(self, each):
        with self._lock:
            self._sockets.add(each)
        try:
            with each:
                yield each
        finally:
            with self._lock:
                self._sockets.discard(each)

    def _exchanges(self, client, upstream):
        asking, answering = _Messages(client), _Messages(upstream)
        while request := asking.next():
            fate = self._fate()
            if fate in {"refused", "portal"}:
                client.sendall(_REFUSED if fate == "refused" else _PORTAL)
                continue
            if fate == "late":
                time.sleep(LATE_S)
            if not self._forward(fate, request, client, upstream, answering):
                _reset_on_close(client)
                _reset_on_close(upstream)
                return

    def _forward(self, fate, request, client, upstream, answering) -> bool:
        """Carry one exchange as far as its fate lets it; say whether the connection goes on."""
        if fate == "lost":
            return False
        if fate == "torn":
            upstream.sendall(request[: len(request) // 2])
            return False
        with self._flight():
            upstream.sendall(request)
            answer = answering.next()
        if fate == "unheard" or not answer:
            return False
        client.sendall(answer[: len(answer) // 2] if fate == "half" else answer)
        return fate != "half"

    def _fate(self) -> str:
        with self._lock:
            fate = self._random.choice(self.fates) if self._random.random() < self.rate else "carried"
            self.counts[fate] += 1
        return fate

    @contextlib.contextmanager
    def _flight(self):
        with self._lock:
            self.in_flight += 1
        try:
            yield
        finally:
            with self._lock:
                self.in_flight -= 1


class _Messages:
    """The HTTP/1.1 messages of one direction; what both sides here send has a Content-Length or no body."""

    def __init__(self, source: socket.socket):
        self._source = source
        self._left = bytearray()

    def next(self) -> bytes:
        """Return the next whole message, nothing at the end of the connection."""
        while (end := self._left.find(b"\r\n\r\n")) < 0:
            if not self._more():
                return b""
        length = _LENGTH.search(self._left, 0, end + 2)
        size = end + 4 + (int(length[1]) if length else 0)
        while len(self._left) < size:
            if not self._more():
                return b""
        message = bytes(self._left[:size])
        del self._left[:size]
        return message

    def _more(self) -> bool:
        data = self._source.recv(1 << 18)
        self._left += data
        return bool(data)


def _reset_on_close(each: socket.socket) -> None:
    with contextlib.suppress(OSError):
        each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
