"""Durability fsync: what a failed sync does, and who waits for a good one."""

import contextlib
import errno
import threading
import time

import pytest

from audit_middleware.errors import JournalError
from audit_middleware.testing import FaultyFiles
from tests.journal.kit import Clock, append, findings, folders, lines_of, numbers, record_of, segments


@pytest.fixture
def files():
    return FaultyFiles()


@pytest.fixture
def recorder(open_recorder, files):
    return open_recorder(files=files, durability="fsync", monotonic=Clock())


def reached(watermark):
    return watermark._value


def synced_segments(files):
    return [call.name for call in files.asked("datasync", "seg-")]


def synced_after_failure(files):
    """The segments that were synced again though a sync of them had failed."""
    failed, again = set(), []
    for call in files.asked("datasync", "seg-"):
        again += [call.name] if call.name in failed else []
        failed |= {call.name} if call.error else set()
    return again


def test_a_sync_moves_the_watermark_to_what_was_appended_before_it(recorder, files):
    assert reached(recorder.synced) == -1
    append(recorder, 3)
    recorder.sync()
    assert reached(recorder.synced) == 3
    recorder.sync()
    assert len(synced_segments(files)) == 1


def test_lines_appended_while_the_disk_works_wait_for_the_next_sync(recorder, files):
    append(recorder, 2)

    def append_meanwhile(call):
        if call.method == "datasync":
            files.on_call = lambda _call: None
            append(recorder, 2)

    files.on_call = append_meanwhile
    recorder.sync()
    assert reached(recorder.synced) == 2
    recorder.sync()
    assert reached(recorder.synced) == 4


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_file_whose_sync_failed_is_never_synced_again(recorder, files, spool, after):
    """fsyncgate: the second sync of a file would "succeed" though the pages were lost."""
    files.fail("datasync", errno.EIO, name="seg-", after=after)
    for _ in range(5):
        append(recorder, 2)
        recorder.sync()
        assert reached(recorder.synced) == recorder._writer.sealer.seq - 1
    assert not synced_after_failure(files)
    assert sorted(set(numbers(folders(spool)[0]))) == list(range(11))
    assert findings(spool) == []


def test_the_lines_of_a_failed_sync_stand_synced_in_a_new_segment(recorder, files, spool):
    append(recorder, 2)
    recorder.sync()
    append(recorder, 3)
    files.fail("datasync", errno.EIO, name="seg-")
    recorder.sync()
    first, second = segments(folders(spool)[0])
    assert second.read_bytes().count(b"\n") == 3
    assert first.read_bytes().endswith(second.read_bytes())
    assert files.asked("sync_folder")[-1].error is None


def test_a_sync_that_cannot_be_made_good_is_an_error_and_moves_no_watermark(recorder, files, spool):
    append(recorder, 2)
    files.fail("datasync", errno.EIO, name="seg-", times=4)
    for _ in range(3):
        with pytest.raises(JournalError):
            recorder.sync()
        assert reached(recorder.synced) == -1
        append(recorder)
    recorder.sync()
    assert reached(recorder.synced) == 5
    assert not synced_after_failure(files)
    assert sorted(set(numbers(folders(spool)[0]))) == list(range(6))
    assert findings(spool) == []


@pytest.mark.parametrize("method", ["create", "write", "pread", "sync_folder"])
def test_whatever_fails_while_a_failed_sync_is_made_good_no_watermark_moves(recorder, files, spool, method):
    append(recorder, 2)
    files.fail("datasync", errno.EIO, name="seg-")
    files.fail(method, errno.EIO, after=0)
    with pytest.raises(JournalError):
        recorder.sync()
    assert reached(recorder.synced) == -1
    append(recorder)
    recorder.sync()
    assert reached(recorder.synced) == 3
    assert not synced_after_failure(files)
    assert sorted(set(numbers(folders(spool)[0]))) == list(range(4))
    assert findings(spool, besides=("unclosed",)) == []


def test_a_copy_that_fills_the_disk_leaves_no_half_line_to_append_to(recorder, files, spool):
    append(recorder, 3)
    files.fail("datasync", errno.EIO, name="seg-")
    files.shorten(900, name="seg-0000000001")
    with pytest.raises(JournalError):
        recorder.sync()
    append(recorder, 2)
    recorder.sync()
    assert sorted(set(numbers(folders(spool)[0]))) == list(range(6))
    assert findings(spool) == []


def test_a_segment_that_was_left_while_its_sync_failed_is_not_synced_again_either(recorder, files, spool, monkeypatch):
    append(recorder, 2)

    def rotate_meanwhile(call):
        if call.method == "datasync":
            files.on_call = lambda _call: None
            monkeypatch.setattr("audit_middleware.journal.journal.SEGMENT_BYTES", 1)
            append(recorder)
            monkeypatch.undo()

    files.on_call = rotate_meanwhile
    files.fail("datasync", errno.EIO, name="seg-0000000000", times=2)
    recorder.sync()
    append(recorder)
    recorder.sync()
    assert synced_segments(files).count("seg-0000000000.ndjson") == 1
    assert reached(recorder.synced) == 4
    assert findings(spool) == []


@pytest.mark.parametrize("after", [0, 1])
def test_descriptors_that_run_out_leave_everything_to_the_next_sync(recorder, files, spool, after, monkeypatch):
    monkeypatch.setattr("audit_middleware.journal.journal.SEGMENT_BYTES", 1)
    append(recorder, 3)
    files.fail("duplicate", errno.EMFILE, after=after)
    with pytest.raises(JournalError):
        recorder.sync()
    assert reached(recorder.synced) == -1
    recorder.sync()
    assert set(synced_segments(files)) >= {segment.name for segment in segments(folders(spool)[0])}
    assert reached(recorder.synced) == 3


def test_every_segment_is_synced_once_the_journal_goes_on_to_the_next(recorder, files, spool, monkeypatch):
    monkeypatch.setattr("audit_middleware.journal.journal.SEGMENT_BYTES", 1200)
    append(recorder, 30)
    recorder.sync()
    assert set(synced_segments(files)) == {segment.name for segment in segments(folders(spool)[0])}
    assert len(segments(folders(spool)[0])) > 5
    assert len(lines_of(folders(spool)[0])) == 31


def test_a_new_segment_is_synced_into_its_folder(recorder, files, monkeypatch):
    append(recorder)
    recorder.sync()
    before = len(files.asked("sync_folder"))
    monkeypatch.setattr("audit_middleware.journal.journal.SEGMENT_BYTES", 1)
    append(recorder)
    recorder.sync()
    assert len(files.asked("sync_folder")) == before + 1


def test_a_stream_that_begins_anew_inherits_no_watermark(recorder):
    append(recorder, 20)
    recorder.sync()
    old = recorder.watermark
    recorder.close()
    (seq,) = append(recorder)
    assert recorder.watermark is not old
    assert not recorder.watermark.wait(seq, 0)
    recorder.sync()
    assert recorder.watermark.wait(seq, 0)


def test_an_acknowledgement_of_another_stream_releases_nobody(open_recorder):
    recorder = open_recorder(durability="collector")
    append(recorder, 2)
    recorder.acknowledge("B" * 21 + "A", 2)
    assert not recorder.watermark.wait(2, 0)
    recorder.acknowledge(recorder.stream, 1)
    assert recorder.watermark.wait(1, 0)
    assert not recorder.watermark.wait(2, 0)


def test_closing_syncs_and_releases_whoever_waits(recorder):
    append(recorder, 2)
    watermark = recorder.watermark
    recorder.close()
    assert watermark.wait(2, 0)


def test_no_descriptor_is_left_behind_by_failing_syncs(recorder, files, fd_count):
    append(recorder, 2)
    recorder.sync()
    before = fd_count()
    for _ in range(20):
        append(recorder)
        files.fail("datasync", errno.EIO, name="seg-", times=2)
        with contextlib.suppress(JournalError):
            recorder.sync()
        append(recorder)
        recorder.sync()
    assert fd_count() == before


def test_threads_that_wait_are_released_by_one_sync(recorder):
    appended = append(recorder, 8)
    results = []
    threads = [
        threading.Thread(target=lambda seq=seq: results.append(recorder.watermark.wait(seq, 5))) for seq in appended
    ]
    for thread in threads:
        thread.start()
    recorder.sync()
    for thread in threads:
        thread.join(5)
    assert results == [True] * 8
    assert recorder.watermark._waiters == []


def test_fsync_appends_do_not_wait_for_the_disk_and_a_slow_sync_holds_no_lock(recorder, files):
    append(recorder)
    working, go_on = threading.Event(), threading.Event()

    def be_slow(call):
        if call.method == "datasync":
            working.set()
            go_on.wait(5)

    files.on_call = be_slow
    thread = threading.Thread(target=recorder.sync)
    thread.start()
    assert working.wait(5)
    began = time.monotonic()
    recorder.append(b"event", record_of())
    assert time.monotonic() - began < 1
    go_on.set()
    thread.join(5)
