"""The yardstick: a straight, hand-written ASGI middleware that writes the same line, correct with threads and forks.

It reads the current span, holds a lock, compares the pid and has a context variable for the application, because without
them it would not do the same job. It has no policy, no defects, no limits, no trusted proxies, no attempts, no upkeep.
"""

import hashlib
import itertools
import os
import re
import threading
import time
from binascii import b2a_base64
from contextvars import ContextVar

import msgspec
from opentelemetry.trace import get_current_span

from audit_middleware.record import AuditRecord, Http, Principal, Resource, Source, Trace
from audit_middleware.sealing.keys import Keyring
from audit_middleware.sealing.seal import Ratchet

URL = bytes.maketrans(b"+/", b"-_")
CURRENT: ContextVar[dict | None] = ContextVar("current", default=None)
TRACEPARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")


class Handwritten:
    def __init__(self, app, path, keyring: Keyring):
        self.app = app
        self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        stream = os.urandom(16)
        self.stream = b2a_base64(stream, newline=False).translate(URL).rstrip(b"=")
        self.ratchet = Ratchet(keyring.stream_key(keyring.newest, stream))
        self.seq = 0
        self.prev = b"A" * 43
        self.numbers = itertools.count()
        self.encode = msgspec.json.Encoder().encode
        self.lock = threading.Lock()
        self.pid = os.getpid()

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        started = time.perf_counter_ns()
        seen, said = {}, {}
        for name, value in scope["headers"]:
            if name in {b"user-agent", b"authorization", b"traceparent", b"x-request-id"}:
                seen[name] = value
        request_id = f"{self.stream.decode()}.{next(self.numbers):x}"
        status = size = 0

        async def observe(message):
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], (b"x-request-id", request_id.encode())]}
            elif message["type"] == "http.response.body":
                size += len(message["body"])
                if not message.get("more_body"):
                    self.write(scope, seen, said, request_id, status, size, time.perf_counter_ns() - started)
            await send(message)

        span = get_current_span().get_span_context()
        if span.is_valid:
            seen[b"traceparent"] = f"00-{span.trace_id:032x}-{span.span_id:016x}-01".encode()
        token = CURRENT.set(said := {})
        try:
            await self.app(scope, receive, observe)
        finally:
            CURRENT.reset(token)

    def write(self, scope, seen, said, request_id, status, size, duration):
        route = scope["route"].path
        parent = TRACEPARENT.fullmatch(seen.get(b"traceparent", b""))
        rec = AuditRecord(
            service="orders",
            principal=said.get("principal") or Principal("unknown", "unknown", "bearer"),
            source=Source(
                scope["client"][0],
                "peer",
                scope["client"][0],
                scope["client"][1],
                seen[b"user-agent"].decode("latin-1"),
            ),
            action=f"{scope['method']} {route}",
            outcome="success" if status < 400 else "failure",
            resource=Resource("orders", scope["path_params"]["order_id"]),
            trace=Trace(
                request_id, None, parent[1].decode() if parent else None, None, parent[2].decode() if parent else None
            ),
            http=Http(scope["method"], route, scope["path"], status, duration // 1000, 0, size, "complete"),
            defects=["principal"],
        )
        now, us = divmod(time.time_ns() // 1000, 1_000_000)
        encoded = self.encode(rec)
        with self.lock:
            if os.getpid() != self.pid:
                raise RuntimeError("forked: a real one begins a stream of its own here")
            body = b'{"v":1,"kid":"k1","stream":"%b","seq":%d,"prev":"%b","type":"request","ts":"%b.%06dZ","rec":%b' % (
                self.stream, self.seq, self.prev, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)).encode(), us, encoded,
            )  # fmt: skip
            self.ratchet = self.ratchet.at(self.seq >> 6)
            mac = self.ratchet.mac.copy()
            mac.update(body)
            line = b'%b,"mac":"%b"}' % (body, b2a_base64(mac.finalize(), newline=False).translate(URL).rstrip(b"="))
            os.write(self.fd, line + b"\n")
            self.prev = b2a_base64(hashlib.sha256(b"\0" + line).digest(), newline=False).translate(URL).rstrip(b"=")
            self.seq += 1
