"""What is added to one request, in process: no server, no client, CPU time of the whole call."""

import asyncio
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

from audit_middleware import AuditMiddleware
from audit_middleware.sealing.keys import parse_keys
from benchmarks.apps import provider, starlette
from benchmarks.handwritten import Handwritten
from benchmarks.table import added, interleave, show

ROUNDS, REQUESTS = 120, 60
KEYS = "k1:" + "A" * 43
HEADERS = [
    (b"host", b"orders.example.com"),
    (
        b"user-agent",
        b"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0 Safari/537.36",
    ),
    (b"accept", b"application/json"),
    (b"authorization", b"Bearer eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9"),
    (b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    *((b"x-header-%d" % number, b"value of header %d" % number) for number in range(15)),
]


class Nothing:
    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        async def observe(message):
            await send(message)

        await self.app(scope, receive, observe)


def scope():
    return {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "path": "/v1/orders/4711",
        "raw_path": b"/v1/orders/4711", "root_path": "", "scheme": "http", "query_string": b"", "headers": HEADERS,
        "client": ("203.0.113.7", 40000), "server": ("10.0.0.1", 80),
    }  # fmt: skip


async def receive():
    return {"type": "http.request", "body": b"", "more_body": False}


async def send(message):
    pass


def runner(loop, app):
    async def run():
        for _ in range(REQUESTS):
            await app(scope(), receive, send)

    def measure():
        began = time.process_time()
        loop.run_until_complete(run())
        return (time.process_time() - began) / REQUESTS * 1e6

    return measure


def main():
    folder = Path(tempfile.mkdtemp(prefix="audit-bench-"))
    folder.chmod(0o700)
    audited = AuditMiddleware(starlette("bare"), service="orders", spool_dir=folder / "spool", keys=KEYS)
    apps = {
        "bare": starlette("bare"),
        "wrapper that does nothing": Nothing(starlette("bare")),
        "hand-written limit": Handwritten(starlette("bare"), folder / "lines", parse_keys(KEYS)),
        "audit-ready": audited,
        "OpenTelemetry ASGI, no-op exporter": OpenTelemetryMiddleware(starlette("bare"), tracer_provider=provider()),
    }
    loop = asyncio.new_event_loop()
    try:
        variants = {name: runner(loop, app) for name, app in apps.items()}
        interleave(variants, 10)
        figures = interleave(variants, ROUNDS)
        report(figures, folder)
    finally:
        audited.pipeline(scope()).close()
        loop.close()
        shutil.rmtree(folder)


def report(figures, folder):
    plus = added(figures, "bare")
    limit, otel = plus["hand-written limit"], plus["OpenTelemetry ASGI, no-op exporter"]
    rows = [
        (
            name,
            f"{statistics.median(values):.1f}",
            f"{plus[name]:+.1f}",
            f"{plus[name] / limit:.2f}",
            f"{plus[name] / otel:.3f}",
        )
        for name, values in figures.items()
    ]
    sizes = [len(line) for line in (folder / "lines").read_bytes().splitlines()[-100:]]
    show(
        "One ASGI request in process",
        f"Starlette, JSON route, {len(HEADERS)} headers, records of about {statistics.median(sizes):.0f} bytes; CPU time per request, "
        f"{ROUNDS} interleaved rounds of {REQUESTS} requests; added = median of the differences within a round.",
        ("variant", "us", "added us", "x hand-written", "x OpenTelemetry"),
        rows,
    )
