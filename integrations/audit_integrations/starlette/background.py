"""Background tasks of Starlette and FastAPI on record, without a decorator on each function."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final

from starlette.background import BackgroundTask

from audit_middleware import Pipeline
from audit_middleware.capture import Work, exchange_at_hand, run
from audit_middleware.capture.rules import rules_of
from audit_middleware.pipeline import pipeline_at_hand

_AUDITED: Final = "__audited_background__"


def audit_background() -> None:
    """Put every background task of this process on record, for whoever made the request; call it once, at start-up.

    They are written to the stream of the request's middleware. A task whose record cannot be kept, where policy denies,
    raises `RequestRefused` before it runs, as a function does that is decorated with ``@audited``.
    """
    call: Callable[[BackgroundTask], Any] = BackgroundTask.__call__
    if hasattr(call, _AUDITED):
        return

    @functools.wraps(call)
    async def audited_call(task: BackgroundTask) -> None:
        exchange = exchange_at_hand()
        gate = exchange.gate if exchange is not None else None
        pipeline = gate if isinstance(gate, Pipeline) else pipeline_at_hand()
        work = Work(pipeline, str(getattr(task.func, "__qualname__", task.func)), "background")
        if exchange is not None:
            work.follow(exchange)
        work.heed(rules_of(task.func))
        with run(work, pipeline):
            await call(task)

    setattr(audited_call, _AUDITED, True)
    BackgroundTask.__call__ = audited_call  # type: ignore[assignment,method-assign] # there is no other way to all of them
