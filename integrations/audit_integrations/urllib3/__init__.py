"""urllib3: one line records every request that leaves, `audit_urllib3`, whoever makes it: retries and redirects too."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final
from urllib.parse import urlsplit

from audit_integrations.patching import Undo, patched
from audit_middleware.capture import CONTEXT, TRACEPARENT, Outgoing

try:
    import urllib3
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("urllib3 is missing: pip install 'audit-ready[urllib3]'", name=error.name) from error

__all__ = ["audit_urllib3"]

_is_asked: Final[ContextVar[bool]] = ContextVar("audit_urllib3_asked", default=False)
_everybodys: Final[list[object]] = []


def audit_urllib3() -> Undo:
    """Record every request of every pool, present and future; a second time changes nothing. Returns what undoes it."""
    _everybodys[:] = [True]
    install()

    def undo() -> None:
        _everybodys.clear()

    return undo


def install() -> None:
    """Put the hook where every single attempt passes. It records nothing before it is asked to.

    ``urlopen``, which is public, comes again for a retry with the headers of the attempt before, and a context is
    good for one request.
    """
    patched(urllib3.HTTPConnectionPool, "_make_request", _around)


@contextmanager
def recording() -> Iterator[None]:
    """Record the requests in this block, for a library that is made of urllib3."""
    token = _is_asked.set(True)
    try:
        yield
    finally:
        _is_asked.reset(token)


def _around(original: Callable[..., Any]) -> Any:  # noqa: ANN401 - a method
    @functools.wraps(original)
    def _make_request(
        self: urllib3.HTTPConnectionPool,
        conn: object,
        method: str,
        url: str,
        body: object = None,
        headers: Mapping[Any, Any] | None = None,
        **named: Any,  # noqa: ANN401 - the method's own
    ) -> Any:  # noqa: ANN401 - a response of any version
        if not (_everybodys or _is_asked.get()):
            return original(self, conn, method, url, body=body, headers=headers, **named)
        with _outgoing(self, method, url, headers) as outgoing:
            response = original(self, conn, method, url, body=body, headers=_sent(headers, outgoing), **named)
            outgoing.finish(response.status)
            return response

    return _make_request


def _outgoing(pool: urllib3.HTTPConnectionPool, method: str, url: str, headers: Mapping[Any, Any] | None) -> Outgoing:
    given = next((value for name, value in (headers or {}).items() if _name(name) == TRACEPARENT), None)
    traceparent = given.decode("latin-1") if isinstance(given, bytes) else given
    return Outgoing("http", method, pool.host.strip("[]"), path=urlsplit(url).path, traceparent=traceparent)


def _sent(headers: Mapping[Any, Any] | None, outgoing: Outgoing) -> Any:  # noqa: ANN401 - of the type that was given
    """Return the headers with what has to go along, a copy: the next attempt is made from the headers it was given."""
    given = headers or {}
    stale = [name for name in given if _name(name) == CONTEXT.lower()]
    if outgoing.is_quiet or not (outgoing.headers or stale):
        return headers
    sent: Any = given.copy() if hasattr(given, "copy") else dict(given)
    for name in stale:
        del sent[name]
    sent.update(outgoing.headers)
    return sent


def _name(name: str | bytes) -> str:
    return (name.decode("latin-1") if isinstance(name, bytes) else name).lower()
