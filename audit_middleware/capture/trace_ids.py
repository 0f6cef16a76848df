"""OTel ids of the request at hand: the current span's, else the caller's ``traceparent``.

No span is started here: FastAPI and the instrumentations open theirs around us, a second one would double it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from opentelemetry.trace import Span

# W3C Trace Context, section 3.2.2; version ff is forbidden, all-zero ids are invalid
_TRACEPARENT: Final = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}(-.*)?"
)


TraceIds = tuple[str | None, str | None, str | None]
"""(trace id, span id, parent span id) in lower-case hex: 32 digits for the trace, 16 for a span; None where unknown."""

NO_TRACE: Final[TraceIds] = (None, None, None)


_current_span: Callable[[], Span] | None = None


def trace_ids(traceparent: bytes | None) -> TraceIds:
    """Return the ids of the current span and of the caller.

    A ``traceparent`` that is not valid is ignored: it is the client's text, and would lie in any record.
    """
    caller = parse_traceparent(traceparent) if traceparent else NO_TRACE
    read_span = _current_span or _span_reader()
    if read_span is None:
        return caller
    context = read_span().get_span_context()
    if not context.is_valid:
        return caller
    trace_id = f"{context.trace_id:032x}"
    return trace_id, f"{context.span_id:016x}", caller[2] if caller[0] == trace_id else None


def with_span(known: TraceIds) -> TraceIds:
    """Return ``known`` with the span that is current now, unless that is of another trace.

    Instrumentation that stands inside of us opened it after the request began.
    """
    trace_id, span_id, _ = trace_ids(None)
    if trace_id is None or known[0] not in {None, trace_id}:
        return known
    return trace_id, span_id, known[2]


def parse_traceparent(header: bytes) -> TraceIds:
    """Read a ``traceparent`` header: the caller's span is our parent."""
    match = _TRACEPARENT.fullmatch(header)
    if match is None or (header[:2] == b"00" and match[3]):
        return NO_TRACE
    return match[1].decode(), None, match[2].decode()


def _span_reader() -> Callable[[], Span] | None:
    """Return how to read the current span; None while nobody has imported OpenTelemetry and could have opened one."""
    global _current_span  # noqa: PLW0603 - found once: an import statement in every request costs more than the span
    if "opentelemetry.trace" in sys.modules:
        from opentelemetry.trace import get_current_span

        _current_span = get_current_span
    return _current_span
