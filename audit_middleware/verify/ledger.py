"""Verify ledgers: signature, every tile, every entry's seal, every stream's chain, in one pass with flat memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, NamedTuple, Protocol

from audit_middleware.collector_record import Retained
from audit_middleware.errors import BadLedger, BadSignature, ConfigurationError, VerificationError
from audit_middleware.record import COLLECTOR_TYPES
from audit_middleware.sealing.keys import Keyring
from audit_middleware.sealing.seal import Frame, leaf_hash
from audit_middleware.sealing.stream import Gap, Step
from audit_middleware.tlog.checkpoint import open_checkpoint
from audit_middleware.tlog.merkle import HASH_SIZE
from audit_middleware.tlog.reader import LogReader, TileCheck
from audit_middleware.tlog.tiles import WIDTH, width_at
from audit_middleware.verify.copies import Copies
from audit_middleware.verify.expired import ExpiredLogs
from audit_middleware.verify.lines import LineVerifier, StreamSeen
from audit_middleware.verify.quarantine import ReadKept, SetAside
from audit_middleware.verify.report import Finding, Progress, Report, Severity
from audit_middleware.verify.rollback import KeptCheckpoint, LogFiles, check_files, check_kept

WHOLE: Final = "one of several logs was verified; verify the data folder, or the collector, for all of them"


class Log(NamedTuple):
    """A log to verify, and the name it goes by in findings; ``files`` where they can be listed too.

    ``expired`` is its file of that name, None while it has its entries; ``collector`` tells the logs of several apart.
    """

    name: str
    reader: LogReader
    files: LogFiles | None = None
    expired: bytes | None = None
    collector: str = ""


class Scope(NamedTuple):
    """What is known beside the logs themselves.

    ``origins`` are logs that have to be there, ``kept`` checkpoints from earlier, ``read_kept`` reads the quarantine.
    ``misses_earlier`` and ``misses_later`` say that logs of other periods exist, or may, and are not verified.
    """

    origins: Sequence[str] = ()
    kept: Sequence[KeptCheckpoint] = ()
    read_kept: ReadKept | None = None
    misses_earlier: bool = False
    misses_later: bool = False

    @property
    def is_part(self) -> bool:
        """Whether what is missing may lie in another log."""
        return self.misses_earlier or self.misses_later


def verify_logs(
    logs: Sequence[Log],
    keyring: Keyring,
    progress: Progress = lambda _done, _total: None,
    *,
    scope: Scope = Scope(),  # noqa: B008 - immutable
) -> Report:
    """Verify logs in the order given, oldest first: a stream goes on from one period's log to the next.

    Between the logs of collectors that share an index a stream may go back and forth.

    Never raises for what the logs hold. What a reader's own I/O raises passes through.
    """
    report = Report()
    verifier = _LogVerifier(keyring, report, scope, has_several=len({log.collector for log in logs}) > 1)
    sizes = {log.name: size for log in logs if (size := verifier.open(log)) is not None}
    done, total = 0, sum(sizes[log.name] for log in logs if log.name in sizes and log.expired is None)
    for log in logs:
        if log.name in sizes and log.expired is not None:
            verifier.verify_expired(log, log.expired)
        elif log.name in sizes:
            verifier.verify(log, lambda here, base=done: progress(base + here, total))
            done += sizes[log.name]
    verifier.finish(logs, sizes)
    progress(total, total)
    return report


class _LogVerifier:
    def __init__(self, keyring: Keyring, report: Report, scope: Scope, *, has_several: bool) -> None:
        self._report = report
        self._scope = scope
        self._lines = LineVerifier(keyring, report)
        self._copies = Copies(self._lines) if has_several else None
        self._set_aside = SetAside(self._lines, is_part=scope.misses_earlier)
        self._expired = ExpiredLogs(self._lines, is_part=scope.is_part)

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
        """One pass: each bundle's lines are verified while their leaf hashes rebuild the tree.

        Of a bundle that is missing or damaged the hashes are taken from its tile, so that the rest is checked too.
        """
        tiles = _Tiles(log, self._note)
        done = 0
        for number in range(-(-log.reader.checkpoint().size // WIDTH)):
            try:
                bundle = log.reader.bundle(number)
            except BadLedger as error:
                self._note("ledger", f"{log.name}/{error.where}", str(error))
                tiles.add_stored(number)
                continue
            leaves = [leaf_hash(line) for line in bundle]
            for index, (line, leaf) in enumerate(zip(bundle, leaves, strict=True), number * WIDTH):
                self._verify_entry(f"{log.name} entry {index}", line, leaf)
            tiles.add(leaves)
            done += len(bundle)
            progress(done)
        tiles.finish()
        self._report.count("logs")
        self._report.count("entries", done)

    def verify_expired(self, log: Log, data: bytes) -> None:
        """Check what remains, and follow the streams over what was there."""
        try:
            self._expired.take(log.name, log.reader, data)
        except BadLedger as error:
            self._note("ledger", f"{log.name}/{error.where}", str(error))

    def finish(self, logs: Sequence[Log], sizes: dict[str, int]) -> None:
        """What can only be said at the end: gaps that stayed open, predecessors that never came, what is older."""
        self._expired.finish()
        if self._copies is not None:
            readable = [log for log in logs if log.name in sizes and log.expired is None]
            self._copies.finish((log.collector, log.name, log.reader) for log in readable)
        self._set_aside.finish(self._scope.read_kept)
        for stream, seen in self._lines.streams.items():
            for gap in seen.follower.gaps:
                self._note_gap(stream, seen, gap)
            if not seen.is_closed:
                message = f"{seen.service}: ends at {seen.follower.next - 1} without close"
                self._report.add(Finding(Severity.NOTE, "unclosed", f"stream {stream}", message, stream))
        self._report.count("streams", len(self._lines.streams))
        self._check_previous()
        for origin in sorted(set(self._scope.origins) - {log.reader.verifier.name for log in logs}):
            self._note_missing(origin, "its key is named, and there is no such log")
        self._check_age([log for log in logs if log.name in sizes], logs)

    def _check_age(self, logs: Sequence[Log], all_logs: Sequence[Log]) -> None:
        for log in logs:
            if log.files is not None:
                is_expired = log.expired is not None
                check_files(log.name, log.files, log.reader, log.reader.verifier, self._add, is_expired=is_expired)
        for kept in self._scope.kept:
            named = [log for log in logs if log.reader.verifier.name == kept.origin]
            if named:
                reader, is_expired = named[0].reader, named[0].expired is not None
                check_kept(kept, reader, reader.verifier, self._add, is_expired=is_expired)
            elif kept.origin not in {log.reader.verifier.name for log in all_logs}:
                self._note_absent(kept, all_logs)

    def _note_absent(self, kept: KeptCheckpoint, logs: Sequence[Log]) -> None:
        """A log that a trusted key signed is missing; what nobody trusted signed says nothing."""
        for log in logs:
            try:
                open_checkpoint(kept.note, replace(log.reader.verifier, name=kept.origin))
            except (VerificationError, ConfigurationError):
                continue
            self._note_missing(kept.origin, f"{kept.where} is a checkpoint of it, and there is no such log")
            return
        message = "is of none of these logs, and no key of theirs signed it"
        self._add(Severity.UNCHECKED, "signature", kept.where, message)

    def _note_missing(self, origin: str, message: str) -> None:
        if self._scope.is_part:
            self._add(Severity.UNCHECKED, "missing_log", origin, WHOLE)
        else:
            self._add(Severity.TAMPERING, "missing_log", origin, message)

    def _verify_entry(self, where: str, line: bytes, leaf: bytes) -> None:
        lines = self._lines
        frame = lines.frame(line, where)
        if frame is None:
            return
        step = lines.follow(line, frame, leaf=leaf)
        if step is not Step.NEXT:
            self._note_step(step, where, frame)
        payload = lines.read(line, frame, where)
        if payload is not None and frame.type in COLLECTOR_TYPES:
            self._set_aside.take(payload, frame, where)
            if isinstance(payload, Retained) and self._set_aside.is_collectors(payload.service, frame):
                self._expired.note_record(payload, frame)

    def _note_step(self, step: Step, where: str, frame: Frame) -> None:
        if step is Step.SEEN and self._copies is not None:
            self._copies.take(frame)
        elif step is Step.SEEN:
            self._lines.note(Severity.TAMPERING, "replay", where, f"{frame.seq} of this stream came before", frame)
        elif step is Step.BROKEN:
            message = f"{frame.seq} does not link to the line before it"
            self._lines.note(Severity.TAMPERING, "broken", where, message, frame)
        elif step is Step.GIVEN_UP:
            self._lines.note(Severity.NOTE, "given_up", where, "numbers before it were given up at the source", frame)

    def _note_gap(self, stream: str, seen: StreamSeen, gap: Gap) -> None:
        """A gap made of lines that the collector passed over on good grounds is explained."""
        severity = self._lines.judge_gap(stream, gap)
        if severity is None:
            return
        message = f"{seen.service}: {gap.first} to {gap.last} are missing"
        if self._scope.misses_later or (self._scope.misses_earlier and gap.last < seen.first):
            severity, message = Severity.UNCHECKED, f"{message}; {WHOLE}"
        elif severity is Severity.UNCHECKED:
            message += "; lines in quarantine claim these places, and cannot be checked"
        self._report.add(Finding(severity, "gap", f"stream {stream}", message, stream, gap.first))

    def _check_previous(self) -> None:
        severity, hint = (Severity.UNCHECKED, f"; {WHOLE}") if self._scope.is_part else (Severity.TAMPERING, "")
        for _, head, where in self._lines.previous:
            seen = self._lines.streams.get(head.stream)
            if seen is None:
                message = f"{head.stream} is named as predecessor and is not in this ledger{hint}"
                self._report.add(Finding(severity, "missing_stream", where, message, head.stream))
            elif head.seq is not None and seen.follower.next <= head.seq:
                message = f"stream {head.stream} reached {head.seq}; the ledger has it up to {seen.follower.next - 1}"
                self._report.add(Finding(severity, "truncated", where, message + hint, head.stream, head.seq))

    def _note(self, rule: str, where: str, message: str) -> None:
        self._add(Severity.TAMPERING, rule, where, message)

    def _add(self, severity: Severity, rule: str, where: str, message: str) -> None:
        self._report.add(Finding(severity, rule, where, message))


class _Tiles:
    """Checks a log's tiles up to the first that is wrong; the entries behind it are verified all the same."""

    def __init__(self, log: Log, note: Callable[[str, str, str], None]) -> None:
        self._log = log
        self._note = note
        self._check: TileCheck | None = TileCheck(log.reader)

    def add(self, leaves: list[bytes]) -> None:
        self._contained(lambda check: check.add(leaves))

    def add_stored(self, number: int) -> None:
        """Go on behind a bundle that cannot be read."""
        reader = self._log.reader

        def add(check: TileCheck) -> None:
            hashes = reader.tile(0, number, width_at(0, number, reader.checkpoint().size))
            check.add([hashes[at : at + HASH_SIZE] for at in range(0, len(hashes), HASH_SIZE)])

        self._contained(add)

    def finish(self) -> None:
        self._contained(TileCheck.finish)

    def _contained(self, step: Callable[[TileCheck], None]) -> None:
        if self._check is None:
            return
        try:
            step(self._check)
        except BadLedger as error:
            self._check = None
            self._note("ledger", f"{self._log.name}/{error.where}", str(error))


class _Done(Protocol):
    """Called with the entries of one log that are done."""

    def __call__(self, done: int, /) -> None: ...
