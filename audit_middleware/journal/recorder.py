"""The recorder, the only way into the journal: record -> sealed line -> journal, in one short critical section.

No record depends on a thread, an event loop, ``atexit`` or a queue to become durable: it is in the journal when
`Recorder.append` returns. A process that was forked starts a stream of its own with its first record.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from audit_middleware.config import Settings
from audit_middleware.errors import JournalError
from audit_middleware.journal.files import REAL_FILES, Files
from audit_middleware.journal.memory import MemoryJournal
from audit_middleware.journal.watermark import Watermark
from audit_middleware.journal.writer import StreamWriter, Tally
from audit_middleware.record import AuditRecord, Payload
from audit_middleware.sealing.encode import encode_rec
from audit_middleware.sealing.keys import Keyring

LOGGER: Final = logging.getLogger("audit_middleware")
MAX_ASIDE: Final = 16
_JUDGED: Final = frozenset({b"request", b"event", b"task", b"call"})  # an attempt does not know its action yet


class Recorder:
    """Appends records to the stream of this process life. Thread-safe, fork-safe, re-entrant.

    `append` raises `JournalError` when the journal cannot take a record: then its ``seq`` is consumed, it is counted,
    and a sealed ``drop`` record says so as soon as one can be written.
    """

    closed_stream: str | None
    """The id of the stream that this process closed last."""

    _owner: int

    def __init__(
        self,
        settings: Settings,
        keyring: Keyring,
        *,
        service: str = "unknown",
        files: Files = REAL_FILES,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.keyring = keyring
        self.service = service
        self._rules = settings.record_rules()
        self.on_begin: Callable[[], None] = _nothing
        """Called after each new stream began, outside the lock: starts the keeper thread."""
        self._new_writer = partial(StreamWriter, settings, keyring, service, files=files, monotonic=monotonic)
        self._rebirth = threading.Lock()
        self._reset()
        forget = weakref.WeakMethod(self._after_fork)
        os.register_at_fork(after_in_child=lambda: _call(forget()))

    def append(self, type_: bytes, rec: Payload) -> int:
        """Append one record and return its ``seq``.

        A call that interrupts another append of the same thread (a signal handler, ``__del__``) is put aside, written
        by the append it interrupted, and returns -1.
        """
        if self._rules is not None and type_ in _JUDGED and isinstance(rec, AuditRecord):
            rec = self._rules.noted(rec)
        encoded = encode_rec(rec)
        if os.getpid() != self._pid:
            self._reborn()
        me = threading.get_ident()
        if self._owner == me:
            return self._put_aside(type_, encoded)
        with self._lock:
            self._owner = me
            try:
                seq = self._writer.append(type_, encoded)
                has_begun = self._writer.has_begun and self._begun()
            finally:
                if self._aside:
                    self._append_aside()
                self._owner = 0
        if has_begun:
            self.on_begin()
        return seq

    def new_request_id(self) -> str:
        """Return an id for a request: the stream's id and a counter."""
        if os.getpid() != self._pid:
            self._reborn()
        return f"{self._writer.stream_id}.{next(self._request_numbers):x}"

    def ensure_ready(self) -> None:
        """Raise `JournalError` when the journal could not take a record now, as far as can be known."""
        if os.getpid() != self._pid:
            self._reborn()
        if self._owner != threading.get_ident():
            with self._held():
                self._writer.ensure_ready()

    @property
    def watermark(self) -> Watermark | None:
        """What a response waits for beyond the journal: synced in mode fsync, acknowledged in mode collector."""
        if self.settings.durability == "fsync":
            return self.synced
        return self.acknowledged if self.settings.durability == "collector" else None

    def sync(self) -> None:
        """Make everything appended so far survive power loss, then move the synced watermark.

        The disk is waited for without the lock. Raises `JournalError`; the lines stay in the journal all the same.
        """
        if os.getpid() != self._pid:
            return
        with self._held():
            sink, sealer, synced = self._writer.sink, self._writer.sealer, self.synced
            ticket = sink.begin_sync() if sink is not None else None
            seq = sealer.seq - 1 if sealer is not None else -1
        if ticket is not None and sink is not None:
            error = ticket.sync()
            with self._held():
                sink.end_sync(ticket, error)
        synced.advance(seq)

    def acknowledge(self, stream: str, seq: int) -> None:
        """Move the acknowledged watermark, if ``stream`` is still the one that is being written."""
        with self._held():
            if self.stream == stream:
                self.acknowledged.advance(seq)

    def upkeep(self) -> None:
        """Watch the files, the bounds and the beat; the keeper thread calls this once a second. Never raises."""
        if os.getpid() != self._pid:
            return
        with self._held():
            try:
                self._writer.upkeep()
            except JournalError as error:
                self._writer.complain(error)

    def close(self) -> None:
        """Seal the ``close`` record and let the stream go. Never raises; a later record begins a new stream.

        Called from inside an append (a signal handler) it does nothing: whoever closes at exit will.
        """
        if os.getpid() != self._pid or self._owner == threading.get_ident():
            return
        try:
            with contextlib.suppress(JournalError):
                self.sync()
            with self._held():
                self.closed_stream = self.stream or self.closed_stream
                self._writer.close()
        except Exception:  # containment: at exit there is nobody left to raise to, and threads are still to be stopped
            LOGGER.exception("audit: the stream could not be closed")

    @property
    def is_interrupted(self) -> bool:
        """Whether this thread is inside of an append, which a signal handler interrupted: it must wait for nothing."""
        return self._owner == threading.get_ident()

    @property
    def stream(self) -> str | None:
        """The id of the stream that is being written; None before the first record."""
        sealer = self._writer.sealer
        return sealer.stream if sealer is not None else None

    @property
    def tally(self) -> Tally:
        """The counters of this process life."""
        return self._writer.tally

    @property
    def memory(self) -> MemoryJournal | None:
        """The journal in memory, in that mode, for the shipper to read."""
        sink = self._writer.sink
        return sink if isinstance(sink, MemoryJournal) else None

    def saw_checkpoint(self, size: int) -> None:
        """Note the size of the newest checkpoint a receipt carried; beats report it."""
        self._writer.checkpoint_size = size

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        """Hold the lock, and say who does: what interrupts this thread is put aside, and written at the end."""
        with self._lock:
            self._owner = threading.get_ident()
            try:
                yield
            finally:
                if self._aside:
                    self._append_aside()
                self._owner = 0

    def _begun(self) -> bool:
        """A new stream counts from 0 again: what the old one reached says nothing about it."""
        self._writer.has_begun = False
        self.synced, self.acknowledged = Watermark(), Watermark()
        return True

    def _put_aside(self, type_: bytes, encoded: bytes) -> int:
        if len(self._aside) >= MAX_ASIDE:
            raise JournalError(f"journal: more than {MAX_ASIDE} records from inside one append")
        self._aside.append((type_, encoded))
        return -1

    def _append_aside(self) -> None:
        while self._aside:
            with contextlib.suppress(JournalError):  # the writer counted it and will explain it
                self._writer.append(*self._aside.pop(0))

    def _reset(self) -> None:
        """The state of a process that has written nothing yet."""
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._owner = 0
        self._aside: list[tuple[bytes, bytes]] = []
        self._writer: StreamWriter = self._new_writer()
        self.closed_stream = None
        self._request_numbers = itertools.count(1)
        self.synced = Watermark()
        self.acknowledged = Watermark()

    def _after_fork(self) -> None:
        """In a forked child: let go of the parent's files without unlocking them. Takes no lock, starts nothing."""
        parents = self._writer
        self._rebirth = threading.Lock()
        self._reset()
        parents.abandon()

    def _reborn(self) -> None:
        """A fork that ran no Python hooks (uWSGI forks in C) is noticed by the first record of the child."""
        with self._rebirth:
            if os.getpid() != self._pid:
                self._after_fork()


def _nothing() -> None:
    pass


def _call(function: Callable[[], None] | None) -> None:
    if function is not None:
        function()
