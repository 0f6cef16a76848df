"""The collector's own traces: the OpenTelemetry SDK, when it is installed and told where to send them."""

from __future__ import annotations

import os
import sys
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from audit_middleware.errors import ConfigurationError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter


def set_up_telemetry(service: str) -> None:
    """Set a tracer provider as the standard ``OTEL_*`` variables say.

    ``OTEL_TRACES_EXPORTER=console`` prints spans to stderr; ``otlp`` needs the exporter package of that name.
    """
    wanted = os.environ.get("OTEL_TRACES_EXPORTER", "none")
    if wanted in {"", "none"}:
        return
    from opentelemetry import trace
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    provider.add_span_processor(BatchSpanProcessor(_exporter(wanted)))
    trace.set_tracer_provider(provider)


def _exporter(wanted: str) -> SpanExporter:
    if wanted == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter(out=sys.stderr)
    found = next(iter(entry_points(group="opentelemetry_traces_exporter", name=wanted)), None)
    if found is None:
        raise ConfigurationError(f"OTEL_TRACES_EXPORTER={wanted}: no installed package provides this exporter")
    exporter: SpanExporter = found.load()()
    return exporter
