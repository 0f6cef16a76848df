"""Follow one stream: which line comes next, what is missing, what came late (wire format, section 2).

A pure state machine over lines whose seals were checked. It keeps a few numbers, not lines; whoever asks for
a line seen before compares the leaf hashes itself, from the ledger.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from audit_middleware.sealing.seal import FIRST_PREV, Frame


class Step(Enum):
    """What a line is to the stream that is followed."""

    NEXT = "next"
    GIVEN_UP = "given_up"
    GAP = "gap"
    LATE = "late"
    SEEN = "seen"
    BROKEN = "broken"


@dataclass(slots=True)
class Gap:
    """Lines ``first`` to ``last`` are missing between the line ``after`` which they stand and the one ``before``.

    ``after`` is the leaf hash of the line in front of the gap, ``before`` the ``prev`` of the line behind it.
    """

    first: int
    last: int
    after: bytes
    before: bytes


class Segment(NamedTuple):
    """Lines ``first`` to ``last`` that link to each other: the ``prev`` of the first, the leaf hash of the last."""

    first: int
    last: int
    prev: bytes
    leaf: bytes


@dataclass(slots=True)
class StreamFollower:
    """Follows one stream, line by line.

    The rules, in the order they are checked:

    * a ``seq`` below ``next`` that lies in a gap came late: `Step.LATE`, it shrinks the gap; one that stands at the
      edge of the gap and does not link to the line there: `Step.BROKEN`
    * another ``seq`` below ``next`` was seen before: `Step.SEEN`; equal bytes are a duplicate, others a conflict
    * ``seq == next`` that links to the newest line: `Step.NEXT`; that does not link: `Step.BROKEN`, a forged or
      forked chain
    * a ``seq`` above ``next`` that links to the newest line: `Step.GIVEN_UP`, a hole the source left by policy
    * a ``seq`` above ``next`` that does not link: `Step.GAP`, lines are late, lost or removed
    """

    stream: str
    next: int = 0
    head: bytes = FIRST_PREV
    gaps: list[Gap] = field(default_factory=list)

    def judge(self, frame: Frame, leaf: bytes) -> Step:
        """Say what the line is, without moving; ``leaf`` is its leaf hash in base64url."""
        if frame.seq < self.next:
            return self._judge_late(frame, leaf)
        if frame.prev == self.head:
            return Step.NEXT if frame.seq == self.next else Step.GIVEN_UP
        return Step.GAP if frame.seq > self.next else Step.BROKEN

    def follow(self, frame: Frame, leaf: bytes) -> Step:
        """Judge the line and move behind it; `Step.SEEN` and `Step.BROKEN` do not move."""
        step = self.judge(frame, leaf)
        if step is Step.LATE:
            self._fill(frame, leaf)
        elif step is not Step.SEEN and step is not Step.BROKEN:
            if step is Step.GAP:
                self.gaps.append(Gap(self.next, frame.seq - 1, after=self.head, before=frame.prev))
            self.next, self.head = frame.seq + 1, leaf
        return step

    @property
    def segments(self) -> list[Segment]:
        """What was followed so far, without the gaps."""
        found: list[Segment] = []
        first, prev = 0, FIRST_PREV
        for gap in self.gaps:
            if gap.first > first:
                found.append(Segment(first, gap.first - 1, prev, gap.after))
            first, prev = gap.last + 1, gap.before
        return [*found, Segment(first, self.next - 1, prev, self.head)] if self.next > first else found

    def follow_segment(self, segment: Segment) -> Step:
        """Follow many lines at once, of which only the ends are known; the rules are those of one line."""
        first, last, prev, leaf = segment
        if first >= self.next:
            if prev == self.head:
                step = Step.NEXT if first == self.next else Step.GIVEN_UP
            elif first > self.next:
                step = Step.GAP
                self.gaps.append(Gap(self.next, first - 1, after=self.head, before=prev))
            else:
                return Step.BROKEN
            self.next, self.head = last + 1, leaf
            return step
        gap = self._gap_at(first)
        if gap is None or last > gap.last:
            return Step.SEEN
        if (first == gap.first and prev != gap.after) or (last == gap.last and leaf != gap.before):
            return Step.BROKEN
        self._split(gap, segment)
        return Step.LATE

    def _judge_late(self, frame: Frame, leaf: bytes) -> Step:
        gap = self._gap_at(frame.seq)
        if gap is None:
            return Step.SEEN
        links_back = frame.seq != gap.first or frame.prev == gap.after
        is_linked_to = frame.seq != gap.last or leaf == gap.before
        return Step.LATE if links_back and is_linked_to else Step.BROKEN

    def _gap_at(self, seq: int) -> Gap | None:
        at = self._index_of(seq)
        return self.gaps[at] if at >= 0 and seq <= self.gaps[at].last else None

    def _index_of(self, seq: int) -> int:
        """Return which gap is the last that begins at ``seq`` or before, -1 for none: they stand in order."""
        return bisect_right(self.gaps, seq, key=lambda gap: gap.first) - 1

    def _fill(self, frame: Frame, leaf: bytes) -> None:
        """Take one line out of its gap; a side whose ends link to each other was given up at the source."""
        gap = self._gap_at(frame.seq)
        assert gap is not None
        self._split(gap, Segment(frame.seq, frame.seq, frame.prev, leaf))

    def _split(self, gap: Gap, segment: Segment) -> None:
        sides = (
            Gap(gap.first, segment.first - 1, after=gap.after, before=segment.prev),
            Gap(segment.last + 1, gap.last, after=segment.leaf, before=gap.before),
        )
        at = self._index_of(gap.first)
        self.gaps[at : at + 1] = [side for side in sides if side.first <= side.last and side.after != side.before]
