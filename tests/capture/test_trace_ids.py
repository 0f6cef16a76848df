"""Trace ids: the current span, else a valid traceparent, else nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider

from audit_middleware.capture.trace_ids import NO_TRACE, parse_traceparent, trace_ids

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEADER = f"00-{TRACE}-{SPAN}-01".encode()


def test_the_callers_span_is_our_parent():
    assert parse_traceparent(HEADER) == (TRACE, None, SPAN)


def test_a_later_version_may_say_more():
    assert parse_traceparent(HEADER.replace(b"00-", b"01-", 1) + b"-more")[0] == TRACE


@pytest.mark.parametrize(
    "header",
    [
        b"", b"00", HEADER + b"-more", HEADER.replace(b"00-", b"ff-", 1), HEADER.upper(), HEADER + b"\n",
        f"00-{'0' * 32}-{SPAN}-01".encode(), f"00-{TRACE}-{'0' * 16}-01".encode(), b'00-"}],{"evil":"1"}-1-01',
    ],
)  # fmt: skip
def test_an_invalid_traceparent_is_ignored(header):
    assert parse_traceparent(header) == NO_TRACE


@given(st.binary(max_size=80))
def test_no_header_ever_raises(header):
    assert parse_traceparent(header)[1] is None


def test_the_current_span_wins_and_its_parent_is_named_when_it_is_the_callers_trace():
    tracer = TracerProvider().get_tracer("test")
    with tracer.start_as_current_span("request") as span:
        context = span.get_span_context()
        mine = (f"{context.trace_id:032x}", f"{context.span_id:016x}")
        assert trace_ids(HEADER) == (*mine, None)
        caller = f"00-{mine[0]}-{SPAN}-01".encode()
        assert trace_ids(caller) == (*mine, SPAN)


def test_without_a_span_the_caller_is_all_there_is():
    assert trace_ids(HEADER) == (TRACE, None, SPAN)
    assert trace_ids(None) == NO_TRACE
