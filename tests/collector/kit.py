"""A small application side for the collector's tests: seals lines as the recorder does."""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from pathlib import Path

from audit_middleware.collector.limits import Limits
from audit_middleware.collector.logs import period_of
from audit_middleware.collector.settings import CollectorSettings
from audit_middleware.sealing.keys import Keyring
from audit_middleware.sealing.seal import Sealer, leaf_hash
from audit_middleware.sealing.text import b64url

PERIOD = period_of(time.time())
KEY = bytes(range(32))
OTHER_KEY = bytes(range(1, 33))
KEYRING = Keyring({"k1": KEY})
OTHER_KEYRING = Keyring({"k2": OTHER_KEY})
OPEN = {
    "version": "1",
    "instance": "i",
    "env": "test",
    "host": "h",
    "boot_id": "b",
    "pid": 1,
    "started": "2026-11-23T07:00:00.000000Z",
    "library": "audit-ready/0",
    "policy": "p",
    "durability": "journal",
}


def rec_of(service="orders", **changes):
    """A complete `rec` of a request; ``changes`` replace members."""
    return {
        "service": service,
        "principal": {"id": "alice", "type": "user", "auth": "bearer"},
        "source": {"ip": "192.0.2.1", "verdict": "peer", "peer": "192.0.2.1"},
        "action": "orders.refund",
        "outcome": "success",
        "resource": {"type": "order", "id": "42"},
        "trace": {"request_id": secrets.token_hex(8)},
    } | changes


class App:
    """One process incarnation: a stream whose lines are sealed in order."""

    def __init__(self, keyring=KEYRING, *, service="orders", opened=True):
        self.service = service
        self.sealer = Sealer(keyring, secrets.token_bytes(16))
        self.lines = []
        self.number = 0
        if opened:
            self.say("open", {"service": service} | OPEN)

    @property
    def stream(self):
        return self.sealer.stream

    def seal(self, type_, rec, ts=None):
        """The next line, without moving behind it."""
        self.number += 1
        ts = ts or f"2026-11-23T07:{self.number // 60 % 60:02d}:{self.number % 60:02d}.{self.number:06d}Z"
        raw = rec if isinstance(rec, bytes) else json.dumps(rec, separators=(",", ":"), ensure_ascii=False).encode()
        return self.sealer.seal(type_.encode(), ts.encode(), raw)

    def say(self, type_, rec, ts=None):
        line = self.seal(type_, rec, ts)
        self.sealer.commit(line)
        self.lines.append(line)
        return line

    def request(self, ts=None, **changes):
        return self.say("request", rec_of(self.service, **changes), ts)

    def requests(self, count, **changes):
        return [self.request(**changes) for _ in range(count)]


def name_of(line):
    """The leaf hash of a line as the wire spells it."""
    return b64url(leaf_hash(line)).decode()


def settings_for(folder: Path, **changes) -> CollectorSettings:
    """Settings of a collector whose data and guard lie in ``folder``."""
    given = {"data": folder / "data", "guard": folder / "guard", "keyring": KEYRING, "name": "audit.test"}
    given["limits"] = changes.pop("limits", Limits())
    return CollectorSettings(**(given | changes))


def own_lines(collector, type_=None):
    """The records the collector has written about its own work, parsed."""
    found = []
    for log in collector.logs:
        for line in log.ledger.entries() if log.ledger.size else ():
            parsed = json.loads(line)
            if parsed["rec"].get("service") == "audit-collector" and type_ in (None, parsed["type"]):
                found.append(parsed)
    return found


def admitted(collector, stream):
    """The lines of a stream in the ledger, in its order."""
    mark = b'"stream":"%b"' % stream.encode()
    return [line for log in collector.logs if log.ledger.size for line in log.ledger.entries() if mark in line[:120]]


def token_digest(token):
    return hashlib.sha256(token.encode()).hexdigest()
