"""One ASGI connection while it runs: translates its messages into what an exchange knows."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Final

from audit_middleware.capture import refusal
from audit_middleware.capture.body import is_asked
from audit_middleware.capture.exchange import WITHOUT_BODY, Exchange
from audit_middleware.capture.held import HeldScope
from audit_middleware.capture.identify import FAILED, identified_async
from audit_middleware.capture.observer import Observer
from audit_middleware.capture.routing import joined, joined_params, route_template, view_in
from audit_middleware.capture.rules import note_view
from audit_middleware.pipeline import Pipeline

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_NOT_APPENDED: Final = -2
_CLIENT_LEFT: Final = "ClientDisconnect"  # what Starlette raises for a body that will not come any more
_STARTS: Final = frozenset({"http.response.start", "websocket.http.response.start"})


class Connection:
    """One connection while it runs: counts what passes, and closes the exchange at the right moment."""

    __slots__ = (
        "_application",
        "_awaits_trailers",
        "_exchange",
        "_initial_root",
        "_is_withheld",
        "_length",
        "_observer",
        "_pipeline",
        "_receive",
        "_scope",
        "_send",
        "_seq",
    )

    def __init__(
        self,
        observer: Observer,
        pipeline: Pipeline,
        exchange: Exchange,
        application: object,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        self._observer = observer
        self._pipeline = pipeline
        self._exchange = exchange
        self._application = application
        self._scope = scope
        self._receive = receive
        self._send = send
        self._initial_root: str = scope.get("root_path", "")
        self._awaits_trailers = False
        self._is_withheld = False
        self._length = b""
        self._seq: int | None = _NOT_APPENDED
        exchange.ask_user = self._user

    def _user(self) -> object:
        return self._scope.get("user")

    def hold(self) -> Scope:
        """Return the scope for an application that runs without a record, because a view of it allows that."""
        self._scope = HeldScope(self._scope, self._exchange)
        return self._scope

    async def receive(self) -> Message:
        """Pass on what the server says."""
        message = await self._receive()
        kind = message["type"]
        exchange = self._exchange
        if kind == "http.request":
            chunk = message.get("body", b"")
            exchange.request_bytes += len(chunk)
            if chunk and is_asked():
                exchange.keep_body(chunk)
        elif kind == "websocket.receive":
            exchange.request_bytes += _websocket_bytes(message)
        elif kind == "http.disconnect":
            exchange.ended = "disconnected"
        elif kind == "websocket.disconnect":
            exchange.close_code = message.get("code", 1005)  # RFC 6455, section 7.1.5
            if not exchange.is_closed:
                await self.finish()
        return message

    async def send(self, message: Message) -> None:
        """Pass on what the application answers; the last message once the record is where policy wants it."""
        kind = message["type"]
        exchange = self._exchange
        if exchange.is_refused:  # whatever the application says to that, the client gets the refusal
            return
        if kind == "http.response.body":
            exchange.response_bytes += len(message.get("body", b""))
            is_last = not message.get("more_body", False) or self._is_reached()
            if self._awaits_trailers:
                is_last = False
        elif kind in _STARTS:
            is_last = self._start(message)  # a client that expects no body is done with the headers
        else:
            is_last = self._other(kind, message)
        if is_last and not exchange.is_closed and not (self._append() or await self._wait()):
            self._is_withheld = True
        if self._is_withheld:
            return
        try:
            await self._send(message)
        except OSError:
            exchange.ended = "disconnected"
            raise

    def _start(self, message: Message) -> bool:
        """Note how the response begins; say whether it is complete with its headers."""
        exchange = self._exchange
        status = exchange.status = message["status"]
        if "trailers" in message:
            self._awaits_trailers = message["trailers"]
        name = self._observer.header_name
        headers = list(message.get("headers", ()))
        length = own = None
        for pair in headers:
            key = pair[0].lower()
            if key == b"content-length":
                length = self._length = pair[1]
            elif key == name:
                own = pair
        if name:
            if own is not None:  # the application's own: two of them would leave clients guessing
                headers.remove(own)
            headers.append((name, exchange.request_id.encode()))
        message["headers"] = headers
        return length == b"0" or status in WITHOUT_BODY or exchange.method == "HEAD"

    def _is_reached(self) -> bool:
        """Whether the client has all the bytes that ``Content-Length`` told it to expect."""
        return self._length.isdigit() and self._exchange.response_bytes >= int(self._length)

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

    def note_failure(self, error: BaseException) -> None:
        """Note that the application raised, unless the client had left before."""
        exchange = self._exchange
        if exchange.is_closed:
            return
        is_theirs = isinstance(error, OSError | asyncio.CancelledError) or type(error).__name__ == _CLIENT_LEFT
        if exchange.ended == "disconnected" and is_theirs:
            return
        exchange.failed(error)
        if exchange.status is None and not _is_answered_outside(self._scope):
            exchange.status = 500  # what every server answers for an exception before the response began

    async def finish(self) -> bool:
        """Close the exchange and append its record; say whether the answer may be completed."""
        return self._append() or await self._wait()

    def _append(self) -> bool:
        """Append the record, unless something has to be awaited for it; say whether nothing more has to be done."""
        exchange, scope, observer = self._exchange, self._scope, self._observer
        exchange.is_closed = True
        try:
            if "user" in scope:
                exchange.user = scope["user"]
            params = scope.get("path_params")
            exchange.path_params = params if exchange.below is None else joined_params(params, exchange.path_params)
            if exchange.route is None:
                mount = route_template(scope, self._initial_root, self._application)
                exchange.route = mount if exchange.below is None else joined(mount, exchange.below)
            view = exchange.view or view_in(scope)
            if view is not None or exchange.exemption is not None:
                note_view(exchange, view)
            names = observer.query_parameters + exchange.query_parameters
            if names:
                exchange.take_query(scope.get("query_string", b""), names)
            if exchange.body_fields:
                length = _header(scope, b"content-length")
                exchange.take_body(_header(scope, b"content-type"), is_expected=length not in {"", "0"})
        except Exception as error:  # noqa: BLE001 - an application's own path parameters may raise anything
            self._pipeline.contain("the route of a request", error)
        if observer.identify is not None and exchange.principal is None:
            return False
        self._seq = self._pipeline.complete(exchange)
        return self._seq is not None and not self._pipeline.is_waiting

    async def _wait(self) -> bool:
        """Ask who it was, append if that was missing, wait for what policy wants; say whether to go on."""
        identify, exchange, pipeline = self._observer.identify, self._exchange, self._pipeline
        if self._seq == _NOT_APPENDED and identify is not None:
            try:
                exchange.principal = await identified_async(identify, self._scope, self._observer.patience)
            except BaseException:  # the client has gone, and the server gives up: on record all the same
                exchange.principal = FAILED
                raise
            finally:
                self._seq = pipeline.complete(exchange)
        if self._seq is None:
            return False
        return await pipeline.released(self._seq, exchange)

    async def refuse(self) -> None:
        """The journal cannot take the record and policy is deny: the application does not run."""
        if self._exchange.is_websocket:
            await self._send({"type": "websocket.close", "code": 1013, "reason": "audit trail unavailable"})
            return
        body = refusal.body(refusal.NOT_CARRIED_OUT)
        headers = [(name.encode(), value.encode()) for name, value in refusal.headers(body)]
        await self._send({"type": "http.response.start", "status": refusal.STATUS, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})


def _is_answered_outside(scope: Scope) -> bool:
    """Whether a Starlette app has a handler for everything: it runs around all middleware and answers as it likes."""
    handlers = getattr(scope.get("app"), "exception_handlers", None)
    return isinstance(handlers, Mapping) and not handlers.keys().isdisjoint((500, Exception))


def _header(scope: Scope, wanted: bytes) -> str:
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == wanted), "")


def _websocket_bytes(message: Message) -> int:
    data = message.get("bytes")
    return len(data) if data is not None else len((message.get("text") or "").encode("utf-8", "replace"))
