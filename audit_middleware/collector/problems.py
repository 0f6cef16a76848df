"""What the collector answers when it does not do what was asked: RFC 9457, ``application/problem+json``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import msgspec
from starlette.responses import Response

MEDIA_TYPE: Final = "application/problem+json"


class Problem(Exception):
    """An answer other than 200: ``kind`` is the last part of its type URN, ``detail`` says what to do."""

    def __init__(self, status: int, kind: str, detail: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.detail = detail
        self.headers = dict(headers or {})


def busy(kind: str, detail: str, *, seconds: int = 1) -> Problem:
    """Return a 503 that asks to come back after ``seconds``."""
    return Problem(503, kind, detail, headers={"Retry-After": str(seconds)})


def too_many(detail: str, seconds: float) -> Problem:
    """Return a 429 that asks to come back after ``seconds``."""
    return Problem(429, "too-many-requests", detail, headers={"Retry-After": str(math.ceil(seconds))})


def problem_response(problem: Problem) -> Response:
    """Return the response that says ``problem``; nothing of the program's inside is in it."""
    body = {
        "type": f"urn:audit-ready:problem:{problem.kind}",
        "title": problem.kind.replace("-", " ").capitalize(),
        "status": problem.status,
        "detail": problem.detail,
    }
    return Response(msgspec.json.encode(body), problem.status, problem.headers, MEDIA_TYPE)
