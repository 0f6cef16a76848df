"""Damage nobody meant: torn tails, zeros, flipped bits. Nothing raises, what is whole is delivered."""

import random

import pytest

from audit_middleware.journal.cursor import SLOT_BYTES
from audit_middleware.journal.spool import Spool
from tests.journal.kit import (
    Clock,
    append,
    findings,
    folders,
    segments,
    tampering,
)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def recorder(open_recorder, clock):
    recorder = open_recorder(monotonic=clock)
    append(recorder, 6)
    return recorder


@pytest.fixture
def journal(spool, recorder):
    """A dead stream: the segment file of seven lines and a close."""
    recorder.close()
    return segments(folders(spool)[0])[0]


def delivered(spool):
    opened = Spool(spool)
    try:
        outbox = opened.outbox(opened.streams()[0])
        found = [item.line.data for item in outbox.pending(10_000, 1 << 24)]
        outbox.release()
    finally:
        opened.close()
    return found


@pytest.mark.parametrize("filler", [b"", b"\0", b"\xa5"], ids=["cut", "zeros", "garbage"])
def test_a_torn_tail_of_any_length_costs_that_line_only(spool, journal, filler):
    data = journal.read_bytes()
    whole = data.split(b"\n")[:-1]
    last = len(whole[-1]) + 1
    for torn in range(1, last + 1):
        journal.write_bytes(data[:-torn] + filler * torn)
        assert delivered(spool) == whole[:-1]
        assert Spool(spool).end(journal.parent.name).seq == len(whole) - 2
    assert tampering(spool) == []


@pytest.mark.parametrize("seed", range(4))
def test_a_flipped_bit_is_always_named_and_never_raises(spool, journal, seed):
    chance = random.Random(seed)
    data = journal.read_bytes()
    whole = data.split(b"\n")[:-1]
    for _ in range(60):
        at = chance.randrange(len(data))
        flipped = bytearray(data)
        flipped[at] ^= 1 << chance.randrange(8)
        journal.write_bytes(flipped)
        number = data[:at].count(b"\n") + 1
        named = [
            finding
            for finding in tampering(spool)
            if finding.where.endswith((f" line {number}", f" line {number + 1}"))
        ]
        is_last_newline = at == len(data) - 1
        assert named or is_last_newline, (at, findings(spool))
        assert set(whole) - set(delivered(spool)) <= set(whole[number - 1 : number + 1])


def test_a_flipped_bit_of_the_cursor_only_sends_again(spool, journal):
    whole = delivered(spool)
    outbox = Spool(spool).outbox(journal.parent.name)
    for _ in range(2):
        outbox.advance(outbox.pending(2, 1 << 20)[-1])
    outbox.release()
    path = journal.parent / "cursor"
    data = path.read_bytes()
    for bit in range(0, 2 * SLOT_BYTES * 8, 7):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        left = delivered(spool)
        assert left == whole[len(whole) - len(left) :]
        assert len(left) >= len(whole) - 4
