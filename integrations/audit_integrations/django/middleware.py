"""Django's middleware: one exchange for each request, sync and async, without a thread hop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase, StreamingHttpResponse

from audit_integrations.django import commands, events, rows
from audit_integrations.django.bodies import follow_body
from audit_integrations.django.conf import OBSERVER
from audit_integrations.django.exchanges import note_route, outer_of
from audit_integrations.django.held import hold, refused
from audit_integrations.django.identify import Identify
from audit_integrations.django.routes import declaration, route_of, view_of
from audit_integrations.django.users import principal_at_hand, principal_now, principal_of, principal_of_async
from audit_middleware import Pipeline
from audit_middleware.capture import (
    FAILED,
    ROUTE,
    VIEW,
    Answer,
    AsyncBody,
    Body,
    Exchange,
    Observer,
    begin_cgi,
    enter,
    leave,
    refusal,
)
from audit_middleware.capture.body import is_asked
from audit_middleware.quiet import asking

GetResponse = Callable[[HttpRequest], Any]


class Observed(NamedTuple):
    """One request under observation."""

    observer: Observer
    identify: Identify | None
    pipeline: Pipeline
    exchange: Exchange
    answer: Answer


class AuditMiddleware:
    """Record every request of a Django project. Put it first: what stands before it is not seen.

    Settings come from ``AUDIT`` in the Django settings (`audit_middleware.config.Settings` in capitals, and
    ``IDENTIFY``, called with the request when nobody is signed in), then from the environment. Inside an audit
    middleware around the whole project it writes nothing itself: it tells that one the route and who is signed in.
    Raises `ConfigurationError` for settings that are wrong.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)
        OBSERVER.declare(declaration())
        commands.declare()
        events.connect()
        rows.connect()

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        """Observe one request."""
        if self._is_async:
            return self._observe_async(request)
        outer = outer_of(request)
        if outer is not None:
            return self._tell(request, outer)
        observed = _begin(request)
        if not observed.observer.admits(observed.pipeline, observed.exchange, lambda: view_of(request)):
            return refused(refusal.NOT_CARRIED_OUT)
        hold(request, observed.exchange)
        token = enter(observed.exchange)
        try:
            response: HttpResponseBase = self.get_response(request)
        except BaseException as error:
            _note_principal_at_hand(request, observed.exchange, observed.identify)
            observed.answer.fail(error)
            raise
        finally:
            leave(token)
        if observed.exchange.is_refused:
            response = refused(refusal.NOT_CARRIED_OUT)
        _note(request, response, observed)
        _note_principal(request, observed.exchange, observed.identify)
        if _is_streamed(request, response):
            _wrap(response, observed)
        elif not observed.answer.finish() and not observed.exchange.is_refused:
            return refused(refusal.NOT_ON_RECORD)
        return response

    async def _observe_async(self, request: HttpRequest) -> HttpResponseBase:
        outer = outer_of(request)
        if outer is not None:
            return await self._tell_async(request, outer)
        observed = _begin(request)
        if not observed.observer.admits(observed.pipeline, observed.exchange, lambda: view_of(request)):
            return refused(refusal.NOT_CARRIED_OUT)
        hold(request, observed.exchange)
        token = enter(observed.exchange)
        try:
            response: HttpResponseBase = await self.get_response(request)
        except BaseException as error:
            _note_principal_at_hand(request, observed.exchange, observed.identify)
            observed.answer.fail(error)  # without awaiting: this task may be cancelled
            raise
        finally:
            leave(token)
        if observed.exchange.is_refused:
            response = refused(refusal.NOT_CARRIED_OUT)
        _note(request, response, observed)
        await _note_principal_async(request, observed.exchange, observed.identify)
        if _is_streamed(request, response):
            _wrap(response, observed)
        elif not await observed.answer.finish_async() and not observed.exchange.is_refused:
            return refused(refusal.NOT_ON_RECORD)
        return response

    def _tell(self, request: HttpRequest, outer: Exchange) -> HttpResponseBase:
        """Answer, and tell the middleware around the project what only Django knows."""
        identify = OBSERVER.get().identify
        _let_ask(request, outer, identify)
        hold(request, outer)
        try:
            response: HttpResponseBase = self.get_response(request)
        except BaseException:
            _note_principal_at_hand(request, outer, identify)
            raise
        finally:
            note_route(request, outer)
        _note_principal(request, outer, identify)
        return response

    async def _tell_async(self, request: HttpRequest, outer: Exchange) -> HttpResponseBase:
        identify = OBSERVER.get().identify
        _let_ask(request, outer, identify)
        hold(request, outer)
        try:
            response: HttpResponseBase = await self.get_response(request)
        except BaseException:
            _note_principal_at_hand(request, outer, identify)
            raise
        finally:
            note_route(request, outer)
        await _note_principal_async(request, outer, identify)
        return response


def _begin(request: HttpRequest) -> Observed:
    live, pipeline = OBSERVER.get(), OBSERVER.pipeline()
    observer = live.observer
    exchange = begin_cgi(observer, pipeline, request.META, request.path)  # META has it as text already
    if is_asked():
        follow_body(request, exchange)
    _let_ask(request, exchange, live.identify)
    answer = Answer(observer, pipeline, exchange, request.META, request)
    return Observed(observer, live.identify, pipeline, exchange, answer)


def _let_ask(request: HttpRequest, exchange: Exchange, identify: Identify | None) -> None:
    """Let events name who acts while the view still runs, as far as somebody has asked for it by then.

    ``IDENTIFY`` is asked where nobody is signed in, but for the event loop, which it could hold up.
    """

    def known() -> object:
        who = principal_now(request)
        if who is not None or identify is None:
            return who
        return FAILED if _is_in_loop() else identify(request)

    exchange.ask_user, exchange.scope = known, None  # what Django runs from here on is no bridge


def _is_in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _note_principal(request: HttpRequest, exchange: Exchange, identify: Identify | None) -> None:
    """Ask who it was, if the view did not say."""
    if exchange.principal is None:
        exchange.principal = principal_of(request)
        if exchange.principal is None and identify is not None:
            with asking():
                exchange.principal = identify(request)


async def _note_principal_async(request: HttpRequest, exchange: Exchange, identify: Identify | None) -> None:
    if exchange.principal is None:
        exchange.principal = await principal_of_async(request)
        if exchange.principal is None and identify is not None:
            with asking():
                exchange.principal = await identify.asked(request)


def _note_principal_at_hand(request: HttpRequest, exchange: Exchange, identify: Identify | None) -> None:
    """Whatever ends this request is no time to ask anybody: who it was may stay a defect of the record."""
    if exchange.principal is None:
        exchange.principal = principal_at_hand(request)
        if exchange.principal is None and identify is not None:
            exchange.principal = FAILED


def _note(request: HttpRequest, response: HttpResponseBase, observed: Observed) -> None:
    """Note what the response says, and give it its request id."""
    exchange, name = observed.exchange, observed.observer.request_id_header
    if name:
        response.headers[name] = exchange.request_id
    route = route_of(request)
    if route is not None:
        request.META[ROUTE] = route
        request.META[VIEW] = request.resolver_match.func if request.resolver_match is not None else None
    observed.answer.begin(response.status_code, response.headers.items())
    if exchange.is_refused:
        exchange.note_refusal()
    if not response.streaming:
        exchange.response_bytes = len(cast("HttpResponse", response).content)
    elif _is_sent_by_server(request, response):
        exchange.response_bytes = observed.answer.left or 0


def _is_sent_by_server(request: HttpRequest, response: HttpResponseBase) -> bool:
    """Whether this is a file that the server sends by itself, as sendfile(2) perhaps: it passes as it is."""
    return getattr(response, "file_to_stream", None) is not None and "wsgi.file_wrapper" in request.META


def _is_streamed(request: HttpRequest, response: HttpResponseBase) -> bool:
    return response.streaming and not _is_sent_by_server(request, response)


def _wrap(response: HttpResponseBase, observed: Observed) -> None:
    stream = cast("StreamingHttpResponse", response)
    chunks: Any = stream.streaming_content
    body = AsyncBody if stream.is_async else Body
    stream.streaming_content = body(observed.answer, observed.exchange, chunks)
