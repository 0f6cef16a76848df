"""The collector over HTTP: routes, errors, life span."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from audit_middleware.collector import (
    routes_coverage,
    routes_findings,
    routes_health,
    routes_ingest,
    routes_log,
    routes_records,
    routes_retention,
    routes_status,
)
from audit_middleware.collector.collector import Collector
from audit_middleware.collector.problems import Problem, busy, problem_response
from audit_middleware.collector.routes import SIGNATURE, say_failure, say_http_error, say_problem, say_unavailable
from audit_middleware.errors import StoreUnavailable

START_WAIT: Final = 2.0  # seconds; an index that takes longer is caught up while the port is open, and red
_LOG: Final = "/log/{class_}/{period}"

__all__ = ["Collector", "create_app"]


def create_app(collector: Collector) -> Starlette:
    """Return the ASGI application of a collector, which its life span opens and closes."""

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        await asyncio.to_thread(collector.open, wait=START_WAIT)
        try:
            yield
        finally:
            await asyncio.to_thread(collector.close)

    app = Starlette(
        routes=[
            Route("/v1/records", _records, methods=["GET", "POST"]),
            Route("/v1/coverage", routes_coverage.coverage),
            Route("/v1/findings", routes_findings.findings),
            Route("/v1/findings/{id}", routes_findings.decide, methods=["POST"]),
            Route("/v1/status", routes_status.status),
            Route(f"{_LOG}/checkpoint", routes_log.checkpoint),
            Route(f"{_LOG}/expired", routes_log.expired),
            Route(f"{_LOG}/checkpoints/{{size}}", routes_log.archived),
            Route(f"{_LOG}/tile/{{path:path}}", routes_log.tile),
            Route("/log.vkey", routes_log.vkeys),
            Route("/v1/retention", _retention, methods=["GET", "POST"]),
            Route("/v1/holds", routes_retention.place, methods=["POST"]),
            Route("/v1/holds/{case}/confirm", routes_retention.confirm, methods=["POST"]),
            Route("/v1/holds/{case}/release", routes_retention.release, methods=["POST"]),
            Route("/healthz", routes_health.health),
            Route("/readyz", routes_health.ready),
            Route("/metrics", routes_health.metrics),
        ],
        exception_handlers={
            Problem: say_problem,
            HTTPException: say_http_error,
            StoreUnavailable: say_unavailable,
            Exception: say_failure,
        },
        lifespan=lifespan,
    )
    app.state.collector = collector
    app.router.redirect_slashes = False
    app.user_middleware = [Middleware(_Signature)]
    return app


async def _records(request: Request) -> Response:
    """Deliver or search: one route, so that a wrong method is told of both."""
    return await (routes_ingest.ingest if request.method == "POST" else routes_records.search)(request)


async def _retention(request: Request) -> Response:
    """Show the plan or carry it out: one route, as above."""
    return await (routes_retention.apply if request.method == "POST" else routes_retention.plan)(request)


class _Signature:
    """Adds ``Audit-Collector: 1`` to every response, so that no proxy's 200 is taken for a receipt."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_started = False

        async def signed(message: Message) -> None:
            nonlocal has_started
            if message["type"] == "http.response.start":
                has_started = True
                MutableHeaders(scope=message)[SIGNATURE] = "1"
            await send(message)

        try:
            await self._app(scope, receive, signed)
        except asyncio.CancelledError:  # only a server that ends cancels a request, and that is nobody's failure
            if not has_started:
                await problem_response(busy("collector-closed", "the collector ends"))(scope, receive, signed)
