"""A real server on loopback under two names: ``localhost`` is a host of our own, ``127.0.0.1`` a stranger."""

import http.server
import json
import threading
import time

import pytest

from audit_middleware import Principal
from audit_middleware.capture import Exchange, enter, leave
from tests.capture.kit import make_pipeline, records

CONTEXT, TRACEPARENT = "audit-context", "traceparent"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def handle_any(self):
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        seen = {name.lower(): value for name, value in self.headers.items()}
        self.server.seen.append((self.path, seen, body))
        kind = self.path.split("?")[0].strip("/").split("/")[0]
        port = self.server.server_address[1]
        if kind == "away":
            self.answer(302, Location=f"http://127.0.0.1:{port}/elsewhere")
        elif kind == "home":
            self.answer(302, Location=f"http://localhost:{port}/invoices/8")
        elif kind == "protected" and "authorization" not in seen:
            self.answer(401, WWW_Authenticate='Digest realm="r", nonce="n", qop="auth"')
        elif kind == "flaky" and len(self.server.seen) < 3:
            self.answer(503)
        elif kind == "status":
            self.answer(int(self.path.rsplit("/", 1)[1]))
        elif kind == "slow":
            self.server.is_slow.wait(5)
            self.close_connection = True
        elif kind == "broken":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"x" * 10)
            self.close_connection = True
        else:
            self.answer(200, json.dumps({"path": self.path, "size": length}).encode())

    def __getattr__(self, name):
        if name.startswith("do_"):
            return self.handle_any
        raise AttributeError(name)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, request, client_address):
            pass  # clients that go away are a part of these tests

    found = Server(("127.0.0.1", 0), Handler)
    found.seen, found.is_slow = [], threading.Event()
    found.home = f"http://localhost:{found.server_address[1]}"
    found.strange = f"http://127.0.0.1:{found.server_address[1]}"
    thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    found.is_slow.set()
    found.shutdown()
    thread.join()
    found.server_close()


@pytest.fixture
def pipeline(tmp_path):
    return make_pipeline(tmp_path, internal_hosts="localhost")


@pytest.fixture
def exchange(pipeline):
    """A request of alice's, which is current."""
    found = Exchange(pipeline.service, pipeline.recorder.new_request_id(), "POST", "/orders", time.perf_counter_ns())
    found.gate = pipeline
    found.user = Principal("alice", "user", "session")
    found.source = ("203.0.113.7", "peer", "203.0.113.7")
    token = enter(found)
    yield found
    leave(token)


@pytest.fixture
def calls(tmp_path, exchange):
    """The ``call`` records so far, shortly: method, host, status, how it ended."""

    def read():
        return [
            (each["call"]["method"], each["call"]["host"], each["call"].get("status"), each["call"]["ended"])
            for each in records(tmp_path, "call")
        ]

    return read
