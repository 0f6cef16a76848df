"""Writes the stream of one process life: seals, appends, explains what was given up, beats.

Not thread-safe: the recorder's lock is held around every call. A forked child drops this object and makes another.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from audit_middleware.config import Settings
from audit_middleware.errors import JournalError
from audit_middleware.journal.files import Files
from audit_middleware.journal.lifecycle import Announcer
from audit_middleware.journal.memory import MemoryJournal
from audit_middleware.journal.sink import LineSink
from audit_middleware.journal.spool import Spool
from audit_middleware.record import Dropped, Payload, StreamHead
from audit_middleware.sealing.encode import encode_rec
from audit_middleware.sealing.keys import Keyring
from audit_middleware.sealing.seal import STREAM_BYTES, Sealer
from audit_middleware.sealing.text import b64url, timestamp

RETRY_AFTER_S: Final = 1.0
CHECK_EVERY_S: Final = 1.0
BEAT_EVERY_S: Final = 10.0  # wire format, section 2
STALE_AFTER_S: Final = 3.0  # the request path looks itself when the keeper thread has not for this long
MAX_HOLE: Final = 1 << 20  # numbers consumed for one drop record; beyond them records are only counted
_QUIET_S: Final = 60
_DISK_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
LOGGER: Final = logging.getLogger("audit_middleware")


class _NotTried(JournalError):
    """The disk was not asked again so soon; this must not put off the next time it is."""


@dataclass(slots=True)
class Lost:
    """Records given up since the last ``drop`` record; ``first`` to ``last`` are the numbers they consumed."""

    first: int
    last: int
    count: int
    reason: str


@dataclass(slots=True)
class Tally:
    """What this process has seen and done, as ``beat`` and ``close`` report it."""

    seen: int = 0
    recorded: int = 0
    dropped: int = 0


class StreamWriter:
    """The one writer of one stream, and of the next one after `close`."""

    def __init__(
        self, settings: Settings, keyring: Keyring, service: str, *, files: Files, monotonic: Callable[[], float]
    ) -> None:
        self.tally = Tally()
        self.has_begun = False
        self.checkpoint_size: int | None = None
        self.sink: LineSink | None = None
        self.sealer: Sealer | None = None
        self.service = service
        self._settings = settings
        self._keyring = keyring
        self._files = files
        self._monotonic = monotonic
        self._announcer = Announcer(settings)
        self._spool: Spool | None = None
        self._lost: Lost | None = None
        self._full = ""
        self._choose_stream()
        self._ready_until = 0.0
        """Until then a record needs no look at the disk: the stream runs, nothing is lost or full."""
        self._retry_at = self._checked_at = self._beat_at = self._quiet_until = 0.0

    def append(self, type_: bytes, encoded: bytes) -> int:
        """Seal and append one record, return its ``seq``; on `JournalError` the seq is consumed and remembered."""
        tally = self.tally
        tally.seen += 1
        try:
            if self._monotonic() >= self._ready_until:
                self.ensure_ready()
            sealer, sink = self.sealer, self.sink  # _write, without the call
            assert sealer is not None
            assert sink is not None
            line = sealer.seal(type_, timestamp(time.time_ns()), encoded)
            sink.append(line)
            sealer.commit(line)
        except _NotTried as error:
            self._lose(error)
            raise
        except JournalError as error:
            self._retry_at = self._monotonic() + RETRY_AFTER_S
            self._lose(error)
            raise
        except Exception as error:  # a fault of ours loses the record as surely as one of the disk
            self._retry_at = self._monotonic() + RETRY_AFTER_S
            lost = JournalError(f"journal: {type(error).__name__}: {error}")
            self._lose(lost)
            raise lost from error
        tally.recorded += 1
        return sealer.seq - 1

    def upkeep(self) -> None:
        """Watch the files and the bounds, and beat, at most once a second. Raises `JournalError`."""
        now = self._monotonic()
        if self.sink is None or now - self._checked_at < CHECK_EVERY_S:
            return
        self._checked_at = now
        self._check_files(self.sink)
        was_full, self._full = self._full, self._bound_reached()
        self._ready_until = 0.0 if self._full or self._lost is not None else now + STALE_AFTER_S
        if was_full and not self._full:
            self._restore_reserve()
        if now - self._beat_at >= BEAT_EVERY_S and not self._full:
            self._beat_at = now
            self._write(b"beat", encode_rec(self._counters()))

    def close(self) -> None:
        """Seal the ``close`` record, sync, and let the stream go; a later record begins the next one."""
        if self.sink is None:
            return
        with contextlib.suppress(JournalError):
            self._explain_lost()
            self._write(b"close", encode_rec(self._counters()))
        self.sink.close()
        self._leave()

    def abandon(self) -> None:
        """Close the descriptors and write nothing: they are the parent's."""
        if self.sink is not None:
            self.sink.abandon()
        self._leave()

    def complain(self, error: JournalError) -> None:
        """Log once a minute: a full disk is not made better by a flood of log lines."""
        now = self._monotonic()
        if now >= self._quiet_until:
            self._quiet_until = now + _QUIET_S
            LOGGER.error("audit: records of %s cannot be written: %s", self.service, error)

    def _leave(self) -> None:
        if self._spool is not None:
            self._spool.close()
        self._spool = self.sink = self.sealer = None
        self._ready_until = 0.0
        self._choose_stream()

    def _choose_stream(self) -> None:
        """Choose the next stream's id: requests are numbered under it before their first record begins it."""
        self._stream = os.urandom(STREAM_BYTES)
        self.stream_id = b64url(self._stream).decode()

    def _write(self, type_: bytes, encoded: bytes) -> int:
        sealer, sink = self.sealer, self.sink
        if sealer is None or sink is None:
            raise JournalError("journal: no stream has begun")
        line = sealer.seal(type_, timestamp(time.time_ns()), encoded)
        sink.append(line)
        sealer.commit(line)
        return sealer.seq - 1

    def ensure_ready(self) -> None:
        """Begin the stream, look at the disk when nobody has for a while, explain what was lost.

        Raises `JournalError` while the journal could not take a record.
        """
        if self._lost is not None and self._monotonic() < self._retry_at:
            raise _NotTried(f"journal: not tried again within {RETRY_AFTER_S:.0f} s of: {self._lost.reason}")
        if self.sink is None:
            self._begin()
        self.upkeep()
        if self._full:
            raise JournalError(f"journal: {self._full}", errno=errno.EDQUOT)
        if self._lost is not None:
            self._explain_lost()
            self._restore_reserve()
        self._ready_until = self._checked_at + STALE_AFTER_S

    def _begin(self, left: StreamHead | None = None) -> None:
        found = self._open_sink()
        previous = left if left is not None else found
        self._beat_at = self._checked_at = self._monotonic()
        try:
            self._write(b"open", encode_rec(self._announcer.opened(self.service, previous)))
        except JournalError:
            if self.sink is not None:
                self.sink.discard()
            self._leave()
            raise
        self._number_what_was_lost()
        self.has_begun = True

    def _begin_anew(self) -> None:
        """Leave a stream that can no longer be written; the next one names the head it had."""
        sealer, lost, head = self.sealer, self._lost, None
        if sealer is not None:
            after = lost.first if lost is not None and lost.count else sealer.seq
            head = StreamHead(sealer.stream, after - 1, sealer.prev.decode())
        self.abandon()
        self._begin(head)

    def _open_sink(self) -> StreamHead | None:
        """Open the next stream's sink and sealer; return the head of the stream before it on this spool."""
        sealer = Sealer(self._keyring, self._stream)
        previous = None
        if self._settings.durability == "memory":
            self.sink = MemoryJournal(sealer.stream)
        else:
            self._spool = self._spool or Spool(self._settings.spool_dir, self._files)
            previous = self._spool.newest_head()
            self.sink = self._spool.begin(sealer.stream, self._announcer.meta(self.service, self._keyring.newest))
        self.sealer = sealer
        return previous

    def _number_what_was_lost(self) -> None:
        """Records given up before there was a stream get their numbers now, so that the hole shows."""
        lost, sealer = self._lost, self.sealer
        if lost is not None and sealer is not None:
            lost.first = sealer.seq
            for _ in range(min(lost.count, MAX_HOLE)):
                sealer.skip()
            lost.last = sealer.seq - 1

    def _lose(self, error: JournalError) -> None:
        """Consume the number of a record that could not be written, and remember why."""
        self.tally.dropped += 1
        self._ready_until = 0.0
        if self._lost is None:
            seq = self.sealer.seq if self.sealer is not None else 0
            self._lost = Lost(seq, seq - 1, 0, str(error)[:200])
            self.complain(error)
        lost = self._lost
        if not lost.count and self.sealer is not None:
            lost.first = self.sealer.seq  # a beat may have been written since the last drop record
        lost.count += 1
        if self.sealer is not None and lost.count <= MAX_HOLE:
            lost.last = self.sealer.seq
            self.sealer.skip()
        if lost.count == 1 and error.errno in _DISK_FULL:
            self._explain_from_reserve(lost.reason)

    def _explain_from_reserve(self, reason: str) -> None:
        """The reserve was just given up: the first lost record can be explained at once."""
        with contextlib.suppress(JournalError):
            self._explain_lost()
            seq = self.sealer.seq if self.sealer is not None else 0
            self._lost = Lost(seq, seq - 1, 0, reason)

    def _explain_lost(self) -> None:
        """Seal the ``drop`` record of what was given up; raises `JournalError` while the journal still fails."""
        lost = self._lost
        if lost is not None and lost.count:
            self._write(b"drop", encode_rec(Dropped(self.service, lost.first, lost.last, lost.count, lost.reason)))
        self._lost = None

    def _restore_reserve(self) -> None:
        if self.sink is not None:
            self.sink.restore_reserve()

    def _check_files(self, sink: LineSink) -> None:
        """Say in the journal what somebody did to it; one whose folder is gone is given up for a new stream."""
        try:
            found = sink.check()
        except JournalError as error:
            found = str(error)
            self._begin_anew()
        if found is not None:
            LOGGER.error("audit: somebody changed the journal of %s: %s", self.service, found)
            self._write(b"event", encode_rec(self._announcer.event(self.service, "audit.journal.tampered", found)))

    def _bound_reached(self) -> str:
        if self._spool is None:
            return ""
        return self._spool.bound_reached(self._settings.spool_max, self._settings.spool_min_free)

    def _counters(self) -> Payload:
        tally = (self.tally.seen, self.tally.recorded, self.tally.dropped)
        return self._announcer.counters(self.service, tally, self._spool_bytes(), self.checkpoint_size)

    def _spool_bytes(self) -> int:
        """Return what the bound of the spool is compared with, or what waits in memory."""
        if self._spool is not None:
            return self._spool.used_bytes()
        return self.sink.left_bytes() if isinstance(self.sink, MemoryJournal) else 0
