"""Sealed lines as a busy service produces them."""

import os
import time

from audit_middleware.record import AuditRecord, Http, Opened, Principal, Resource, Source, Trace
from audit_middleware.sealing.encode import encode_rec
from audit_middleware.sealing.seal import Sealer
from audit_middleware.sealing.text import timestamp

KEYS = "k1:" + "A" * 43


def make_record(number, request_id):
    return AuditRecord(
        service="orders",
        principal=Principal(f"user{number % 997}", "user", "session", tenant="acme"),
        source=Source(
            f"203.0.113.{number % 250}",
            "peer",
            f"203.0.113.{number % 250}",
            40000 + number % 9999,
            "Mozilla/5.0 (X11)" * 4,
        ),
        action="POST /orders/{order_id}/refund",
        outcome="success" if number % 7 else "denied",
        resource=Resource("orders", str(number % 5000)),
        trace=Trace(request_id, None, f"{number:032x}", f"{number:016x}"),
        http=Http("POST", "/orders/{order_id}/refund", f"/orders/{number % 5000}/refund", 200, 1800, 0, 27, "complete"),
        details={"amount": number % 1000, "currency": "EUR"},
    )


def make_lines(keyring, count, *, streams=1):
    """Return ``count`` lines of several streams, interleaved, each beginning with ``open``."""
    sealers = [Sealer(keyring, os.urandom(16)) for _ in range(streams)]
    opened = encode_rec(
        Opened("orders", "1", "a", "bench", "host", "boot", 1, "2026-11-23T07:00:00.000001Z", "0", "p", "journal")
    )
    lines = []
    for number in range(count):
        sealer = sealers[number % streams]
        if sealer.seq == 0:
            line = sealer.seal(b"open", timestamp(time.time_ns()), opened)
        else:
            rec = encode_rec(make_record(number, f"{sealer.stream}.{number:x}"))
            line = sealer.seal(b"request", timestamp(time.time_ns()), rec)
        sealer.commit(line)
        lines.append(line)
    return lines
