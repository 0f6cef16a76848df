"""The app of `tests.faults.app` with one promise broken on purpose, so that the harness has something to find."""

from __future__ import annotations

import os

from audit_middleware import config
from audit_middleware.capture.asgi import AuditMiddleware
from audit_middleware.journal.files import Files
from audit_middleware.pipeline import Pipeline
from audit_middleware.shipping.shipper import Shipper
from tests.faults.app import Acknowledging, starlette
from tests.faults.app import app as sound_app

FLUSH_BYTES = 64 * 1024


class BufferedFiles(Files):
    """Lines wait in this process until 64 KiB are there: what every buffered log file does."""

    def __init__(self):
        self._waiting = {}

    def create(self, name, *, dir_fd, append=False):
        fd = super().create(name, dir_fd=dir_fd, append=append)
        if append:
            self._waiting[fd] = bytearray()
        return fd

    def write(self, fd, data):
        waiting = self._waiting.get(fd)
        if waiting is None:
            return super().write(fd, data)
        waiting += data
        if len(waiting) >= FLUSH_BYTES:
            self._flush(fd)
        return len(data)

    def close(self, fd):
        self._flush(fd)
        self._waiting.pop(fd, None)
        super().close(fd)

    def _flush(self, fd):
        waiting = self._waiting.get(fd)
        if waiting:
            super().write(fd, bytes(waiting))
            waiting.clear()


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
