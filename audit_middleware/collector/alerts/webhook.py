"""A webhook of one's own: JSON by POST, signed so that the receiver knows whose it is and when it was sent."""

from __future__ import annotations

import time
from collections.abc import Callable
from hmac import compare_digest, digest
from typing import Any, Final

import msgspec

from audit_middleware.collector.alerts.door import Door
from audit_middleware.collector.alerts.message import Message, headline, told

TIMESTAMP, SIGNATURE, ID = "Audit-Timestamp", "Audit-Signature", "Audit-Message"
VERSION: Final = 1
TOLERANCE: Final = 300
"""Seconds that a message may be old: a copy of it is worth nothing later."""


class Webhook:
    """A `Sender`."""

    def __init__(self, door: Door, secret: str, clock: Callable[[], float] = time.time) -> None:
        self._door = door
        self._secret = secret.encode()
        self._clock = clock

    def send(self, message: Message) -> str:
        """Deliver; any 2xx confirms."""
        body = msgspec.json.encode(body_of(message))
        timestamp = str(int(self._clock()))
        headers = {
            "content-type": "application/json",
            TIMESTAMP: timestamp,
            SIGNATURE: sign(self._secret, timestamp, body),
            ID: message.id,
        }
        reply = self._door.request("POST", body, headers)
        return f"{reply.status} {reply.text}".strip()

    def close(self) -> None:
        """Close the connections."""
        self._door.close()


def body_of(message: Message) -> dict[str, Any]:
    """Return what is sent (docs/alerts.md)."""
    return {
        "version": VERSION,
        "id": message.id,
        "collector": message.collector,
        "sent_at": message.sent_at,
        "test": message.is_test,
        "summary": headline(message),
        "severity": message.severity,
        "news": [
            {"id": each.id, "change": each.change, "first": each.is_first, "finding": told(each.finding)}
            for each in message.news
        ],
        "crowds": [msgspec.to_builtins(each) for each in message.crowds],
    }


def sign(secret: bytes, timestamp: str, body: bytes) -> str:
    """Return the value of the header: HMAC-SHA256 (RFC 2104) over timestamp, a dot and the body, in hex."""
    return "v1=" + digest(secret, timestamp.encode() + b"." + body, "sha256").hex()


def is_signed(secret: bytes, timestamp: str, signature: str, body: bytes, now: float) -> bool:
    """Say whether a message is of somebody who has the secret, and of now: for receivers in Python."""
    is_now = timestamp.isascii() and timestamp.isdigit() and abs(now - int(timestamp)) <= TOLERANCE
    return is_now and compare_digest(sign(secret, timestamp, body).encode(), signature.encode("utf-8", "replace"))
