from hypothesis import given
from hypothesis import strategies as st

from audit_middleware.journal.cursor import (
    FILE_BYTES,
    SLOT_BYTES,
    Position,
    Slot,
    decode_cursor,
    encode_slot,
    slot_offset,
)
from audit_middleware.journal.segment import segment_name
from audit_middleware.journal.spool import Spool
from tests.journal.kit import append

NUMBERS = st.integers(0, 2**64 - 1)
POSITIONS = st.builds(Position, NUMBERS, NUMBERS, NUMBERS)


def cursor_of(*slots):
    data = bytearray(FILE_BYTES)
    for slot in slots:
        at = slot_offset(slot.generation)
        data[at : at + SLOT_BYTES] = encode_slot(slot)
    return bytes(data)


@given(NUMBERS, POSITIONS)
def test_a_slot_says_what_was_written(generation, position):
    slot = Slot(generation, position)
    assert len(encode_slot(slot)) == SLOT_BYTES
    assert decode_cursor(cursor_of(slot)) == slot


@given(st.integers(1, 2**64 - 2), POSITIONS, POSITIONS)
def test_the_newest_slot_wins_and_the_one_before_it_is_the_fallback(generation, old, new):
    older, newer = Slot(generation, old), Slot(generation + 1, new)
    data = bytearray(cursor_of(older, newer))
    assert decode_cursor(bytes(data)) == newer
    data[slot_offset(newer.generation) + 8] ^= 1
    assert decode_cursor(bytes(data)) == older


@given(st.binary(max_size=2 * FILE_BYTES))
def test_any_bytes_are_a_cursor_that_at_worst_starts_from_the_beginning(data):
    assert decode_cursor(data) == Slot(0, Position())


@given(POSITIONS, POSITIONS, st.integers(0, FILE_BYTES * 8 - 1))
def test_a_flipped_bit_never_moves_the_cursor_further(old, new, bit):
    data = bytearray(cursor_of(Slot(1, old), Slot(2, new)))
    data[bit // 8] ^= 1 << bit % 8
    assert decode_cursor(bytes(data)).position in {old, new}


@given(POSITIONS, st.integers(0, FILE_BYTES - 1))
def test_a_cut_cursor_is_no_further_than_it_was(position, size):
    assert decode_cursor(cursor_of(Slot(1, position))[:size]).position in {position, Position()}


def deliver(spool, count):
    outbox = spool.outbox(spool.streams()[0])
    pending = outbox.pending(count, 1 << 20)
    if pending:
        outbox.advance(pending[-1])
    outbox.release()
    return len(pending)


def waiting(spool):
    outbox = spool.outbox(spool.streams()[0])
    lines = [item.line.data for item in outbox.pending(1000, 1 << 20)]
    outbox.release()
    return lines


def test_delivery_goes_on_behind_what_was_acknowledged(spool, open_recorder):
    recorder = open_recorder()
    append(recorder, 10)
    opened = Spool(spool)
    whole = waiting(opened)
    deliver(opened, 4)
    deliver(opened, 3)
    assert waiting(opened) == whole[7:]


def test_a_cursor_with_both_slots_bad_only_sends_everything_again(spool, open_recorder):
    append(open_recorder(), 10)
    opened = Spool(spool)
    whole = waiting(opened)
    deliver(opened, 6)
    path = spool / "streams" / opened.streams()[0] / "cursor"
    for damage in (b"", b"\0", b"\xff" * FILE_BYTES, path.read_bytes()[:-1][:700]):
        path.write_bytes(damage)
        assert waiting(opened)[-5:] == whole[-5:]
    path.unlink()
    assert waiting(opened) == whole


def test_an_older_generation_sends_again_and_the_next_write_wins(spool, open_recorder):
    append(open_recorder(), 10)
    opened = Spool(spool)
    whole = waiting(opened)
    path = spool / "streams" / opened.streams()[0] / "cursor"
    deliver(opened, 3)
    backup = path.read_bytes()
    deliver(opened, 3)
    path.write_bytes(backup)
    assert waiting(opened) == whole[3:]
    deliver(opened, 5)
    assert waiting(opened) == whole[8:]


def test_a_cursor_of_a_segment_that_is_gone_goes_on_with_the_next(spool, open_recorder, monkeypatch):
    monkeypatch.setattr("audit_middleware.journal.journal.SEGMENT_BYTES", 1500)
    append(open_recorder(), 20)
    opened = Spool(spool)
    folder = spool / "streams" / opened.streams()[0]
    whole = waiting(opened)
    deliver(opened, 1)
    first = (folder / segment_name(0)).read_bytes().count(b"\n")
    (folder / segment_name(0)).unlink()
    assert waiting(opened) == whole[first:]


def test_a_cursor_far_behind_the_end_delivers_nothing_wrong(spool, open_recorder):
    append(open_recorder(), 3)
    opened = Spool(spool)
    path = spool / "streams" / opened.streams()[0] / "cursor"
    path.write_bytes(cursor_of(Slot(5, Position(2**60, 0, 2**60))))
    assert waiting(opened) == []
