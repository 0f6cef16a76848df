"""The app of `tests.faults.app` with one promise broken on purpose, so that the harness has something to find."""

from __future__ import annotations

import os

from audit_middleware import config
from audit_middleware.capture.asgi import AuditMiddleware
from audit_middleware.pipeline import Pipeline
from audit_middleware.shipping.shipper import Shipper
from tests.faults.app import Acknowledging, starlette
from tests.faults.app import app as sound_app
from tests.faults.buffered import BufferedFiles


def buffered():
    """A writer that buffers in user space."""
    pipeline = Pipeline(config.load(), "faults", files=BufferedFiles())
    return Acknowledging(AuditMiddleware(starlette, pipeline=pipeline))


def cursor_first():
    """A shipper that moves the cursor before it posts."""
    gather = Shipper._gather

    def eager(self, outboxes):
        batch = gather(self, outboxes)
        for item in batch:
            item.outbox.advance(item.pending)
        return batch

    Shipper._gather = eager
    return sound_app


def any_answer():
    """A shipper that takes any answer at all for an acknowledgement."""
    judge = Shipper._judge

    def gullible(self, batch, answer):
        if answer.status == 200 and answer.is_collector:
            return judge(self, batch, answer)
        for item in batch:
            item.outbox.advance(item.pending)
        return True

    Shipper._judge = gullible
    return sound_app


app = {"buffered": buffered, "cursor_first": cursor_first, "any_answer": any_answer}[os.environ["FAULT_MUTANT"]]()
