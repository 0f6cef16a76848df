"""What becomes of a delivered line: admitted, a duplicate, or set aside with a reason (wire format, section 1).

No I/O but the look-ups of `Memory`. The order of the checks is the wire format's.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NamedTuple

from audit_middleware.collector.auth import Caller
from audit_middleware.collector.index_rows import Entry, service_of
from audit_middleware.collector.index_store import Aside
from audit_middleware.collector.logs import Log
from audit_middleware.collector.memory import Memory
from audit_middleware.collector.quarantine import Quarantine
from audit_middleware.collector.streams import GapEvent, Stream, Streams
from audit_middleware.errors import BadSeal, MalformedLine, UnknownKey
from audit_middleware.record import COLLECTOR_SERVICE, COLLECTOR_TYPES, Payload
from audit_middleware.sealing.keys import Keyring
from audit_middleware.sealing.parse import parse_rec
from audit_middleware.sealing.seal import BLOCK_BITS, MAX_STEPS, Frame, SealVerifier, leaf_hash, parse_frame
from audit_middleware.sealing.stream import Step
from audit_middleware.sealing.text import b64url

OWN_SERVICE: Final = COLLECTOR_SERVICE
LogOf = Callable[[str], Log]
"""Returns the log that takes the lines of a service now."""

_CLAIM: Final = re.compile(
    rb'\{"v":1,"kid":"[A-Za-z0-9._-]{1,32}","stream":"([A-Za-z0-9_-]{21}[AQgw])","seq":(0|[1-9][0-9]{0,15}),'
)


class Judged(NamedTuple):
    """A line and its verdict: admitted as ``entry`` to ``log``, a duplicate there, or set aside for ``reason``.

    A duplicate without a ``log`` is in the ledger of another collector.

    ``place`` is the (stream, seq) that its header claims; ``kept`` the leaf it conflicts with.
    """

    line: bytes
    leaf: bytes
    name: bytes
    place: tuple[str, int] | None
    frame: Frame | None = None
    entry: Entry | None = None
    log: Log | None = None
    reason: str | None = None
    kept: bytes | None = None


class _SetAside(Exception):
    def __init__(self, reason: str, kept: bytes | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.kept = kept


class Judge:
    """Judges lines in the order of their arrival, and moves their streams. One owner: the committer.

    ``events`` and ``asides`` collect what that means for gaps and places, until somebody takes them.
    """

    def __init__(self, keyring: Keyring, streams: Streams, memory: Memory, quarantine: Quarantine) -> None:
        self.events: list[GapEvent] = []
        self.asides: list[Aside] = []
        self._seals = SealVerifier(keyring)
        self._steps = MAX_STEPS
        self._streams = streams
        self._memory = memory
        self._quarantine = quarantine

    def begin_batch(self) -> None:
        """Give the next lines a fresh budget of ratchet steps."""
        self._steps = MAX_STEPS

    def judge(self, line: bytes, caller: Caller, log_of: LogOf) -> Judged:
        """Return what becomes of ``line``; ``log_of`` says where those of a service go.

        Raises `Problem` 503 when it must be set aside and cannot be kept; its stream has not moved then.
        """
        leaf = leaf_hash(line)
        name = b64url(leaf)
        frame: Frame | None = None
        kept: bytes | None = None
        try:
            frame = parse_frame(line)
            place = (frame.stream, frame.seq)
            entry, log = self._judge_frame(line, name, frame, caller, log_of)
            return Judged(line, leaf, name, place, frame, entry, log)
        except MalformedLine as error:
            reason = error.rule
        except UnknownKey:
            reason = "unknown_key"
        except BadSeal:
            reason = "mac"
        except _SetAside as error:
            reason, kept = error.reason, error.kept
        self._quarantine.reserve(name.decode(), len(line))
        claimed = (frame.stream, frame.seq) if frame else claimed_place(line)
        return Judged(line, leaf, name, claimed, frame, reason=reason, kept=kept)

    def _judge_frame(
        self, line: bytes, name: bytes, frame: Frame, caller: Caller, log_of: LogOf
    ) -> tuple[Entry | None, Log | None]:
        """Return an admitted line's entry and its log, or none and the log that has the line, if it is here."""
        stream = self._streams.find(frame.stream) or self._streams.fresh(frame.stream)
        if stream.service is not None:
            _require_service(stream.service, caller)
        reached = stream.follower.next
        self._pay((frame.seq - reached) >> BLOCK_BITS)
        self._seals.verify_seal(line, frame, reached=reached)
        step = stream.follower.judge(frame, name)
        if step is Step.BROKEN:
            raise _SetAside("sequence")
        if step is Step.SEEN:
            return None, self._log_of_seen(name, frame)
        payload = self._payload(line, name, frame, stream)
        service = service_of(payload) or stream.service
        if service is None or service != stream.service:
            _require_service(service, caller)
            stream.service = stream.service or service
        log = log_of(stream.service or "")
        self.events += self._streams.move(stream, frame, name)
        self._memory.remember(frame.stream, frame.seq, name, log)
        return Entry(stream.number, frame, payload), log

    def _pay(self, steps: int) -> None:
        """Bound what the claims of one batch can cost: a bad mac shows only after all the steps to its block."""
        if steps > 0:
            self._steps -= steps
            if self._steps < 0:
                raise _SetAside("jump")

    def _log_of_seen(self, name: bytes, frame: Frame) -> Log | None:
        known = self._memory.find(frame.stream, frame.seq)
        if known is None:  # the source had given this place up, and its chain says so
            raise _SetAside("sequence")
        if known.leaf != name:
            raise _SetAside("conflict", known.leaf)
        if known.log is None and not known.is_elsewhere:
            raise _SetAside(self._quarantine.reason(name.decode()) or "schema")
        return known.log

    def _payload(self, line: bytes, name: bytes, frame: Frame, stream: Stream) -> Payload:
        """Parse a line whose seal is good; if that fails the chain goes on behind it, though no ledger has it."""
        try:
            return _parsed(line, frame)
        except MalformedLine:
            leaf = name.decode()
            self._quarantine.reserve(leaf, len(line))
            self.events += self._streams.move(stream, frame, name)
            self._memory.remember(frame.stream, frame.seq, name, None)
            self.asides.append(Aside(frame.stream, frame.seq, leaf))
            raise


def _parsed(line: bytes, frame: Frame) -> Payload:
    """Parse what an application may say."""
    if frame.type in COLLECTOR_TYPES:
        raise MalformedLine(f"{frame.type}: only a collector says that", line=line, rule="schema")
    return parse_rec(line, frame)


def claimed_place(line: bytes) -> tuple[str, int] | None:
    """Return the (stream, seq) that the head of a malformed line claims, so that its sender can go on."""
    match = _CLAIM.match(line)
    return (match[1].decode(), int(match[2])) if match else None


def _require_service(service: str | None, caller: Caller) -> None:
    if service == OWN_SERVICE or not caller.may_deliver_for(service or ""):
        raise _SetAside("service")
