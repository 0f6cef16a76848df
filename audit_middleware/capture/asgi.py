"""The ASGI adapter: translates HTTP and websocket connections into exchanges, and nothing else.

The record of a response is in the journal before the last body message is forwarded: whoever received a complete
answer is on record, whatever happens to this process next.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from audit_middleware import config
from audit_middleware.capture.client_address import AddressResolver
from audit_middleware.capture.connection import Connection, Message, Policy, Receive, Scope, Send
from audit_middleware.capture.exchange import Exchange, enter, leave
from audit_middleware.capture.identify import Identify
from audit_middleware.capture.trace_ids import trace_ids
from audit_middleware.pipeline import Pipeline, shared_pipeline

ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

_OBSERVED: Final = frozenset({"http", "websocket"})
_MARK: Final = "audit_middleware.exchange"
_SEEN: Final = frozenset(
    {
        b"user-agent",
        b"x-request-id",
        b"traceparent",
        b"authorization",
        b"x-api-key",
        b"x-forwarded-for",
        b"forwarded",
    }
)


class AuditMiddleware:
    """Record every HTTP request and websocket connection of an ASGI app.

    ``identify`` is called with the scope after the app ran and names the principal when the app did not; it may be a
    coroutine function. Everything else are settings (`audit_middleware.config.Settings`), for what the environment
    should not decide. Raises `ConfigurationError` for settings that are wrong or contradict each other.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        identify: Identify | None = None,
        pipeline: Pipeline | None = None,
        **settings: Any,  # noqa: ANN401 - settings of any type
    ) -> None:
        self.app = app
        self._identify = identify
        self._policy: Policy | None = None
        self._pipeline = pipeline
        self._settings = pipeline.settings if pipeline is not None else config.load(**settings)
        if pipeline is None:
            config.check(self._settings)
        self._addresses = AddressResolver(self._settings.trusted_proxies)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Observe one connection."""
        kind = scope["type"]
        if kind == "lifespan":
            await self.app(scope, receive, self._drain_at_shutdown(scope, send))
            return
        if kind not in _OBSERVED or _MARK in scope:  # the mark: an outer AuditMiddleware observes this one
            await self.app(scope, receive, send)
            return
        pipeline = self._pipeline or self.pipeline(scope)
        exchange = self._begin(pipeline, scope)
        connection = Connection(self._policy or self._make_policy(pipeline), exchange, scope, receive, send)
        if not pipeline.admit(exchange):
            await connection.refuse()
            return
        token = enter(exchange)
        try:
            await self.app(scope, connection.receive, connection.send)
        except BaseException as error:
            connection.note_failure(error)
            raise
        finally:
            leave(token)
            if not exchange.is_closed:
                await connection.finish()

    def pipeline(self, scope: Scope) -> Pipeline:
        """Return the pipeline, made with the first connection because only that knows the app's title."""
        if self._pipeline is None:
            service = self._settings.service or _title(scope) or os.path.basename(os.getcwd()) or "unknown"
            self._pipeline = shared_pipeline(self._settings, service)
        return self._pipeline

    def _make_policy(self, pipeline: Pipeline) -> Policy:
        settings = self._settings
        header = settings.request_id_header.lower().encode()
        self._policy = Policy(pipeline, header, settings.query_parameters, self._identify)
        return self._policy

    def _begin(self, pipeline: Pipeline, scope: Scope) -> Exchange:
        is_websocket = scope["type"] == "websocket"
        exchange = Exchange(
            pipeline.service,
            pipeline.recorder.new_request_id(),
            "GET" if is_websocket else scope["method"],
            scope["path"],
            time.perf_counter_ns(),
        )
        if is_websocket:
            exchange.is_websocket = exchange.is_unsafe = True
        scope[_MARK] = exchange
        # one pass over the raw list; a header that comes several times is joined by commas (RFC 9110, section 5.3)
        seen: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            if name in _SEEN:
                seen[name] = seen[name] + b", " + value if name in seen else value
        get = seen.get
        exchange.user_agent = get(b"user-agent")
        exchange.client_request_id = get(b"x-request-id")
        exchange.auth = get(b"authorization") or (b"api-key" if b"x-api-key" in seen else None)
        exchange.trace = trace_ids(get(b"traceparent"))
        peer, port = _client(scope.get("client"))
        exchange.source_port = port or None
        exchange.source = self._addresses.source(
            peer, port, forwarded_for=get(b"x-forwarded-for"), forwarded=get(b"forwarded")
        )
        return exchange

    def _drain_at_shutdown(self, scope: Scope, send: Send) -> Send:
        """Several servers never run ``atexit`` in a worker; the end of the lifespan is where they let us drain."""

        async def observed(message: Message) -> None:
            if message["type"] == "lifespan.shutdown.complete":
                await asyncio.to_thread(self.pipeline(scope).close)
            await send(message)

        return observed


def _client(client: Any) -> tuple[str | None, int | None]:  # noqa: ANN401 - servers disagree about its type
    """Servers give a tuple, a list or nothing, and the port as a number or a string."""
    if not client:
        return None, None
    try:
        host, port = client
        if type(port) is int and type(host) is str:
            return host or None, port
        return (str(host) or None), int(port)
    except (TypeError, ValueError):
        return None, None


def _title(scope: Scope) -> str | None:
    title = getattr(scope.get("app"), "title", None)
    return title if isinstance(title, str) and title != "FastAPI" else None
