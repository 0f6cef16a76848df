"""Durability memory: a bounded journal without a disk."""

import contextlib

import pytest

from audit_middleware.errors import JournalError
from audit_middleware.journal.memory import MemoryJournal
from tests.journal.kit import Clock, append


def test_memory_mode_touches_no_disk(spool, open_recorder):
    recorder = open_recorder(durability="memory")
    append(recorder, 3)
    recorder.sync()
    recorder.upkeep()
    assert not spool.exists()
    assert [item.behind.seq for item in recorder.memory.pending(10, 1 << 20)] == [1, 2, 3, 4]
    recorder.close()


def test_memory_mode_is_bounded_and_explains_what_it_gave_up(open_recorder, monkeypatch):
    clock = Clock()
    recorder = open_recorder(durability="memory", monotonic=clock)
    append(recorder)
    recorder.memory._max_lines = 5
    append(recorder, 3)
    for _ in range(4):
        with pytest.raises(JournalError):
            append(recorder)
    waiting = recorder.memory.pending(100, 1 << 20)
    recorder.memory.advance(waiting[2])
    clock.sleep(2)
    append(recorder)
    lines = [item.line.data for item in recorder.memory.pending(100, 1 << 20)]
    assert b'"type":"drop"' in lines[2]
    assert b'"first":5,"last":8,"count":4' in lines[2]


def test_memory_lines_are_given_in_order_and_within_bounds():
    journal = MemoryJournal("A" * 22)
    for number in range(10):
        journal.append(b"%d" % number * 10)
    assert len(journal.pending(3, 1000)) == 3
    assert len(journal.pending(10, 25)) == 2
    assert len(journal.pending(10, 1)) == 1
    journal.advance(journal.pending(4, 1000)[-1])
    assert journal.left_bytes() == 6 * 11
    with contextlib.suppress(JournalError):
        journal.check()
