"""One response while it is sent: what passes is counted, and closes the exchange at the right moment.

What WSGI and Django have in common: status and headers first, then the body, all at hand or chunk by chunk.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import Any

from audit_middleware.capture import refusal
from audit_middleware.capture.current import enter, leave
from audit_middleware.capture.exchange import WITHOUT_BODY, Exchange
from audit_middleware.capture.identify import identified, identified_async
from audit_middleware.capture.observer import Observer
from audit_middleware.capture.routing import wsgi_route, wsgi_view
from audit_middleware.capture.rules import note_view
from audit_middleware.errors import JournalError
from audit_middleware.pipeline import Pipeline

Environ = dict[str, Any]  # a builtin dictionary, says PEP 3333


class Answer:
    """The response to one request; one thread or task at a time.

    ``environ`` is the CGI environment with the route in it; ``subject`` is what ``identify`` gets.
    """

    __slots__ = ("_environ", "_exchange", "_is_begun", "_left", "_observer", "_pipeline", "_subject")

    def __init__(
        self,
        observer: Observer,
        pipeline: Pipeline,
        exchange: Exchange,
        environ: Environ,
        subject: Any,  # noqa: ANN401 - what the protocol calls a request
    ) -> None:
        self._observer = observer
        self._pipeline = pipeline
        self._exchange = exchange
        self._environ = environ
        self._subject = subject
        self._is_begun = False
        self._left: int | None = None
        """Bytes until the client has a complete response; None when only its end says so."""

    @property
    def is_closed(self) -> bool:
        """Whether the record was made."""
        return self._exchange.is_closed

    @property
    def left(self) -> int | None:
        """Bytes until the client has a complete response; None when only its end says so."""
        return self._left

    def begin(self, status: int | None, headers: Iterable[tuple[str, str]]) -> None:
        """Note how the response begins; a later call replaces what an earlier one said."""
        exchange = self._exchange
        exchange.status = status
        self._is_begun = True
        self._left = None
        if exchange.method == "HEAD" or status in WITHOUT_BODY:
            self._left = 0
            return
        for name, value in headers:
            if name.lower() == "content-length" and value.isascii() and value.isdecimal():
                self._left = int(value)

    def fail(self, error: BaseException) -> None:
        """The application raised; whatever the server makes of it is a failure."""
        if self._note_failure(error):
            self.finish()

    async def fail_async(self, error: BaseException) -> None:
        """Do the same without blocking the event loop."""
        if self._note_failure(error):
            await self.finish_async()

    def count(self, chunk: bytes) -> None:
        """Count a chunk before it is handed on; the one that completes the response waits for its record."""
        if self._is_completed_by(chunk):
            self.complete()

    async def count_async(self, chunk: bytes) -> None:
        """Do the same without blocking the event loop."""
        if self._is_completed_by(chunk):
            await self.complete_async()

    def complete(self) -> None:
        """Close the exchange; raise `JournalError` when policy wants the rest of the answer withheld."""
        if not self.is_closed and not self.finish():
            raise JournalError(refusal.NOT_ON_RECORD)

    async def complete_async(self) -> None:
        """Do the same without blocking the event loop."""
        if not self.is_closed and not await self.finish_async():
            raise JournalError(refusal.NOT_ON_RECORD)

    def leave(self) -> None:
        """The server closes the response: a client that has not got all of it has gone."""
        if not self.is_closed:
            if self._left != 0:
                self._exchange.ended = "disconnected"
            self.finish()

    def finish(self) -> bool:
        """Append the record; say whether the answer may be completed."""
        self._describe()
        identify, exchange = self._observer.identify, self._exchange
        if identify is not None and exchange.principal is None:
            exchange.principal = identified(identify, self._subject, self._observer.patience)
        return self._pipeline.conclude(exchange)

    async def finish_async(self) -> bool:
        """Do the same without blocking the event loop."""
        self._describe()
        identify, exchange, pipeline = self._observer.identify, self._exchange, self._pipeline
        if identify is not None and exchange.principal is None:
            exchange.principal = await identified_async(identify, self._subject, self._observer.patience)
        seq = pipeline.complete(exchange)
        return seq is not None and await pipeline.released(seq, exchange)

    def _describe(self) -> None:
        try:
            self._note_all()
        except Exception as error:  # noqa: BLE001 - an application's own parameters, or what it said, may raise anything
            self._pipeline.contain("what was said of a request", error)

    def _note_all(self) -> None:
        exchange, observer = self._exchange, self._observer
        exchange.is_closed = True
        self._note_route()
        view = wsgi_view(self._environ)
        if view is not None or exchange.exemption is not None:
            note_view(exchange, view)
        names = observer.query_parameters + exchange.query_parameters
        if names:
            query = self._environ.get("QUERY_STRING", "").encode("latin-1", "replace")
            exchange.take_query(query, names)
        if exchange.body_fields:
            content_type = self._environ.get("CONTENT_TYPE") or ""
            exchange.take_body(content_type, is_expected=exchange.request_bytes > 0)

    def _note_route(self) -> None:
        if self._exchange.route is not None:
            return
        try:
            self._exchange.route, self._exchange.path_params = wsgi_route(self._environ)
        except Exception as error:  # noqa: BLE001 - a framework's or application's own objects may raise anything
            self._pipeline.contain("the route of a request", error)

    def _note_failure(self, error: BaseException) -> bool:
        """Note what the application raised; say whether that has to be put on record."""
        exchange = self._exchange
        if exchange.is_closed:
            return False
        if not isinstance(error, GeneratorExit):
            exchange.failed(error)
            if not self._is_begun or not (exchange.response_bytes or "wsgi.input" not in self._environ):
                exchange.status = 500  # what every server answers while nothing was sent: of WSGI no header either
        return True

    def _is_completed_by(self, chunk: bytes) -> bool:
        self._exchange.response_bytes += len(chunk)
        if self._left is None:
            return False
        self._left = max(0, self._left - len(chunk))
        return self._left == 0


class Body:
    """The iterable of a response that is not all at hand, handed on chunk by chunk."""

    __slots__ = ("_answer", "_exchange", "_iterator", "_result")

    def __init__(self, answer: Answer, exchange: Exchange, result: Iterable[bytes]) -> None:
        self._answer = answer
        self._exchange = exchange
        self._result = result
        self._iterator: Iterator[bytes] | None = None

    def __iter__(self) -> Body:
        """Return itself; a response is sent once."""
        return self

    def __next__(self) -> bytes:
        """Return the next chunk; the application's generator runs with its exchange current."""
        token = enter(self._exchange)
        try:
            if self._iterator is None:
                self._iterator = iter(self._result)
            chunk = next(self._iterator)
        except StopIteration:
            self._answer.complete()
            raise
        except BaseException as error:
            self._answer.fail(error)
            raise
        finally:
            leave(token)
        self._answer.count(chunk)
        return chunk

    def close(self) -> None:
        """Close the application's iterable, as every server does at the end (PEP 3333), then the exchange."""
        token = enter(self._exchange)
        try:
            close = getattr(self._result, "close", None)
            if close is not None:
                close()
        except BaseException as error:
            self._answer.fail(error)
            raise
        finally:
            leave(token)
            self._answer.leave()


class AsyncBody:
    """The same for an asynchronous iterable."""

    __slots__ = ("_answer", "_exchange", "_iterator", "_result")

    def __init__(self, answer: Answer, exchange: Exchange, result: AsyncIterable[bytes]) -> None:
        self._answer = answer
        self._exchange = exchange
        self._result = result
        self._iterator: AsyncIterator[bytes] | None = None

    def __aiter__(self) -> AsyncBody:
        """Return itself; a response is sent once."""
        return self

    async def __anext__(self) -> bytes:
        """Return the next chunk; the application's generator runs with its exchange current."""
        token = enter(self._exchange)
        try:
            if self._iterator is None:
                self._iterator = aiter(self._result)
            chunk = await anext(self._iterator)
        except StopAsyncIteration:
            await self._answer.complete_async()
            raise
        except Exception as error:
            await self._answer.fail_async(error)
            raise
        finally:
            leave(token)
        await self._answer.count_async(chunk)
        return chunk

    async def aclose(self) -> None:
        """Close the application's generator."""
        close = getattr(self._iterator or self._result, "aclose", None)
        if close is not None:
            await close()

    def close(self) -> None:
        """Close the exchange: a client that has not got all of it has gone."""
        self._answer.leave()
