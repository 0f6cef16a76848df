"""The answer to a delivery (wire format, section 5): counts, acks, and the checkpoints that cover it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from audit_middleware.collector.ingest import Judged
from audit_middleware.collector.logs import Log
from audit_middleware.tlog.encoding import to_base64

MAX_TREE_SIZES: Final = 32
_TREE_SIZE: Final = re.compile(r"(\S+)[ \t]+(0|[1-9][0-9]{0,15})")


class QuarantinedLine(msgspec.Struct, frozen=True):
    """A line of the batch, counted from 1, that was set aside."""

    line: int
    reason: str


class Ack(msgspec.Struct, frozen=True):
    """The highest delivered line of a stream; it and all delivered before it are durable or in quarantine."""

    seq: int
    leaf: str


class LogAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """A log that holds lines of the batch: where it put new ones, and a checkpoint that covers all of them.

    ``first`` and ``last`` are null when nothing was new. ``consistency`` leads from the size that the sender named
    to ``checkpoint``; null when the sender named a larger one.
    """

    origin: str
    first: int | None
    last: int | None
    checkpoint: str
    consistency: list[str] | msgspec.UnsetType | None = msgspec.UNSET


class Answer(msgspec.Struct, frozen=True):
    """What `POST /v1/records` says with 200."""

    accepted: int
    duplicates: int
    quarantined: list[QuarantinedLine]
    acks: dict[str, Ack]
    logs: list[LogAnswer]


def parse_tree_sizes(values: Iterable[str]) -> dict[str, int]:
    """Return the sizes by origin that ``Audit-Tree-Size`` headers name; what is malformed is left out."""
    items = [item.strip() for value in values for item in value.split(",")][:MAX_TREE_SIZES]
    matches = [_TREE_SIZE.fullmatch(item) for item in items]
    return {match[1]: int(match[2]) for match in matches if match}


def make_answer(verdicts: list[Judged], logs: list[LogAnswer]) -> Answer:
    """Return the answer for the verdicts of one delivery, in the order of its lines."""
    accepted = sum(judged.entry is not None for judged in verdicts)
    quarantined = [
        QuarantinedLine(number, judged.reason) for number, judged in enumerate(verdicts, 1) if judged.reason is not None
    ]
    return Answer(accepted, len(verdicts) - accepted - len(quarantined), quarantined, _acks(verdicts), logs)


def log_answer(log: Log, note: bytes, placed: range, sizes: Mapping[str, int]) -> LogAnswer:
    """Return what the answer says of one log; ``placed`` are the indices of the new lines."""
    first, last = (placed[0], placed[-1]) if placed else (None, None)
    if log.origin not in sizes:
        return LogAnswer(log.origin, first, last, note.decode())
    hashes = log.consistency(sizes[log.origin], _size(note))
    proof = None if hashes is None else [to_base64(node) for node in hashes]
    return LogAnswer(log.origin, first, last, note.decode(), proof)


def _size(note: bytes) -> int:
    """Return the size in a note of our own making."""
    return int(note.split(b"\n", 2)[1])


def _acks(verdicts: list[Judged]) -> dict[str, Ack]:
    highest: dict[str, Judged] = {}
    for judged in verdicts:
        if judged.place is None:
            continue
        stream, seq = judged.place
        known = highest.get(stream)
        if known is None or known.place is None or known.place[1] <= seq:
            highest[stream] = judged
    return {stream: Ack(judged.place[1], judged.name.decode()) for stream, judged in highest.items() if judged.place}
