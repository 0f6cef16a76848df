"""What is added to one Flask or Django request, in process: no server, no client, CPU time of the whole call."""

import asyncio
import io
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.apps import MAKERS
from benchmarks.request import HEADERS, KEYS
from benchmarks.table import added, interleave, show

ROUNDS, REQUESTS = 60, 40
BARE, OURS, OTEL = "bare", "audit-ready", "OpenTelemetry, no-op exporter"


def main():
    for kind in ("flask", "django-wsgi", "django-asgi"):  # each in a process of its own: instrumentations are global
        subprocess.run([sys.executable, "-m", "benchmarks.frameworks", kind], check=True)


def measure(kind):
    folder = Path(tempfile.mkdtemp(prefix="audit-bench-"))
    folder.chmod(0o700)
    os.environ |= {"AUDIT_SPOOL_DIR": str(folder / "spool"), "AUDIT_KEYS": KEYS, "AUDIT_SERVICE": "orders"}
    loop = asyncio.new_event_loop()
    try:
        variants = variants_of(kind, loop)
        interleave(variants, 10)
        report(kind, interleave(variants, ROUNDS))
    finally:
        loop.close()
        shutil.rmtree(folder)


def environ():
    named = {f"HTTP_{name.decode().upper().replace('-', '_')}": value.decode() for name, value in HEADERS}
    return {
        **named, "REQUEST_METHOD": "GET", "SCRIPT_NAME": "", "PATH_INFO": "/v1/orders/4711", "QUERY_STRING": "",
        "REMOTE_ADDR": "203.0.113.7", "REMOTE_PORT": "40000", "SERVER_NAME": "10.0.0.1", "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1", "wsgi.version": (1, 0), "wsgi.url_scheme": "http", "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr, "wsgi.multithread": True, "wsgi.multiprocess": True, "wsgi.run_once": False,
    }  # fmt: skip


def wsgi_runner(app):
    def start_response(status, headers, exc_info=None):
        assert status == "200 OK", status

    def run():
        requests = [environ() for _ in range(REQUESTS)]
        began = time.process_time()
        for request in requests:
            result = app(request, start_response)
            b"".join(result)
            if hasattr(result, "close"):
                result.close()
        return (time.process_time() - began) / REQUESTS * 1e6

    return run


def variants_of(kind, loop):
    framework = {"flask": "flask", "django-wsgi": "django", "django-asgi": "django_async"}[kind]
    named = {BARE: "bare", OURS: "audited", OTEL: "traced"}  # instrumentation is global: the traced one is made last
    apps = {name: MAKERS[framework](variant) for name, variant in named.items()}
    if kind == "django-asgi":
        return {name: asgi_runner(loop, app) for name, app in apps.items()}
    return {name: wsgi_runner(app) for name, app in apps.items()}


def asgi_runner(loop, app):
    from benchmarks.request import scope

    async def requests():
        for _ in range(REQUESTS):
            messages = iter([{"type": "http.request", "body": b"", "more_body": False}])

            async def receive(messages=messages):
                for message in messages:
                    return message
                await asyncio.sleep(60)
                return {"type": "http.disconnect"}

            async def send(message):
                assert message.get("status", 200) == 200

            await app(scope(), receive, send)

    def run():
        began = time.process_time()
        loop.run_until_complete(requests())
        return (time.process_time() - began) / REQUESTS * 1e6

    return run


def report(kind, figures):
    plus = added(figures, BARE)
    rows = [
        (name, f"{statistics.median(values):.1f}", f"{plus[name]:+.1f}", f"{plus[name] / plus[OTEL]:.3f}")
        for name, values in figures.items()
    ]
    show(
        f"One {kind} request in process",
        f"JSON route, {len(HEADERS)} headers; CPU time per request, {ROUNDS} interleaved rounds of {REQUESTS} requests; "
        "added = median of the differences within a round.",
        ("variant", "us", "added us", "x OpenTelemetry"),
        rows,
    )


if __name__ == "__main__":
    measure(sys.argv[1])
