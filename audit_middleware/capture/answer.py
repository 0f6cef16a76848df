"""One WSGI response while it is made and sent: what passes is counted, and closes the exchange at the right moment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from types import TracebackType
from typing import Any, Final

from audit_middleware.capture import refusal
from audit_middleware.capture.exchange import WITHOUT_BODY, Exchange, enter, leave
from audit_middleware.capture.identify import identified
from audit_middleware.capture.observer import Observer
from audit_middleware.capture.routing import wsgi_route
from audit_middleware.errors import JournalError
from audit_middleware.pipeline import Pipeline

Environ = dict[str, Any]  # a builtin dictionary, says PEP 3333
Headers = list[tuple[str, str]]
ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]
Write = Callable[[bytes], object]
StartResponse = Callable[..., Write]

_FILE_WRAPPER: Final = "wsgi.file_wrapper"


class Answer:
    """The response to one request. Belongs to the thread that the server answers from."""

    __slots__ = ("_environ", "_exchange", "_file", "_is_started", "_left", "_observer", "_pipeline", "_start")

    def __init__(
        self,
        observer: Observer,
        pipeline: Pipeline,
        exchange: Exchange,
        environ: Environ,
        start_response: StartResponse,
    ) -> None:
        self._observer = observer
        self._pipeline = pipeline
        self._exchange = exchange
        self._environ = environ
        self._start = start_response
        self._is_started = False
        self._left: int | None = None
        """Bytes until the client has a complete response; None when only its end says so."""
        self._file: object = None
        if _FILE_WRAPPER in environ:
            environ[_FILE_WRAPPER] = partial(self._wrap_file, environ[_FILE_WRAPPER])

    def start_response(self, status: str, headers: Headers, exc_info: ExcInfo | None = None) -> Write:
        """Begin the response, or begin it anew after an error (PEP 3333: only while no header was sent)."""
        exchange, name = self._exchange, self._observer.request_id_header
        if name:
            headers = [pair for pair in headers if pair[0].lower() != name.lower()]
            headers.append((name, exchange.request_id))
        write = self._start(status, headers, exc_info) if exc_info is not None else self._start(status, headers)
        self._is_started = True
        self._note_route()  # Flask's request is gone from the environ once the app has returned
        exchange.status = int(status[:3]) if status[:3].isdecimal() else None
        self._left = self._expected(headers)
        return partial(self._write, write)

    def of(self, result: Iterable[bytes]) -> Iterable[bytes]:
        """Take what the application returned, and return what the server gets."""
        if type(result) is list or type(result) is tuple:  # nothing can happen any more, and its length is told to some
            for chunk in result:
                self._exchange.response_bytes += len(chunk)
            return result if self._finish_unless_closed() else self._withhold(result)
        if self._file is not None and result is self._file:  # the server sends it by itself, as sendfile(2) perhaps
            self._exchange.response_bytes += self._left or 0
            return result if self._finish_unless_closed() else self._withhold(result)
        return Body(self, self._exchange, result)

    def refuse(self) -> Iterable[bytes]:
        """The journal cannot take the record and policy is deny: the application does not run."""
        return self._refusal(refusal.NOT_CARRIED_OUT)

    def fail(self, error: BaseException) -> None:
        """The application raised; whatever the server makes of it is a failure."""
        exchange = self._exchange
        if exchange.is_closed:
            return
        if not isinstance(error, GeneratorExit):
            exchange.failed(error)
            if exchange.status is None or not self._is_started:
                exchange.status = 500  # what every server answers for an exception before the response began
        self.finish()

    def count(self, chunk: bytes) -> None:
        """Count a chunk before it is handed on; the one that completes the response waits for its record."""
        self._exchange.response_bytes += len(chunk)
        if self._left is not None:
            self._left -= len(chunk)
            if self._left <= 0:
                self.complete()

    def complete(self) -> None:
        """Close the exchange; raise `JournalError` when policy wants the rest of the answer withheld."""
        if not self._finish_unless_closed():
            raise JournalError(refusal.NOT_ON_RECORD)

    def leave(self) -> None:
        """The server closes the response: a client that has not got all of it has gone."""
        if not self._exchange.is_closed:
            if self._exchange.method != "HEAD" and self._exchange.status not in WITHOUT_BODY:
                self._exchange.ended = "disconnected"
            self.finish()

    def finish(self) -> bool:
        """Append the record; say whether the answer may be completed."""
        exchange, environ, observer, pipeline = self._exchange, self._environ, self._observer, self._pipeline
        exchange.is_closed = True
        self._note_route()
        if observer.query_parameters:
            query = environ.get("QUERY_STRING", "").encode("latin-1", "replace")
            exchange.take_query(query, observer.query_parameters)
        if observer.identify is not None and exchange.principal is None:
            exchange.principal = identified(observer.identify, environ)
        return pipeline.conclude(exchange)

    def _note_route(self) -> None:
        if self._exchange.route is not None:
            return
        try:
            self._exchange.route, self._exchange.path_params = wsgi_route(self._environ)
        except Exception as error:  # noqa: BLE001 - a framework's or application's own objects may raise anything
            self._pipeline.contain("the route of a request", error)

    def _finish_unless_closed(self) -> bool:
        return self._exchange.is_closed or self.finish()

    def _write(self, write: Write, data: bytes) -> None:
        self.count(data)
        write(data)

    def _expected(self, headers: Headers) -> int | None:
        """Say how many bytes of body complete this response, if that is known before they come."""
        exchange = self._exchange
        if exchange.method == "HEAD" or exchange.status in WITHOUT_BODY:
            return 0
        for name, value in headers:
            if name.lower() == "content-length" and value.isdecimal():
                return int(value)
        return None

    def _wrap_file(self, wrapper: Callable[..., object], *arguments: object) -> object:
        self._file = wrapper(*arguments)
        return self._file

    def _withhold(self, result: object) -> Iterable[bytes]:
        """No byte was sent yet: the client gets to know why it gets no answer."""
        close = getattr(result, "close", None)
        if close is not None:
            close()
        return self._refusal(refusal.NOT_ON_RECORD)

    def _refusal(self, detail: str) -> Iterable[bytes]:
        body = refusal.body(detail)
        exc_info = (JournalError, JournalError(detail), None) if self._is_started else None
        self._start(f"{refusal.STATUS} {refusal.PHRASE}", refusal.headers(body), *((exc_info,) if exc_info else ()))
        return [body]


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
