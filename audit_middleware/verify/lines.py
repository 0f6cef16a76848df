"""Verify lines one by one, in the order of the wire format's section 1; what is common to journal and ledger."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from audit_middleware.errors import BadSeal, MalformedLine, UnknownKey
from audit_middleware.record import AuditRecord, Counters, Dropped, Opened, Payload, StreamHead
from audit_middleware.sealing.keys import Keyring
from audit_middleware.sealing.parse import parse_rec
from audit_middleware.sealing.seal import Frame, SealVerifier, leaf_hash, parse_frame
from audit_middleware.sealing.stream import Gap, Step, StreamFollower
from audit_middleware.sealing.text import b64url_hash
from audit_middleware.verify.report import Finding, Report, Severity

MAX_ACCOUNTED = 1 << 20
RULES_OF_A_LINE = frozenset({"json", "schema"})


@dataclass(slots=True)
class StreamSeen:
    """What verification knows of one stream."""

    follower: StreamFollower
    first: int = 0
    """The ``seq`` of the line that was met first."""

    service: str = "unknown"
    opened_by: str | None = None
    """The service that its ``open`` record names, None while that was not met."""

    is_closed: bool = False
    lines: int = 0


class Claim(NamedTuple):
    """Why a place of a stream may be empty; ``leaf`` names the line that was there, None for any.

    `Severity.NOTE` explains it, `Severity.UNCHECKED` only says that somebody claims the place.
    """

    severity: Severity
    leaf: str | None = None


@dataclass(slots=True)
class LineVerifier:
    """Verifies lines and follows their streams; notes what it finds in a report."""

    keyring: Keyring
    report: Report
    streams: dict[str, StreamSeen] = field(default_factory=dict)
    previous: list[tuple[str, StreamHead, str]] = field(default_factory=list)
    """(stream, the head it names as its predecessor, where it says so)."""

    claims: dict[tuple[str, int], tuple[Claim, ...]] = field(default_factory=dict)
    """By (stream, seq): lines that were noted already as altered, or that are in quarantine."""

    def __post_init__(self) -> None:
        self._seals = SealVerifier(self.keyring)

    _seals: SealVerifier = field(init=False)

    def frame(self, line: bytes, where: str) -> Frame | None:
        """Check grammar and seal; None after noting what is wrong."""
        try:
            frame = parse_frame(line)
        except MalformedLine as error:
            self.note(Severity.TAMPERING, "line", where, str(error))
            return None
        try:
            self._seals.verify_seal(line, frame)
        except UnknownKey as error:
            self.note(Severity.UNCHECKED, "unknown_key", where, str(error), frame)
        except BadSeal as error:
            self.note(Severity.TAMPERING, "seal", where, str(error), frame)
            self.claim(frame.stream, frame.seq, Claim(Severity.NOTE))
            return None
        except MalformedLine as error:
            self.note(Severity.UNCHECKED, "seal", where, str(error), frame)
            return None
        return frame

    def follow(self, line: bytes, frame: Frame, *, leaf: bytes | None = None) -> Step:
        """Move the line's stream behind it and say what the line was to it."""
        seen = self.streams.get(frame.stream)
        if seen is None:
            seen = self.streams[frame.stream] = StreamSeen(StreamFollower(frame.stream), frame.seq)
        seen.lines += 1
        return seen.follower.follow(frame, b64url_hash(leaf if leaf is not None else leaf_hash(line)))

    def read(self, line: bytes, frame: Frame, where: str) -> Payload | None:
        """Parse the record strictly and remember what it says about its stream."""
        try:
            payload = parse_rec(line, frame)
        except MalformedLine as error:
            rule = error.rule if error.rule in RULES_OF_A_LINE else "line"
            self.note(Severity.TAMPERING if rule == "json" else Severity.NOTE, rule, where, str(error), frame)
            return None
        if type(payload) is not AuditRecord and isinstance(payload, Opened | Counters | Dropped):
            self._remember(payload, frame, where)
        return payload

    def claim(self, stream: str, seq: int, claim: Claim) -> None:
        """Remember why a place may be empty; at most `MAX_ACCOUNTED` places are."""
        place = (stream, seq)
        if place in self.claims or len(self.claims) < MAX_ACCOUNTED:
            self.claims[place] = (*self.claims.get(place, ()), claim)

    def judge_gap(self, stream: str, gap: Gap) -> Severity | None:
        """Return what a hole is evidence of, None for one that is explained.

        The line behind it names the last line that was written before: a claim of other bytes does not explain it,
        and the numbers above that line were given up at the source.
        """
        if gap.last - gap.first >= MAX_ACCOUNTED:
            return Severity.TAMPERING
        found: list[Severity] = []
        for seq in range(gap.last, gap.first - 1, -1):
            claims = self.claims.get((stream, seq), ())
            fitting = [claim for claim in claims if found or claim.leaf in {None, gap.before.decode()}]
            if fitting:
                is_explained = any(claim.severity is Severity.NOTE for claim in fitting)
                found.append(Severity.NOTE if is_explained else Severity.UNCHECKED)
            elif found:
                break
        else:
            if found:
                return Severity.UNCHECKED if Severity.UNCHECKED in found else None
        return Severity.UNCHECKED if len(self.claims) >= MAX_ACCOUNTED else Severity.TAMPERING

    def note(self, severity: Severity, rule: str, where: str, message: str, frame: Frame | None = None) -> None:
        """Add a finding to the report."""
        stream, seq = (frame.stream, frame.seq) if frame is not None else (None, None)
        self.report.add(Finding(severity, rule, where, message, stream, seq))

    def _remember(self, payload: Opened | Counters | Dropped, frame: Frame, where: str) -> None:
        seen = self.streams.get(frame.stream)
        if seen is None:
            return
        seen.service = payload.service
        if isinstance(payload, Opened) and frame.seq == 0:
            seen.opened_by = payload.service
        if frame.type == "close":
            seen.is_closed = True
        elif isinstance(payload, Opened) and payload.previous is not None:
            self.previous.append((frame.stream, payload.previous, where))
        elif isinstance(payload, Dropped):
            message = f"{payload.count} records from {payload.first} to {payload.last}: {payload.reason}"
            self.note(Severity.NOTE, "drop", where, message, frame)
