"""aiohttp's client: one line records every request that leaves, `audit_aiohttp`; or a middleware does for a session."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import Any

from audit_integrations.patching import Undo, patched
from audit_middleware.capture import CONTEXT, TRACEPARENT, Outgoing

try:
    import aiohttp
    from aiohttp import ClientHandlerType, ClientRequest, ClientResponse
except ImportError as error:  # one before 3.12 has no middlewares
    raise ModuleNotFoundError(
        "aiohttp 3.12 or newer is missing: pip install 'audit-ready[aiohttp]'", name=error.name
    ) from error

__all__ = ["audit_aiohttp", "audit_calls"]


async def audit_calls(request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
    """Record a request: ``ClientSession(middlewares=(..., audit_calls))``, last, so that others are around it.

    It sees each redirect, and each attempt of a middleware around it, as a request of its own, whose headers aiohttp
    makes anew. Raises what aiohttp raises.
    """
    headers = request.headers
    given, traceparent = headers.getall(CONTEXT, []), headers.get(TRACEPARENT)
    host = request.url.host or ""
    with Outgoing("http", request.method, host, path=request.url.path, traceparent=traceparent) as outgoing:
        if outgoing.is_quiet:
            return await handler(request)
        headers.popall(CONTEXT, None)
        headers.update(outgoing.headers)
        try:
            response = await handler(request)
        finally:  # a middleware around this one may send the same request again, and the response shows its headers
            for name in outgoing.headers:
                headers.popall(name, None)
            headers.extend((CONTEXT, value) for value in given)
        outgoing.finish(response.status)
        return response


def audit_aiohttp() -> Undo:
    """Record every request of every session, present and future; a second time changes nothing.

    Returns what undoes it. Websockets are recorded when they are open.
    """
    return patched(aiohttp.ClientSession, "_request", _around)


def _around(original: Callable[..., Coroutine[Any, Any, ClientResponse]]) -> Any:  # noqa: ANN401 - a method
    @functools.wraps(original)
    async def _request(self: aiohttp.ClientSession, *arguments: Any, **named: Any) -> ClientResponse:  # noqa: ANN401 - its own
        given = named.pop("middlewares", None)
        middlewares = tuple(self._middlewares if given is None else given)  # as ClientSession itself chooses
        if audit_calls not in middlewares:
            middlewares = (*middlewares, audit_calls)
        return await original(self, *arguments, middlewares=middlewares, **named)

    return _request
