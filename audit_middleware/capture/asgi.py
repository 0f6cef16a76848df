"""The ASGI adapter: translates HTTP and websocket connections into exchanges, and nothing else.

The record of a response is in the journal before the last body message is forwarded: whoever received a complete
answer is on record, whatever happens to this process next.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Final

from audit_middleware import config
from audit_middleware.capture.client_address import AddressResolver
from audit_middleware.capture.exchange import Exchange, enter, leave
from audit_middleware.capture.identify import Identify, identified
from audit_middleware.capture.redaction import allowed_parameters
from audit_middleware.capture.routing import path_parameters, route_template
from audit_middleware.capture.trace_ids import trace_ids
from audit_middleware.pipeline import Pipeline, shared_pipeline

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

RETRY_AFTER_S: Final = 5
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
        self._pipeline = pipeline
        self._settings = pipeline.settings if pipeline is not None else config.load(**settings)
        if pipeline is None:
            config.check(self._settings)
        self._addresses = AddressResolver(self._settings.trusted_proxies)
        self._request_id_header = self._settings.request_id_header.lower().encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Observe one connection."""
        kind = scope["type"]
        if kind == "lifespan":
            await self.app(scope, receive, self._drain_at_shutdown(scope, send))
        elif kind not in {"http", "websocket"} or _MARK in scope:
            await self.app(scope, receive, send)  # an outer AuditMiddleware observes this one
        else:
            connection = _Connection(self, scope, self._begin(scope), send)
            await connection.run(receive)

    def pipeline(self, scope: Scope) -> Pipeline:
        """Return the pipeline, made with the first connection because only that knows the app's title."""
        if self._pipeline is None:
            service = self._settings.service or _title(scope) or os.path.basename(os.getcwd()) or "unknown"
            self._pipeline = shared_pipeline(self._settings, service)
        return self._pipeline

    def _begin(self, scope: Scope) -> Exchange:
        pipeline = self.pipeline(scope)
        is_websocket = scope["type"] == "websocket"
        exchange = Exchange(
            pipeline.service,
            pipeline.recorder.new_request_id(),
            "GET" if is_websocket else scope["method"],
            scope["path"],
            time.perf_counter_ns(),
        )
        exchange.is_websocket = is_websocket
        scope[_MARK] = exchange
        self._read_headers(exchange, scope)
        return exchange

    def _read_headers(self, exchange: Exchange, scope: Scope) -> None:
        """One pass over the raw list; a header that comes several times is joined by commas (RFC 9110, 5.3)."""
        seen: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            if name in _SEEN:
                seen[name] = seen[name] + b", " + value if name in seen else value
        get = seen.get
        exchange.user_agent = get(b"user-agent")
        exchange.client_request_id = get(b"x-request-id")
        exchange.auth = get(b"authorization") or (b"api-key" if b"x-api-key" in seen else None)
        exchange.trace = trace_ids(get(b"traceparent"))
        peer, port = _client(scope)
        exchange.source_port = port or None
        exchange.source = self._addresses.source(
            peer, port, forwarded_for=get(b"x-forwarded-for"), forwarded=get(b"forwarded")
        )

    def _drain_at_shutdown(self, scope: Scope, send: Send) -> Send:
        """Several servers never run ``atexit`` in a worker; the end of the lifespan is where they let us drain."""

        async def observed(message: Message) -> None:
            if message["type"] == "lifespan.shutdown.complete":
                await asyncio.to_thread(self.pipeline(scope).close)
            await send(message)

        return observed


class _Connection:
    """One connection while it runs: counts what passes, and closes the exchange at the right moment."""

    __slots__ = ("_awaits_trailers", "_exchange", "_initial_root", "_middleware", "_receive", "_scope", "_send")

    def __init__(self, middleware: AuditMiddleware, scope: Scope, exchange: Exchange, send: Send) -> None:
        self._middleware = middleware
        self._scope = scope
        self._exchange = exchange
        self._send = send
        self._initial_root: str = scope.get("root_path", "")
        self._awaits_trailers = False

    async def run(self, receive: Receive) -> None:
        self._receive = receive
        exchange = self._exchange
        if not self._pipeline.admit(exchange):
            await self._refuse()
            return
        token = enter(exchange)
        try:
            await self._middleware.app(self._scope, self._observe_receive, self._observe_send)
        except BaseException as error:
            self._note_failure(error)
            raise
        finally:
            leave(token)
            if not exchange.is_closed:
                await self._finish()

    @property
    def _pipeline(self) -> Pipeline:
        return self._middleware.pipeline(self._scope)

    async def _observe_receive(self) -> Message:
        message = await self._receive()
        kind = message["type"]
        exchange = self._exchange
        if kind == "http.request":
            exchange.request_bytes += len(message.get("body", b""))
        elif kind == "websocket.receive":
            exchange.request_bytes += _websocket_bytes(message)
        elif kind == "http.disconnect":
            exchange.ended = "disconnected"
        elif kind == "websocket.disconnect":
            exchange.close_code = message.get("code", 1005)  # RFC 6455, section 7.1.5
            if not exchange.is_closed:
                await self._finish()
        return message

    async def _observe_send(self, message: Message) -> None:
        kind = message["type"]
        exchange = self._exchange
        is_last = False
        if kind == "http.response.body":
            exchange.response_bytes += len(message.get("body", b""))
            is_last = not (message.get("more_body", False) or self._awaits_trailers)
        elif kind in {"http.response.start", "websocket.http.response.start"}:
            message = self._start(message)
        else:
            is_last = self._other(kind, message)
        if is_last and not exchange.is_closed and not await self._finish():
            return
        try:
            await self._send(message)
        except OSError:
            exchange.ended = "disconnected"
            raise

    def _start(self, message: Message) -> Message:
        self._exchange.status = message["status"]
        self._awaits_trailers = message.get("trailers", False)
        name = self._middleware._request_id_header  # noqa: SLF001 - one class in two halves
        if not name:
            return message
        headers = [pair for pair in message.get("headers", ()) if pair[0].lower() != name]
        headers.append((name, self._exchange.request_id.encode()))
        return {**message, "headers": headers}

    def _other(self, kind: str, message: Message) -> bool:
        """Note what the rarer messages say; return whether this one ends the connection."""
        exchange = self._exchange
        if kind == "websocket.send":
            exchange.response_bytes += _websocket_bytes(message)
            return False
        if kind == "websocket.accept":
            exchange.status = 101
            return False
        if kind == "websocket.close":
            exchange.close_code = message.get("code", 1000)
            exchange.status = exchange.status or 403  # ASGI: closing before accepting is a 403
            return True
        if kind == "websocket.http.response.body":
            return not message.get("more_body", False)
        if kind == "http.response.trailers":
            return not message.get("more_trailers", False)
        return kind == "http.response.pathsend"

    def _note_failure(self, error: BaseException) -> None:
        exchange = self._exchange
        if exchange.is_closed:
            return
        if exchange.ended == "disconnected" and isinstance(error, OSError | asyncio.CancelledError):
            return
        exchange.ended = "exception"
        if exchange.status is None:
            exchange.status = 500  # what every server answers for an exception before the response began
        if exchange.reason is None:
            exchange.reason = type(error).__name__

    async def _finish(self) -> bool:
        """Close the exchange and append its record; say whether the answer may be completed."""
        exchange, scope = self._exchange, self._scope
        exchange.is_closed = True
        exchange.user = scope.get("user")
        exchange.route = route_template(scope, self._initial_root)
        exchange.path_params = path_parameters(scope)
        names = self._pipeline.settings.query_parameters
        if names:
            exchange.query = allowed_parameters(scope.get("query_string", b""), names)
        identify = self._middleware._identify  # noqa: SLF001 - one class in two halves
        if identify is not None and exchange.principal is None:
            exchange.principal = await identified(identify, scope)
        seq = self._pipeline.complete(exchange)
        if seq is None:
            return False
        watermark = self._pipeline.recorder.watermark
        if watermark is None or seq < 0:
            return True
        return await self._pipeline.released(watermark, seq, exchange)

    async def _refuse(self) -> None:
        """The journal cannot take the record and policy is deny: the application does not run."""
        if self._exchange.is_websocket:
            await self._send({"type": "websocket.close", "code": 1013, "reason": "audit trail unavailable"})
            return
        body = json.dumps(
            {
                "type": "about:blank",
                "title": "Service Unavailable",
                "status": 503,
                "detail": "This request was not carried out because it could not be put on record.",
            }
        ).encode()
        headers: Iterable[tuple[bytes, bytes]] = [
            (b"content-type", b"application/problem+json"),
            (b"content-length", b"%d" % len(body)),
            (b"retry-after", b"%d" % RETRY_AFTER_S),
        ]
        await self._send({"type": "http.response.start", "status": 503, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})


def _client(scope: Scope) -> tuple[str | None, int | None]:
    """Servers give a tuple, a list or nothing, and the port as a number or a string."""
    client = scope.get("client")
    if not client:
        return None, None
    try:
        host, port = client
        return (str(host) or None), int(port)
    except (TypeError, ValueError):
        return None, None


def _title(scope: Scope) -> str | None:
    title = getattr(scope.get("app"), "title", None)
    return title if isinstance(title, str) and title != "FastAPI" else None


def _websocket_bytes(message: Message) -> int:
    data = message.get("bytes")
    return len(data) if data is not None else len((message.get("text") or "").encode("utf-8", "replace"))
