"""What the shipper's tests share: lines that wait, a shipper with a clock of its own, a collector in memory."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from audit_middleware.journal.memory import MemoryJournal
from audit_middleware.sealing.seal import Sealer
from audit_middleware.shipping.backoff import Backoff
from audit_middleware.shipping.receipt import LogPins
from audit_middleware.shipping.shipper import Shipper
from audit_middleware.testing import SimulatedCollector
from tests.journal.kit import KEYRING, Clock

TS = b"2026-11-23T07:00:00.000001Z"


def sealed(count, *, stream=bytes(16), rec=b"{}"):
    """``count`` lines of one stream."""
    sealer, lines = Sealer(KEYRING, stream), []
    for _ in range(count):
        lines.append(sealer.seal(b"event", TS, rec))
        sealer.commit(lines[-1])
    return lines


def waiting(count, *, stream=bytes(16)):
    """An outbox in memory with ``count`` lines."""
    lines = sealed(count, stream=stream)
    outbox = MemoryJournal(Sealer(KEYRING, stream).stream, max_lines=10**6)
    for line in lines:
        outbox.append(line)
    return outbox


def left(outbox):
    return len(outbox.pending(10**6, 10**9))


class Desk:
    """A shipper, its collector, and what it put aside."""

    def __init__(self, *, collector=None, clock=None, pinned=True):
        self.collector = collector or SimulatedCollector()
        self.clock = clock or Clock()
        self.pins = LogPins()
        if pinned:
            self.pins.pin([self.collector.vkey])
        self.aside = []
        self.backoff = Backoff(self.clock, lambda low, high: high)
        self.shipper = Shipper(
            self.collector, self.pins, lambda *what: self.aside.append(what), monotonic=self.clock, backoff=self.backoff
        )

    def turn(self, *outboxes):
        return self.shipper.turn(outboxes)

    def run(self, *outboxes, seconds=10**6):
        """Turn until nothing waits, with the clock moving as far as the backoff says; return the seconds it took."""
        began = self.clock.now
        while any(left(outbox) for outbox in outboxes):
            assert self.clock.now - began <= seconds, f"still waiting: {self.shipper.shipped}"
            self.turn(*outboxes)
            self.clock.sleep(self.backoff.wait_s)
        return self.clock.now - began


class HTTPCollector:
    """A collector in memory behind a real HTTP server on loopback; ``handle`` may take over a request."""

    def __init__(self):
        self.collector = SimulatedCollector()
        self.requests = []
        self.handle = None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_args):
                pass

            def do_GET(self):
                self._serve(b"")

            def do_POST(self):
                self._serve(self.rfile.read(int(self.headers["content-length"])))

            def _serve(self, body):
                outer.requests.append((self.command, self.path, dict(self.headers.items()), body))
                with contextlib.suppress(OSError):
                    if outer.handle is None or not outer.handle(self, body):
                        self.answer(body)

            def answer(self, body):
                if self.path == "/log.vkey":
                    self.send(200, (outer.collector.vkey + "\n").encode())
                    return
                sizes = dict(
                    item.rsplit(" ", 1) for item in self.headers.get("audit-tree-size", "").split(", ") if item
                )
                answer = outer.collector.post(
                    decoded(self.headers, body), {name: int(size) for name, size in sizes.items()}
                )
                self.send(answer.status, answer.body)

            def send(self, status, body, headers=()):
                self.send_response(status)
                for name, value in (("audit-collector", "1"), ("content-length", str(len(body))), *headers):
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.handle_error = lambda *_args: None  # connections that tests break on purpose
        self.server.daemon_threads = True
        self.server.block_on_close = False
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(5)


def decoded(headers, body):
    import gzip

    return gzip.decompress(body) if headers.get("content-encoding") == "gzip" else body


def wait_until(condition, seconds=8):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def seqs(lines):
    return [json.loads(line)["seq"] for line in lines]
