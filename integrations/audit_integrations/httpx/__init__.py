"""httpx: one line records every request that leaves, `audit_httpx`; or a transport does for one client."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import Any

from audit_integrations.patching import Undo, all_undone, patched
from audit_middleware.capture import CONTEXT, TRACEPARENT, Outgoing

try:
    import httpx
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("httpx is missing: pip install httpx", name=error.name) from error

__all__ = ["AsyncAuditTransport", "AuditTransport", "audit_httpx"]

ROUTE_EXTENSION = "audit_route"
"""``client.get(url, extensions={"audit_route": "/invoices/{id}"})`` says which template the path is of."""


class AuditTransport(httpx.BaseTransport):
    """Records what goes through another transport: ``httpx.Client(transport=AuditTransport(httpx.HTTPTransport()))``.

    Redirects and authentication flows are several requests, and as many records.
    """

    def __init__(self, transport: httpx.BaseTransport) -> None:
        self._transport = transport

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request; raises what the transport raises."""
        return _handled(self._transport.handle_request, request)

    def close(self) -> None:
        """Close the transport."""
        self._transport.close()


class AsyncAuditTransport(httpx.AsyncBaseTransport):
    """The same for `httpx.AsyncClient`."""

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self._transport = transport

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request; raises what the transport raises."""
        return await _handled_async(self._transport.handle_async_request, request)

    async def aclose(self) -> None:
        """Close the transport."""
        await self._transport.aclose()


def audit_httpx() -> Undo:
    """Record every request of every client, present and future, that leaves over httpx's own transports.

    A second time changes nothing. Returns what undoes it. A transport that opens connections by itself needs an
    `AuditTransport` around it; those that call an application in this process, as test clients do, make no calls.
    """
    return all_undone(
        patched(httpx.HTTPTransport, "handle_request", _around),
        patched(httpx.AsyncHTTPTransport, "handle_async_request", _around_async),
    )


def _around(original: Callable[[Any, httpx.Request], httpx.Response]) -> Any:  # noqa: ANN401 - a method
    @functools.wraps(original)
    def handle_request(self: httpx.HTTPTransport, request: httpx.Request) -> httpx.Response:
        return _handled(functools.partial(original, self), request)

    return handle_request


def _around_async(original: Callable[[Any, httpx.Request], Coroutine[Any, Any, httpx.Response]]) -> Any:  # noqa: ANN401 - a method
    @functools.wraps(original)
    async def handle_async_request(self: httpx.AsyncHTTPTransport, request: httpx.Request) -> httpx.Response:
        return await _handled_async(functools.partial(original, self), request)

    return handle_async_request


def _handled(handle: Callable[[httpx.Request], httpx.Response], request: httpx.Request) -> httpx.Response:
    with _outgoing(request) as outgoing:
        response = handle(_sent(request, outgoing))
        outgoing.finish(response.status_code)
        return response


async def _handled_async(
    handle: Callable[[httpx.Request], Coroutine[Any, Any, httpx.Response]], request: httpx.Request
) -> httpx.Response:
    with _outgoing(request) as outgoing:
        response = await handle(_sent(request, outgoing))
        outgoing.finish(response.status_code)
        return response


def _outgoing(request: httpx.Request) -> Outgoing:
    return Outgoing(
        "http",
        request.method,
        request.url.host,
        route=request.extensions.get(ROUTE_EXTENSION),
        path=request.url.path,
        traceparent=request.headers.get(TRACEPARENT),
    )


def _sent(request: httpx.Request, outgoing: Outgoing) -> httpx.Request:
    """Return the request with what has to go along, a copy: a redirect is made from the headers of the original."""
    if outgoing.is_quiet or not (outgoing.headers or CONTEXT in request.headers):
        return request
    headers = httpx.Headers(request.headers)
    headers.pop(CONTEXT, None)
    headers.update(outgoing.headers)
    return httpx.Request(
        request.method, request.url, headers=headers, stream=request.stream, extensions=request.extensions
    )
