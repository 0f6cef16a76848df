"""The WSGI adapter (PEP 3333): translates requests into exchanges, and nothing else.

The record of a response is in the journal before its last byte is handed to the server: when a declared
``Content-Length`` is reached, when the iterable is exhausted, or at once when the whole body is at hand.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import partial
from types import TracebackType
from typing import Any, Final

from audit_middleware.capture import refusal
from audit_middleware.capture.answer import Answer, Body, Environ
from audit_middleware.capture.body import Tee, is_asked
from audit_middleware.capture.current import enter, leave
from audit_middleware.capture.declared import Declaration
from audit_middleware.capture.entry_points import Known, known_of
from audit_middleware.capture.exchange import Exchange
from audit_middleware.capture.identify import identified
from audit_middleware.capture.observer import MARK, Observer, around, begin_cgi, tell
from audit_middleware.errors import JournalError
from audit_middleware.pipeline import Pipeline

Headers = list[tuple[str, str]]
ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]
Write = Callable[[bytes], object]
StartResponse = Callable[..., Write]
WSGIApp = Callable[[Environ, Any], Iterable[bytes]]

_FILE_WRAPPER: Final = "wsgi.file_wrapper"


class AuditWSGIMiddleware:
    """Record every request of a WSGI app.

    ``identify`` is called with the environ after the app ran and names the principal when the app did not; ``title``
    names the service when no setting does; ``find_view`` says which function would be called, for policies of views;
    ``declares`` is what can be called at all. Everything else are settings (`audit_middleware.config.Settings`), for
    what the environment should not decide. Raises `ConfigurationError` for settings that are wrong or contradict each
    other.
    """

    def __init__(
        self,
        app: WSGIApp,
        *,
        identify: Callable[[Environ], object] | None = None,
        title: str | None = None,
        find_view: Callable[[Environ], object] | None = None,
        declares: Declaration | None = None,
        pipeline: Pipeline | None = None,
        **settings: Any,  # noqa: ANN401 - settings of any type
    ) -> None:
        self.app = app
        self._title = title
        self._observer = Observer(pipeline, identify, settings)
        known = _known(app)
        if known is not None:
            find_view, declares = find_view or known.find_view, declares or known.declaration
        self._find_view = find_view or _no_view
        if declares is not None:
            self._observer.declare(declares)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Observe one request."""
        if MARK in environ:  # an outer AuditWSGIMiddleware observes this one
            return self.app(environ, start_response)
        outer = around(environ)
        if outer is not None:
            return self._tell(outer, environ, start_response)
        observer = self._observer
        pipeline = observer.pipeline or observer.pipeline_of(lambda: self._title)
        exchange = begin_cgi(observer, pipeline, environ)
        answer = WSGIAnswer(observer, pipeline, exchange, environ, start_response)
        if not observer.admits(pipeline, exchange, lambda: self._find_view(environ)):
            return answer.refuse()
        exchange.is_undeclared = "HTTP_TRANSFER_ENCODING" in environ
        if (exchange.is_undeclared or is_asked()) and "wsgi.input" in environ:
            environ["wsgi.input"] = Tee(environ["wsgi.input"], exchange)
        token = enter(exchange)
        try:
            return answer.of(self.app(environ, answer.start_response))
        except BaseException as error:
            if exchange.is_refused and isinstance(error, Exception):
                return answer.refused()
            answer.fail(error)
            raise
        finally:
            leave(token)

    def _tell(self, outer: Exchange, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer, and tell the ASGI middleware that observes this request what only an integration knows."""

        def starting(*arguments: Any) -> Write:  # noqa: ANN401 - two or three, PEP 3333
            tell(outer, environ)
            self._tell_who(outer, environ)  # an answer without a body is on record before the app has returned
            return start_response(*arguments)

        try:
            return self.app(environ, starting)
        except BaseException:
            self._tell_who(outer, environ)
            raise
        finally:
            tell(outer, environ)

    def _tell_who(self, outer: Exchange, environ: Environ) -> None:
        identify = self._observer.identify
        if identify is not None and outer.principal is None and not outer.is_closed:
            outer.principal = identified(identify, environ, self._observer.patience)


def _known(app: object) -> Known | None:
    try:
        return known_of(app)
    except Exception:  # noqa: BLE001 - an application's own attributes may raise anything
        return None


def _no_view(_environ: Environ) -> None:
    """Nothing tells what the application would call."""


class WSGIAnswer(Answer):
    """The response to one WSGI request. Belongs to the thread that the server answers from."""

    __slots__ = ("_file", "_opened", "_start")

    def __init__(
        self,
        observer: Observer,
        pipeline: Pipeline,
        exchange: Exchange,
        environ: Environ,
        start_response: StartResponse,
    ) -> None:
        super().__init__(observer, pipeline, exchange, environ, environ)
        self._start = start_response
        self._file: object = None
        self._opened: object = None
        wrapper = environ.get(_FILE_WRAPPER)
        if wrapper is not None and not isinstance(wrapper, type):
            environ[_FILE_WRAPPER] = partial(self._wrap_file, wrapper)  # a class stays: gunicorn asks isinstance of it

    def start_response(self, status: str, headers: Headers, exc_info: ExcInfo | None = None) -> Write:
        """Begin the response, or begin it anew after an error (PEP 3333: only while no header was sent)."""
        if self._exchange.is_refused:  # whatever the application says to that, the client gets the refusal
            return lambda _data: None
        name = self._observer.request_id_header
        if name:
            headers = [pair for pair in headers if pair[0].lower() != name.lower()]
            headers.append((name, self._exchange.request_id))
        write = self._start(status, headers, exc_info) if exc_info is not None else self._start(status, headers)
        self.begin(int(status[:3]) if status[:3].isdecimal() else None, headers)
        self._note_route()  # Flask's request is gone from the environ once the app has returned
        self._exchange.note_span()  # so is a span that Flask's instrumentation opened for it
        return partial(self._write, write)

    def of(self, result: Iterable[bytes]) -> Iterable[bytes]:
        """Take what the application returned, and return what the server gets."""
        if self._exchange.is_refused:
            return self.refused(result)
        if type(result) is list or type(result) is tuple:  # nothing can happen any more, and its length is told to some
            for chunk in result:
                self._exchange.response_bytes += len(chunk)
            return result if self._is_complete() else self._withhold(result)
        if self._is_sent_by_server(result):
            self._exchange.response_bytes += self._left if self._left is not None else _rest_of(self._opened or result)
            return result if self._is_complete() else self._withhold(result)
        return Body(self, self._exchange, result)

    def refuse(self) -> Iterable[bytes]:
        """The journal cannot take the record and policy is deny: the application does not run."""
        return self._refusal(refusal.NOT_CARRIED_OUT)

    def refused(self, result: object = None) -> Iterable[bytes]:
        """The view did not run, because its own policy is deny: the client is told so, whatever the app answered."""
        self._exchange.note_refusal()
        self.finish()
        return self._withhold(result, refusal.NOT_CARRIED_OUT)

    def _is_complete(self) -> bool:
        return self.is_closed or self.finish()

    def _write(self, write: Write, data: bytes) -> None:
        self.count(data)
        write(data)

    def _is_sent_by_server(self, result: Iterable[bytes]) -> bool:
        """Whether this is the server's own file wrapper, whose file it sends by itself, as sendfile(2) perhaps."""
        if self._file is not None:
            return result is self._file
        wrapper = self._environ.get(_FILE_WRAPPER)
        return isinstance(wrapper, type) and isinstance(result, wrapper)

    def _wrap_file(self, wrapper: Callable[..., object], *arguments: object) -> object:
        self._file, self._opened = wrapper(*arguments), next(iter(arguments), None)
        return self._file

    def _withhold(self, result: object, detail: str = refusal.NOT_ON_RECORD) -> Iterable[bytes]:
        """No byte was sent yet: the client gets to know why it gets no answer."""
        close = getattr(result, "close", None)
        if close is not None:
            close()
        return self._refusal(detail)

    def _refusal(self, detail: str) -> Iterable[bytes]:
        body = refusal.body(detail)
        exc_info = (JournalError, JournalError(detail), None) if self._is_begun else None
        self._start(f"{refusal.STATUS} {refusal.PHRASE}", refusal.headers(body), *((exc_info,) if exc_info else ()))
        return [body]


def _rest_of(file: Any) -> int:  # noqa: ANN401 - a file, or a wrapper that has one as PEP 3333 shows it
    """Return how many bytes a server will send of a file whose length nobody declared; 0 where that cannot be told."""
    opened = getattr(file, "filelike", file)
    try:
        return max(0, os.fstat(opened.fileno()).st_size - int(opened.tell()))
    except Exception:  # noqa: BLE001 - an application's own file, which may be none
        return 0
