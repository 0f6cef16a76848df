"""Three services as processes, one of which has auditing switched off: the collector names the gap, `trace` draws it."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import pytest

from audit_middleware.sealing.text import b64url
from tests.collector.kit import KEY

ROOT = Path(__file__).parents[3]
COLLECTOR = """
import sys
from pathlib import Path
from audit_middleware.collector.monitor.settings import MonitorSettings
from audit_middleware.collector.serve import serve
from tests.collector.kit import settings_for
settings = settings_for(Path(sys.argv[1]), port=0, monitor=MonitorSettings(call_seconds=3.0))
serve(settings, lambda collector, url: print(url, flush=True))
"""
CALLEE = """
import sys
from socket import socket
import uvicorn
from fastapi import FastAPI
from audit_middleware import AuditMiddleware
app = FastAPI()
app.post("/charge")(lambda: None)
if sys.argv[1] == "on":
    app.add_middleware(AuditMiddleware)
listener = socket()
listener.bind(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
uvicorn.Server(uvicorn.Config(app, log_level="error")).run([listener])
"""
CALLER = """
import sys, urllib.request
from audit_middleware import audited, current_audit
from audit_middleware.capture.calls import Outgoing
with audited("orders.place", principal="alice"):
    print(current_audit().request_id, flush=True)
    for place in sys.argv[1:]:
        outgoing = Outgoing("http", "POST", place.split(":")[0])
        asked = urllib.request.Request(f"http://{place}/charge", b"", outgoing.headers, method="POST")
        with urllib.request.urlopen(asked, timeout=10) as answer:
            outgoing.finish(answer.status)
"""


@pytest.fixture
def started(tmp_path):
    """Starts programs that say one line first, and ends them."""
    with ExitStack() as stack:

        def start(code, *arguments, **environ):
            keys = {"AUDIT_KEYS": f"k1:{b64url(KEY).decode()}", "AUDIT_INTERNAL_HOSTS": "127.0.0.1,localhost"}
            process = subprocess.Popen(
                [sys.executable, "-c", code, *arguments],
                env=os.environ | keys | environ, cwd=ROOT, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            stack.callback(process.stdout.close)
            stack.callback(process.wait, 20)
            stack.callback(process.terminate)
            return process.stdout.readline().strip(), process

        yield start


def findings(url):
    with urllib.request.urlopen(f"{url}/v1/findings?kind=unmatched_call", timeout=5) as answer:
        return json.load(answer)["findings"]


def test_a_service_that_is_called_with_auditing_switched_off_is_named_and_its_call_is_drawn(started, tmp_path):
    assert socket.gethostbyname("localhost") == "127.0.0.1"
    url, _ = started(COLLECTOR, str(tmp_path))

    def service(name):
        return {"AUDIT_SERVICE": name, "AUDIT_COLLECTOR_URL": url, "AUDIT_SPOOL_DIR": str(tmp_path / name)}

    billing, _ = started(CALLEE, "on", **service("billing"))
    silent, _ = started(CALLEE, "off", **service("shipping"))
    places = [f"127.0.0.1:{billing}", f"127.0.0.1:{billing}", f"localhost:{silent}"]
    request_id, caller = started(CALLER, *places, **service("orders"))
    assert caller.wait(20) == 0
    began = time.monotonic()
    while not (found := findings(url)):
        assert time.monotonic() - began < 15
        time.sleep(0.1)
    (gap,) = found
    assert (gap["service"], gap["evidence"]["host"], gap["evidence"]["callee"]) == ("orders", "localhost", None)
    assert (gap["evidence"]["called"], gap["evidence"]["recorded"], gap["state"]) == (1, 0, "open")
    assert gap["evidence"]["calls"][0]["request_id"] == request_id
    done = subprocess.run(
        [sys.executable, "-m", "audit_middleware", "trace", request_id, "--url", url],
        capture_output=True, text=True, timeout=30, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    head, root, *below = done.stdout.splitlines()
    assert ("2 services" in head, root.startswith("orders  task orders.place  alice  success")) == (True, True)
    shapes = [
        "├─ orders  call 127",
        "│  └─ billing  POST",
        "├─ orders  call 127",
        "│  └─ billing  POST",
        "└─ orders  call loc",
    ]
    assert [line[: len(shape)] for line, shape in zip(below, shapes, strict=True)] == shapes
    assert "  orders for alice  success 200  " in below[1]
    assert below[-1].endswith("! not recorded by localhost")
