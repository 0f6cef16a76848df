"""What a client gets when policy is deny and the journal cannot take the record of its request."""

from __future__ import annotations

import json
from typing import Final

STATUS: Final = 503
RETRY_AFTER_S: Final = 5
NOT_CARRIED_OUT: Final = "This request was not carried out because it could not be put on record."
NOT_ON_RECORD: Final = "This request was carried out, but its answer is withheld because it could not be put on record."
PHRASE: Final = "Service Unavailable"


def body(detail: str) -> bytes:
    """Return a problem document (RFC 9457)."""
    return json.dumps({"type": "about:blank", "title": PHRASE, "status": STATUS, "detail": detail}).encode()


def headers(content: bytes) -> list[tuple[str, str]]:
    """Return the headers of a refusal with this body."""
    return [
        ("content-type", "application/problem+json"),
        ("content-length", str(len(content))),
        ("retry-after", str(RETRY_AFTER_S)),
    ]
