"""The threads behind a recorder: one keeps the journal (sync, watch, beat), one ships it. Started by the first record.

Nothing depends on them for durability: a process whose threads died in a fork still journals every record, and a
neighbour or a sidecar delivers it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Final

from audit_middleware.config import Settings
from audit_middleware.errors import AuditError, JournalError
from audit_middleware.journal.lifecycle import Announcer
from audit_middleware.journal.recorder import Recorder
from audit_middleware.journal.spool import Spool
from audit_middleware.shipping.delivery import HTTPTransport, TLSFiles
from audit_middleware.shipping.dispatch import Dispatch, dispatch_for
from audit_middleware.shipping.receipt import LogPins
from audit_middleware.shipping.shipper import Deliverable, Item, Shipper

LOGGER: Final = logging.getLogger("audit_middleware")
UPKEEP_EVERY_S: Final = 1.0
LINGER_S: Final = 0.25
STOP_WITHIN_S: Final = 2.0
_LAST_READ_S: Final = 1.5
_AFTER_FAULT_S: Final = 5.0


class Keeper:
    """Owns the threads of one process; `start` is called again in every forked child that writes."""

    def __init__(self, settings: Settings, recorder: Recorder) -> None:
        self._settings = settings
        self._recorder = recorder
        self._pid = -1
        self._line: _Line | None = None
        let_go = weakref.WeakMethod(self._let_go)
        os.register_at_fork(after_in_child=lambda: _call(let_go()))

    def start(self) -> None:
        """Start the threads unless they run in this process. Never raises: without them the journal still grows."""
        if self._pid == os.getpid():
            return
        if self._pid >= 0:  # a child forked in C, where no hook ran
            self._let_go()
        self._pid = pid = os.getpid()
        self._stopping = threading.Event()
        self._wake_keeper = threading.Event()
        self._wake_shipper = threading.Event()
        self._threads = [threading.Thread(target=self._keep, args=(pid,), name="audit-keeper", daemon=True)]
        if self._settings.collector_url and self._settings.shipper == "thread":
            self._threads.append(threading.Thread(target=self._ship, args=(pid,), name="audit-shipper", daemon=True))
        try:
            for thread in self._threads:
                thread.start()
        except RuntimeError as error:
            LOGGER.warning("audit: no thread can be started (%s); deliver with `audit-ready ship`", error)

    def wake(self) -> None:
        """A response waits for its record to be synced or acknowledged: do it now."""
        if self._pid == os.getpid():
            (self._wake_keeper if self._settings.durability == "fsync" else self._wake_shipper).set()

    def stop(self) -> None:
        """Close the stream and try once more to deliver, `STOP_WITHIN_S` in all. Never raises."""
        deadline = time.monotonic() + STOP_WITHIN_S
        if self._pid != os.getpid():
            self._recorder.close()
            return
        self._recorder.close()
        self._stopping.set()
        self._wake_keeper.set()
        self._wake_shipper.set()
        for thread in self._threads:
            if thread is not threading.current_thread() and thread.is_alive():
                thread.join(max(0.0, deadline - time.monotonic()))
        self._pid = -1

    def _let_go(self) -> None:
        """In a forked child: close the parent's outboxes, or they would stay locked for as long as the child lives."""
        line, self._line = self._line, None
        if line is not None:
            line.abandon()

    def _keep(self, pid: int) -> None:
        stopping, wake, recorder = self._stopping, self._wake_keeper, self._recorder
        while not stopping.is_set() and _is_ours(pid):
            wake.wait(UPKEEP_EVERY_S)
            wake.clear()
            if stopping.is_set() or not _is_ours(pid):
                return
            try:
                recorder.upkeep()
                recorder.sync()
            except JournalError as error:
                LOGGER.error("audit: the journal cannot be synced: %s", error)  # noqa: TRY400 - the message says it all
                stopping.wait(_AFTER_FAULT_S)
            except Exception:  # containment: the next turn tries again
                LOGGER.exception("audit: upkeep of the journal failed")
                stopping.wait(_AFTER_FAULT_S)

    def _ship(self, pid: int) -> None:
        _suppress_instrumentation()
        stopping = self._stopping
        while not stopping.is_set() and _is_ours(pid):
            try:
                self._ship_until_stopped(pid)
            except Exception:  # containment: a fault of ours must not end delivery
                LOGGER.exception("audit: shipping failed; it starts again in %.0f s", _AFTER_FAULT_S)
                stopping.wait(_AFTER_FAULT_S)

    def _ship_until_stopped(self, pid: int) -> None:
        stopping, wake = self._stopping, self._wake_shipper
        line = _MemoryLine(self._settings, self._recorder) if self._is_in_memory() else self._disk_line()
        self._line = line
        try:
            while not stopping.is_set() and _is_ours(pid):
                if not (line.turn() and line.shipper.is_behind):
                    wake.wait(max(LINGER_S, min(line.shipper.backoff.wait_s, UPKEEP_EVERY_S)))
                    wake.clear()
            if _is_ours(pid):
                self._ship_the_rest(line)
        finally:
            if _is_ours(pid):
                if self._line is line:
                    self._line = None
                line.release()
                line.shipper.close()

    def _ship_the_rest(self, line: _Line) -> None:
        deadline = time.monotonic() + _LAST_READ_S
        while time.monotonic() < deadline and line.turn():
            pass
        line.finish()

    def _is_in_memory(self) -> bool:
        return self._settings.durability == "memory"

    def _disk_line(self) -> _Line:
        return _DiskLine(self._settings, self._recorder)


class _Line:
    """A source of streams and the shipper that delivers them."""

    shipper: Shipper

    def turn(self) -> bool:
        raise NotImplementedError

    def finish(self) -> None:
        """After the last turn."""

    def release(self) -> None:
        """Let others deliver."""

    def abandon(self) -> None:
        """Close descriptors, nothing else: this is a forked child."""


class _DiskLine(_Line):
    def __init__(self, settings: Settings, recorder: Recorder) -> None:
        self._recorder = recorder
        self._announcer = Announcer(settings)
        self._spool = Spool(settings.spool_dir)
        self._is_over = False
        self._dispatch: Dispatch = dispatch_for(settings, self._spool, own_stream=self._own_stream)
        self.shipper = self._dispatch.shipper
        self._save = self.shipper.on_receipt
        self.shipper.on_receipt = self._acknowledge
        self._dispatch.on_adopted = self._say_adopted

    def turn(self) -> bool:
        return self._dispatch.turn()

    def finish(self) -> None:
        self._is_over = True
        with contextlib.suppress(AuditError, OSError):
            self._dispatch.scan()

    def release(self) -> None:
        self._dispatch.release()
        self._spool.close()

    def abandon(self) -> None:
        self._dispatch.abandon()
        self._spool.close()

    def _own_stream(self) -> str | None:
        """The stream being written, or, after it was closed, the one that was."""
        return None if self._is_over else self._recorder.stream or self._recorder.closed_stream

    def _acknowledge(self, items: Sequence[Item], pins: LogPins) -> None:
        self._save(items, pins)
        for stream, item in {item.outbox.stream: item for item in items}.items():
            self._recorder.acknowledge(stream, item.pending.behind.seq - 1)
        self._recorder.saw_checkpoint(max((seen.size for seen in pins.newest.values()), default=0))

    def _say_adopted(self, stream: str, torn: int) -> None:
        if self._recorder.stream is None:
            return
        details = {"stream": stream, "torn_bytes": torn}
        event = self._announcer.event(
            self._recorder.service, "audit.spool.adopted", "delivered for a dead process", details
        )
        with contextlib.suppress(JournalError):
            self._recorder.append(b"event", event)


class _MemoryLine(_Line):
    def __init__(self, settings: Settings, recorder: Recorder) -> None:
        self._recorder = recorder
        transport = HTTPTransport(
            settings.collector_url, token=settings.token, compress=settings.gzip, tls=TLSFiles.of(settings)
        )
        pins = LogPins()
        pins.pin(settings.log_keys)
        self.shipper = Shipper(transport, pins, _log_aside)
        self._last: Deliverable | None = None

    def turn(self) -> bool:
        self._last = self._recorder.memory or self._last
        return self.shipper.turn([self._last]) if self._last is not None else False


def _is_ours(pid: int) -> bool:
    """Greenlets that pass for threads survive a fork; in the child they must not touch the parent's files."""
    return pid == os.getpid()


def _call(function: Callable[[], None] | None) -> None:
    if function is not None:
        function()


def _log_aside(stream: str, name: str, data: bytes, why: dict[str, object]) -> None:
    LOGGER.error("audit: line %s of %s was given up, there is no disk to keep it (%s): %r", name, stream, why, data)


def _suppress_instrumentation() -> None:
    """The shipper's own calls are not traced, or it would be observed observing."""
    with contextlib.suppress(ImportError):
        from opentelemetry.context import attach, set_value

        attach(set_value("suppress_instrumentation", True))
