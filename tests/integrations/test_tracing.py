"""The ids of a request are those of OpenTelemetry's instrumentation, wherever that stands."""

import pytest
from flask import Flask
from opentelemetry import trace
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware as WSGIInstrumentation
from opentelemetry.sdk.trace import TracerProvider
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from werkzeug.test import Client

from audit_integrations.flask import Audit
from audit_middleware import AuditMiddleware, AuditWSGIMiddleware, audited
from audit_middleware.capture import exchange_at_hand
from audit_middleware.capture.carrying import traced
from tests.capture.kit import make_pipeline, records

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
PROVIDER = TracerProvider()


def current():
    """Return the ids of the span that a view sees."""
    context = trace.get_current_span().get_span_context()
    return f"{context.trace_id:032x} {context.span_id:016x}"


def wsgi(environ, start):
    body = current().encode()
    start("200 OK", [("Content-Length", str(len(body)))])
    return [body]


def flask_app():
    app = Flask("shop")
    app.post("/")(audited("orders.pay")(current))
    return app


def flask_inside(pipeline):
    app = flask_app()
    FlaskInstrumentor().instrument_app(app, tracer_provider=PROVIDER)
    Audit(app, pipeline=pipeline)
    return Client(app)


def flask_outside(pipeline):
    app = flask_app()
    Audit(app, pipeline=pipeline)
    FlaskInstrumentor().instrument_app(app, tracer_provider=PROVIDER)
    return Client(app)


def wsgi_inside(pipeline):
    return Client(AuditWSGIMiddleware(WSGIInstrumentation(wsgi, tracer_provider=PROVIDER), pipeline=pipeline))


def wsgi_outside(pipeline):
    return Client(WSGIInstrumentation(AuditWSGIMiddleware(wsgi, pipeline=pipeline), tracer_provider=PROVIDER))


async def view(request):
    return PlainTextResponse(current())


def starlette():
    return Starlette(routes=[Route("/", view, methods=["POST"])])


def asgi_inside(pipeline):
    return TestClient(
        AuditMiddleware(OpenTelemetryMiddleware(starlette(), tracer_provider=PROVIDER), pipeline=pipeline)
    )


def asgi_outside(pipeline):
    return TestClient(
        OpenTelemetryMiddleware(AuditMiddleware(starlette(), pipeline=pipeline), tracer_provider=PROVIDER)
    )


ORDERS = [flask_inside, flask_outside, wsgi_inside, wsgi_outside, asgi_inside, asgi_outside]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("traceparent", [None, CALLER])
def test_the_trace_of_the_instrumentation_is_on_record(tmp_path, order, traceparent):
    headers = {"User-Agent": "test"} | ({"traceparent": traceparent} if traceparent else {})
    seen, span = order(make_pipeline(tmp_path)).post("/", headers=headers).text.split()
    (record,) = records(tmp_path)
    assert record["trace"]["trace_id"] == seen
    if order is not asgi_inside:  # whose response is sent within a span of its own
        assert record["trace"]["span_id"] == span
    assert len(record["trace"]["span_id"]) == 16
    assert record["trace"].get("parent_span_id") == (CALLER[36:52] if traceparent else None)


def test_a_call_that_a_view_makes_is_of_the_trace_of_the_instrumentation(tmp_path):
    app, said = Flask("shop"), []
    app.get("/")(lambda: said.append(traced(exchange_at_hand())) or current())
    FlaskInstrumentor().instrument_app(app, tracer_provider=PROVIDER)
    Audit(app, pipeline=make_pipeline(tmp_path))
    seen, span = app.test_client().get("/").text.split()
    assert said == [(seen, span, None)]


def test_a_span_of_another_trace_is_not_taken_for_that_of_the_request(tmp_path):
    app = Flask("shop")

    @app.get("/")
    def view():
        with PROVIDER.get_tracer("test").start_as_current_span("other", context=trace.context_api.Context()):
            exchange_at_hand().note_span()
            return current()

    Audit(app, pipeline=make_pipeline(tmp_path))
    app.test_client().get("/", headers={"traceparent": CALLER})
    (record,) = records(tmp_path)
    assert record["trace"]["trace_id"] == CALLER[3:35]
    assert "span_id" not in record["trace"]
