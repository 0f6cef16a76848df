"""Verify ledgers: signature, every tile, every entry's seal, every stream's chain, in one pass with flat memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import NamedTuple, Protocol

from audit_middleware.errors import BadLedger, BadSignature, VerificationError
from audit_middleware.record import Quarantined
from audit_middleware.sealing.keys import Keyring
from audit_middleware.sealing.seal import Frame, leaf_hash
from audit_middleware.sealing.stream import Gap, Step
from audit_middleware.tlog.reader import LogReader, TileCheck
from audit_middleware.tlog.tiles import WIDTH
from audit_middleware.verify.lines import LineVerifier, StreamSeen
from audit_middleware.verify.report import Finding, Progress, Report, Severity


class Log(NamedTuple):
    """A log to verify, and the name it goes by in findings."""

    name: str
    reader: LogReader


def verify_logs(logs: Sequence[Log], keyring: Keyring, progress: Progress = lambda _done, _total: None) -> Report:
    """Verify logs in the order given, oldest first: a stream goes on from one period's log to the next.

    Never raises for what the logs hold. What a reader's own I/O raises passes through.
    """
    report = Report()
    verifier = _LogVerifier(keyring, report)
    sizes = {log.name: size for log in logs if (size := verifier.open(log)) is not None}
    done, total = 0, sum(sizes.values())
    for log in logs:
        if log.name in sizes:
            verifier.verify(log, lambda here, base=done: progress(base + here, total))
            done += sizes[log.name]
    verifier.finish()
    progress(total, total)
    return report


class _LogVerifier:
    def __init__(self, keyring: Keyring, report: Report) -> None:
        self._report = report
        self._lines = LineVerifier(keyring, report)

    def open(self, log: Log) -> int | None:
        """Check the checkpoint's signature; return the size it signs, None after noting what is wrong."""
        try:
            return log.reader.checkpoint().size
        except BadSignature as error:
            self._note("signature", f"{log.name}/checkpoint", str(error))
        except VerificationError as error:
            self._note("ledger", f"{log.name}/checkpoint", str(error))
        return None

    def verify(self, log: Log, progress: _Done) -> None:
        """One pass: each bundle's lines are verified while their leaf hashes rebuild the tree."""
        tiles = _Tiles(log, self._note)
        entries = log.reader.entries()
        done = 0
        try:
            while chunk := list(islice(entries, WIDTH)):
                leaves = [leaf_hash(line) for _, line in chunk]
                for (index, line), leaf in zip(chunk, leaves, strict=True):
                    self._verify_entry(f"{log.name} entry {index}", line, leaf)
                tiles.add(leaves)
                done += len(chunk)
                progress(done)
            tiles.finish()
        except BadLedger as error:
            self._note("ledger", f"{log.name}/{error.where}", str(error))
        self._report.count("logs")
        self._report.count("entries", done)

    def finish(self) -> None:
        """What can only be said at the end: gaps that stayed open, predecessors that never came."""
        for stream, seen in self._lines.streams.items():
            for gap in seen.follower.gaps:
                self._note_gap(stream, seen, gap)
            if not seen.is_closed:
                message = f"{seen.service}: ends at {seen.follower.next - 1} without close"
                self._report.add(Finding(Severity.NOTE, "unclosed", f"stream {stream}", message, stream))
        self._report.count("streams", len(self._lines.streams))
        self._check_previous()

    def _verify_entry(self, where: str, line: bytes, leaf: bytes) -> None:
        lines = self._lines
        frame = lines.frame(line, where)
        if frame is None:
            return
        step = lines.follow(line, frame, leaf=leaf)
        if step is not Step.NEXT:
            self._note_step(step, where, frame)
        payload = lines.read(line, frame, where)
        if type(payload) is Quarantined and payload.stream is not None and payload.seq is not None:
            self._lines.accounted.add((payload.stream, payload.seq))

    def _note_step(self, step: Step, where: str, frame: Frame) -> None:
        if step is Step.SEEN:
            self._lines.note(Severity.TAMPERING, "replay", where, f"{frame.seq} of this stream came before", frame)
        elif step is Step.BROKEN:
            message = f"{frame.seq} does not link to the line before it"
            self._lines.note(Severity.TAMPERING, "broken", where, message, frame)
        elif step is Step.GIVEN_UP:
            self._lines.note(Severity.NOTE, "given_up", where, "numbers before it were given up at the source", frame)

    def _note_gap(self, stream: str, seen: StreamSeen, gap: Gap) -> None:
        """A gap made of lines that the ledger itself says are in quarantine is explained."""
        if not self._lines.is_gap(stream, gap):
            return
        message = f"{seen.service}: {gap.first} to {gap.last} are missing"
        self._report.add(Finding(Severity.TAMPERING, "gap", f"stream {stream}", message, stream, gap.first))

    def _check_previous(self) -> None:
        for _, head, where in self._lines.previous:
            seen = self._lines.streams.get(head.stream)
            if seen is None:
                message = f"{head.stream} is named as predecessor and is not in this ledger"
                self._report.add(Finding(Severity.TAMPERING, "missing_stream", where, message, head.stream))
            elif head.seq is not None and seen.follower.next <= head.seq:
                message = f"stream {head.stream} reached {head.seq}; the ledger has it up to {seen.follower.next - 1}"
                self._report.add(Finding(Severity.TAMPERING, "truncated", where, message, head.stream, head.seq))

    def _note(self, rule: str, where: str, message: str) -> None:
        self._report.add(Finding(Severity.TAMPERING, rule, where, message))


class _Tiles:
    """Checks a log's tiles up to the first that is wrong; the entries behind it are verified all the same."""

    def __init__(self, log: Log, note: Callable[[str, str, str], None]) -> None:
        self._name = log.name
        self._note = note
        self._check: TileCheck | None = TileCheck(log.reader)

    def add(self, leaves: list[bytes]) -> None:
        self._contained(lambda check: check.add(leaves))

    def finish(self) -> None:
        self._contained(TileCheck.finish)

    def _contained(self, step: Callable[[TileCheck], None]) -> None:
        if self._check is None:
            return
        try:
            step(self._check)
        except BadLedger as error:
            self._check = None
            self._note("ledger", f"{self._name}/{error.where}", str(error))


class _Done(Protocol):
    """Called with the entries of one log that are done."""

    def __call__(self, done: int, /) -> None: ...
