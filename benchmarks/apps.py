"""One JSON route in every framework: bare, audited, traced by OpenTelemetry with an exporter that does nothing.

Served by name, as ``benchmarks.apps:flask_audited``: an application is made when its name is asked for.
"""

import os

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

ORDER = {"items": [1, 2, 3], "total": "12.50"}


class NoExport(SpanExporter):
    def export(self, spans):
        return SpanExportResult.SUCCESS


def provider():
    made = TracerProvider()
    made.add_span_processor(SimpleSpanProcessor(NoExport()))
    return made


def starlette(variant):
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    async def read_order(request):
        return JSONResponse({"id": request.path_params["order_id"], **ORDER})

    app = Starlette(routes=[Route("/v1/orders/{order_id}", read_order)])
    if variant == "audited":
        from audit_middleware import AuditMiddleware

        app.add_middleware(AuditMiddleware)
    elif variant == "traced":
        from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

        app.add_middleware(OpenTelemetryMiddleware, tracer_provider=provider())
    elif variant == "handwritten":
        from audit_middleware.sealing.keys import parse_keys
        from benchmarks.handwritten import Handwritten

        path = os.path.join(os.environ["AUDIT_SPOOL_DIR"], "lines")
        app.add_middleware(Handwritten, path=path, keyring=parse_keys(os.environ["AUDIT_KEYS"]))
    return app


def flask(variant):
    from flask import Flask, jsonify

    app = Flask("orders")
    app.get("/v1/orders/<int:order_id>")(lambda order_id: jsonify(id=order_id, **ORDER))
    if variant == "audited":
        from audit_integrations.flask import Audit

        Audit(app)
    elif variant == "traced":
        from opentelemetry.instrumentation.flask import FlaskInstrumentor

        FlaskInstrumentor().instrument_app(app, tracer_provider=provider())
    return app


def django(variant, *, is_async=False):
    """Django's settings are one per process, its instrumentation too: make the traced one last."""
    import django
    from django.conf import settings
    from django.http import JsonResponse
    from django.urls import path

    def read_order(request, order_id):
        return JsonResponse({"id": order_id, **ORDER})

    async def read_order_async(request, order_id):
        return read_order(request, order_id)

    if not settings.configured:
        routes = (path("v1/orders/<int:order_id>", read_order_async if is_async else read_order),)
        settings.configure(ALLOWED_HOSTS=["*"], SECRET_KEY="x" * 50, MIDDLEWARE=[], ROOT_URLCONF=routes)
        django.setup()
    ours = ["audit_integrations.django.AuditMiddleware"] if variant == "audited" else []
    settings.MIDDLEWARE = [*ours, "django.middleware.common.CommonMiddleware"]  # the latter says Content-Length
    if variant == "traced":
        from opentelemetry.instrumentation.django import DjangoInstrumentor

        DjangoInstrumentor().instrument(tracer_provider=provider())
    from django.core.handlers.asgi import ASGIHandler
    from django.core.handlers.wsgi import WSGIHandler

    return ASGIHandler() if is_async else WSGIHandler()


def django_async(variant):
    return django(variant, is_async=True)


MAKERS = {"starlette": starlette, "flask": flask, "django": django, "django_async": django_async}


def __getattr__(name):
    framework, _, variant = name.rpartition("_")
    if framework not in MAKERS:
        raise AttributeError(name)
    return MAKERS[framework](variant)
