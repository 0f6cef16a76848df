"""The ASGI adapter: translates HTTP and websocket connections into exchanges, and nothing else.

The record of a response is in the journal before the last body message is forwarded: whoever received a complete
answer is on record, whatever happens to this process next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from audit_middleware.capture.connection import Connection, Message, Receive, Scope, Send
from audit_middleware.capture.current import enter, leave
from audit_middleware.capture.entry_points import application_of, declaration_of, title_of, view_of
from audit_middleware.capture.exchange import Exchange
from audit_middleware.capture.identify import Identify
from audit_middleware.capture.observer import HEADERS, MARK, MAX_PORT, Observer
from audit_middleware.pipeline import Pipeline

ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

_OBSERVED: Final = frozenset({"http", "websocket"})


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
        self._observer = Observer(pipeline, identify, settings)
        self._pipeline: Pipeline | None = None
        self._application: Any = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Observe one connection."""
        kind = scope["type"]
        if kind == "lifespan":
            await self.app(scope, receive, self._follow_lifespan(scope, send))
            return
        if kind not in _OBSERVED or MARK in scope:  # the mark: an outer AuditMiddleware observes this one
            await self.app(scope, receive, send)
            return
        observer = self._observer
        pipeline = self._pipeline or self.pipeline(scope)
        exchange = _begin(observer, pipeline, scope)
        connection = Connection(observer, pipeline, exchange, self._application, scope, receive, send)
        if not observer.admits(pipeline, exchange, lambda: view_of(self._application, scope)):
            await connection.refuse()
            return
        if exchange.is_attempt_lost and exchange.on_failure == "allow":
            scope = connection.hold()
        token = enter(exchange)
        try:
            await self.app(scope, connection.receive, connection.send)
        except BaseException as error:
            connection.note_failure(error)
            if not (exchange.is_refused and isinstance(error, Exception)):
                raise
        finally:
            leave(token)
            if exchange.is_refused:
                exchange.note_refusal()
            if not exchange.is_closed:
                await connection.finish()
        if exchange.is_refused:
            await connection.refuse()

    def pipeline(self, scope: Scope) -> Pipeline:
        """Return the pipeline, made with the first connection because only that knows the app, and its title."""
        if self._pipeline is None:
            pipeline = self._observer.pipeline_of(lambda: title_of(scope.get("app")) or title_of(self.app))
            try:
                self._application = application_of(self.app, scope)
                declaration = declaration_of(self._application)
            except Exception as error:  # noqa: BLE001 - an application's own attributes may raise anything
                pipeline.contain("an inventory", error)
            else:
                if declaration is not None:
                    self._observer.declare(declaration)
            self._pipeline = pipeline
        return self._pipeline

    def _follow_lifespan(self, scope: Scope, send: Send) -> Send:
        """Say what can be called when a worker has started, and drain when it ends.

        Several servers never run ``atexit`` in a worker; the end of the lifespan is where they let us drain.
        """
        is_outermost = MARK not in scope  # an outer AuditMiddleware observes the requests, and declares
        scope[MARK] = None

        async def observed(message: Message) -> None:
            if is_outermost and message["type"] == "lifespan.startup.complete":
                self.pipeline(scope).announce()
            pipeline = self._observer.pipeline
            if pipeline is not None and message["type"] == "lifespan.shutdown.complete":
                await asyncio.to_thread(pipeline.close)
            await send(message)

        return observed


def _begin(observer: Observer, pipeline: Pipeline, scope: Scope) -> Exchange:
    is_websocket = scope["type"] == "websocket"
    # one pass over the raw list; a header that comes several times is joined by commas (RFC 9110, section 5.3)
    seen: dict[str, bytes] = {}
    for name, value in scope["headers"]:
        if name in HEADERS:
            known = HEADERS[name]
            seen[known] = seen[known] + b", " + value if known in seen else value
    method = "GET" if is_websocket else scope["method"]
    exchange = observer.begin(pipeline, method, scope["path"], seen, _client(scope.get("client")))
    if is_websocket:
        exchange.is_websocket = exchange.is_unsafe = True
    else:
        exchange.scope = scope
    scope[MARK] = exchange
    return exchange


def _client(client: Any) -> tuple[str | None, int | None]:  # noqa: ANN401 - servers disagree about its type
    """Servers give a tuple, a list or nothing, and the port as a number or a string."""
    if not client:
        return None, None
    try:
        host, port = client
        if type(port) is not int:
            port = int(port)
        return (str(host) or None), port if 0 <= port <= MAX_PORT else None
    except (TypeError, ValueError):
        return None, None
