"""Who acts, carried from process to process: what an exchange says of itself, what it believes of others. Pure.

A context that proves nothing, because it is forged, too old or of something else, is a defect of the record and never a
principal.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from audit_middleware.capture.exchange import Exchange
from audit_middleware.capture.meaning import MAX_ID
from audit_middleware.errors import BadContext
from audit_middleware.sealing.context import Context, open_context, seal_context
from audit_middleware.sealing.keys import Keyring

HEADER: Final = "Audit-Context"
CALL_AGE: Final = 300.0
"""Seconds for which a context beside a call is believed: clocks may differ, and a retry takes a while."""

TASK_AGE: Final = 30 * 86_400.0
"""Seconds for which one beside a task is: a task may wait in its queue, or for its day."""

_REMEMBERED: Final = 10_000


class Replays:
    """The contexts that this process has seen lately: each is good for one call, or one run of a task.

    Safe from any thread, without a lock, which a fork could leave held for ever in the child.
    """

    def __init__(self, limit: int = _REMEMBERED) -> None:
        self._seen: dict[str, object] = {}
        self._limit = limit

    def is_seen(self, text: str) -> bool:
        """Say whether this context came before, and remember it."""
        mine = object()
        if self._seen.setdefault(text, mine) is not mine:  # one step: of two threads one is the first
            return True
        while len(self._seen) > self._limit:
            with suppress(RuntimeError, StopIteration):  # another thread has remembered or forgotten one meanwhile
                self._seen.pop(next(iter(self._seen)), None)
        return False

    def forget(self, text: str) -> None:
        """Forget a context whose work did not take place, and comes again."""
        self._seen.pop(text, None)


def call_purpose(method: str) -> str:
    """Return what the context beside a call is for: paths and host names change on the way through proxies."""
    return f"call {method.upper()}"


def task_purpose(name: str, id_: str | None) -> str:
    """Return what the context beside a task is for: beside another task it proves nothing."""
    return f"task {name[:MAX_ID]} {id_ or '-'}"


def sealed_context(exchange: Exchange, keyring: Keyring, purpose: str, span_id: str | None = None) -> str:
    """Return a sealed context for work that ``exchange`` asks another process to do."""
    trace_id, own_span, _ = traced(exchange)
    context = Context(
        purpose,
        int(time.time()),
        exchange.service,
        exchange.request_id,
        exchange.principal_now(),
        exchange.source[0],
        trace_id,
        span_id or own_span,
    )
    return seal_context(context, keyring)


def traced(exchange: Exchange) -> tuple[str, str, str | None]:
    """Return the trace ids of an exchange; one that has none begins a trace, so that what it brings about is joined."""
    exchange.note_span()
    trace_id, span_id, parent = exchange.trace
    if trace_id is None or span_id is None:
        trace_id = trace_id or secrets.token_hex(16)  # W3C Trace Context, section 3.2.2: 16 and 8 bytes
        span_id = secrets.token_hex(8)
        exchange.trace = (trace_id, span_id, parent)
    return trace_id, span_id, parent


def believe(
    exchange: Exchange,
    text: str,
    keyring: Keyring,
    *,
    purpose: str,
    max_age: float,
    replays: Replays | None = None,
) -> None:
    """Let ``exchange`` go by a context that came along, or note why it does not."""
    try:
        context = open_context(text, keyring, purpose=purpose, max_age=max_age)
    except BadContext as error:
        exchange.context_defect = f"context.{error.reason}"
        return
    if replays is not None and replays.is_seen(text):
        exchange.context_defect = "context.replayed"
        return
    exchange.cause = context
    trace_id, span_id, parent = exchange.trace
    if trace_id is None:
        exchange.trace = (context.trace_id, None, context.span_id)
    elif trace_id == context.trace_id:
        exchange.trace = (trace_id, span_id, parent or context.span_id)


def is_internal(host: str, internal_hosts: Iterable[str]) -> bool:
    """Say whether a host is one of our own; ``*.internal`` is every host below ``internal``."""
    host = host.lower().rstrip(".")
    return any(
        host.endswith(each[1:]) and len(host) >= len(each) if each.startswith("*.") else host == each
        for each in internal_hosts
    )
