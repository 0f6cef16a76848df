"""The recorder: one chain from many threads, records from inside a record, the life of a stream."""

import signal
import threading

import pytest

from audit_middleware.errors import JournalError
from audit_middleware.journal.spool import Spool
from audit_middleware.testing import FaultyFiles
from tests.journal.kit import Clock, append, findings, folders, numbers, parsed, record_of, segments


def in_time(work, seconds=10):
    """Run ``work`` in a thread; one that does not end is a deadlock."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "deadlock"


def test_eight_threads_write_one_contiguous_chain(spool, open_recorder):
    recorder = open_recorder()
    seqs = [[] for _ in range(8)]
    threads = [threading.Thread(target=lambda mine=mine: mine.extend(append(recorder, 500))) for mine in seqs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    recorder.close()
    (folder,) = folders(spool)
    assert numbers(folder) == list(range(4002))
    assert sorted(seq for mine in seqs for seq in mine) == list(range(1, 4001))
    assert all(mine == sorted(mine) for mine in seqs)
    assert findings(spool) == []


def test_one_stream_begins_however_many_threads_write_the_first_record(spool, open_recorder):
    recorder = open_recorder()
    begun, barrier = [], threading.Barrier(8)
    recorder.on_begin = lambda: begun.append(1)
    threads = [threading.Thread(target=lambda: (barrier.wait(5), append(recorder))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(folders(spool)) == len(begun) == 1


def test_the_start_of_the_threads_is_asked_for_again_when_the_first_record_failed(open_recorder):
    files, clock, begun = FaultyFiles(), Clock(), []
    recorder = open_recorder(files=files, monotonic=clock)
    recorder.on_begin = lambda: begun.append(1)
    files.fail("write", 28, name="seg-", after=1)
    with pytest.raises(JournalError):
        append(recorder)
    clock.sleep(2)
    append(recorder)
    assert begun == [1]


@pytest.mark.parametrize("call", ["append", "ensure_ready", "upkeep", "sync", "close"])
def test_a_record_from_inside_any_call_is_written_and_never_deadlocks(spool, open_recorder, call):
    """A signal handler, `__del__` or a logging handler runs wherever a system call is made."""
    files, clock, answers = FaultyFiles(), Clock(), []
    recorder = open_recorder(files=files, monotonic=clock)
    append(recorder)
    clock.sleep(20)

    def interrupt(_call):
        files.on_call = lambda _call: None
        answers.append(recorder.append(b"event", record_of(reason="from inside")))

    files.on_call = interrupt
    calls = {"append": lambda: append(recorder)}
    in_time(calls.get(call, getattr(recorder, call)))
    reasons = [line["rec"].get("reason") for folder in folders(spool) for line in parsed(folder)]
    assert answers
    assert reasons.count("from inside") == 1
    assert {severity for severity, _ in findings(spool)} <= {"note"}


def test_a_signal_handler_that_appends_is_never_lost_and_never_deadlocks(spool, open_recorder):
    recorder = open_recorder()
    interrupted = []
    before = signal.signal(signal.SIGALRM, lambda *_: interrupted.append(recorder.append(b"event", record_of())))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        append(recorder, 3000)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    recorder.close()
    (folder,) = folders(spool)
    assert numbers(folder) == list(range(3000 + len(interrupted) + 2))
    assert interrupted
    assert findings(spool) == []


def test_a_finaliser_that_appends_is_put_aside_and_written(spool, open_recorder):
    files = FaultyFiles()
    recorder = open_recorder(files=files)
    append(recorder)

    class Dying:
        def __del__(self):
            recorder.append(b"event", record_of(reason="last words"))

    holder = [Dying()]
    files.on_call = lambda _call: holder.clear()
    in_time(lambda: append(recorder))
    assert [line["rec"].get("reason") for line in parsed(folders(spool)[0])].count("last words") == 1


def test_closing_from_a_signal_handler_inside_an_append_does_not_deadlock(spool, open_recorder):
    files = FaultyFiles()
    recorder = open_recorder(files=files)
    append(recorder)
    files.on_call = lambda _call: recorder.close()
    in_time(lambda: append(recorder))
    files.on_call = lambda _call: None
    recorder.close()
    assert [line["type"] for line in parsed(folders(spool)[0])] == ["open", "event", "event", "close"]


def test_a_flood_from_inside_one_append_is_refused_beyond_sixteen(spool, open_recorder):
    files = FaultyFiles()
    recorder = open_recorder(files=files)
    append(recorder)
    refused = []

    def flood(_call):
        files.on_call = lambda _call: None
        for _ in range(20):
            try:
                recorder.append(b"event", record_of())
            except JournalError:
                refused.append(1)

    files.on_call = flood
    append(recorder)
    assert len(refused) == 4
    assert numbers(folders(spool)[0]) == list(range(19))


# ------------------------------------------------------------------ the life of a stream


def test_a_stream_opens_with_whose_it_is_and_closes_with_what_it_has_seen(spool, open_recorder):
    recorder = open_recorder(env="test", version="7", instance="i-1")
    append(recorder, 3)
    recorder.close()
    opened, *_, closed = parsed(folders(spool)[0])
    assert (opened["type"], opened["seq"], opened["prev"]) == ("open", 0, "A" * 43)
    assert {name: opened["rec"][name] for name in ("service", "env", "version", "instance", "durability")} == {
        "service": "orders",
        "env": "test",
        "version": "7",
        "instance": "i-1",
        "durability": "journal",
    }
    assert "previous" not in opened["rec"]
    assert (closed["type"], closed["rec"]["seen"], closed["rec"]["recorded"], closed["rec"]["dropped"]) == (
        "close",
        3,
        3,
        0,
    )


def test_the_counters_say_what_the_spool_holds_and_not_what_was_ever_written(spool, open_recorder):
    recorder = open_recorder()
    append(recorder, 3)
    held = Spool(spool).used_bytes()
    (folders(spool)[0] / "stray").write_bytes(b"x" * 1000)  # counts too: the bound of the spool is about files
    recorder.close()
    assert parsed(folders(spool)[0])[-1]["rec"]["spool_bytes"] == held + 1000


def test_a_beat_comes_every_ten_seconds_also_when_idle(spool, open_recorder):
    clock = Clock()
    recorder = open_recorder(monotonic=clock)
    append(recorder)
    recorder.saw_checkpoint(77)
    for _ in range(35):
        clock.sleep(1)
        recorder.upkeep()
    beats = [line["rec"] for line in parsed(folders(spool)[0]) if line["type"] == "beat"]
    assert len(beats) == 3
    assert beats[-1]["checkpoint"] == 77
    assert findings(spool) == []


def heads(spool):
    return {folder.name: parsed(folder)[0]["rec"].get("previous") for folder in folders(spool)}


def test_a_stream_names_the_head_of_the_one_before_it(spool, open_recorder):
    first = open_recorder()
    append(first, 2)
    name = first.stream
    first.close()
    second = open_recorder()
    append(second, 1)
    end = Spool(spool).end(name)
    assert heads(spool)[second.stream] == {"stream": name, "seq": 3, "leaf": end.leaf, "closed": True}


def test_a_stream_that_crashed_is_named_as_not_closed(spool, open_recorder):
    first = open_recorder()
    append(first, 2)
    second = open_recorder()
    append(second, 1)
    assert heads(spool)[second.stream]["seq"] == 2
    assert "closed" not in heads(spool)[second.stream]


def test_the_head_of_a_stream_that_was_delivered_and_removed_is_named_all_the_same(spool, open_recorder):
    first = open_recorder()
    append(first, 2)
    name = first.stream
    first.close()
    opened = Spool(spool)
    outbox = opened.outbox(name)
    outbox.advance(outbox.pending(10, 1 << 20)[-1])
    leaf = opened.end(name).leaf
    opened.retire(outbox)
    assert folders(spool) == []
    second = open_recorder()
    append(second, 1)
    assert heads(spool)[second.stream] == {"stream": name, "seq": 3, "leaf": leaf, "closed": True}


def test_a_recorder_that_was_closed_begins_the_next_stream(spool, open_recorder):
    recorder = open_recorder()
    append(recorder, 2)
    first = recorder.stream
    recorder.close()
    recorder.close()
    append(recorder, 1)
    assert recorder.stream != first
    assert heads(spool)[recorder.stream]["stream"] == first


def test_request_ids_carry_the_stream_that_the_first_record_begins(open_recorder):
    recorder = open_recorder()
    ids = [recorder.new_request_id() for _ in range(3)]
    append(recorder)
    assert ids == [f"{recorder.stream}.{number:x}" for number in (1, 2, 3)]


def test_segments_are_begun_at_their_size_and_never_hold_half_a_line(spool, open_recorder, monkeypatch):
    monkeypatch.setattr("audit_middleware.journal.journal.SEGMENT_BYTES", 2000)
    recorder = open_recorder()
    append(recorder, 50)
    recorder.close()
    (folder,) = folders(spool)
    sizes = [segment.stat().st_size for segment in segments(folder)]
    assert len(sizes) > 10
    assert all(size >= 2000 for size in sizes[:-1])
    assert all(segment.read_bytes().endswith(b"\n") for segment in segments(folder)[:-1])
    assert numbers(folder) == list(range(52))


def test_a_segment_that_cannot_be_begun_costs_no_record(spool, open_recorder, monkeypatch):
    monkeypatch.setattr("audit_middleware.journal.journal.SEGMENT_BYTES", 1000)
    files = FaultyFiles()
    recorder = open_recorder(files=files)
    files.fail("create", 28, name="seg-", after=1, times=5)
    append(recorder, 20)
    assert numbers(folders(spool)[0]) == list(range(21))
    assert len(segments(folders(spool)[0])) > 1
