"""What the disk does to an append: it takes part of a line, it is full, it fails."""

import errno
import json

import pytest

from audit_middleware.errors import JournalError
from audit_middleware.journal.spool import Spool
from audit_middleware.sealing.seal import Sealer
from audit_middleware.testing import FaultyFiles
from tests.journal.kit import KEYRING, Clock, append, findings, folders, lines_of, numbers, parsed, record_of, segments

FULL = [errno.ENOSPC, errno.EDQUOT]
SEGMENT = "seg-"


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def files():
    return FaultyFiles()


@pytest.fixture
def recorder(open_recorder, files, clock):
    return open_recorder(files=files, monotonic=clock)


def lose(recorder, count=1):
    for number in range(count):
        with pytest.raises(JournalError):
            recorder.append(b"event", record_of(number))


def drops(folder):
    return [line["rec"] for line in parsed(folder) if line["type"] == "drop"]


def test_a_short_write_at_every_byte_leaves_whole_lines_only(spool, files):
    opened = Spool(spool)
    sealer = Sealer(KEYRING, bytes(16))
    size = len(sealer.seal(b"event", b"2026-11-23T07:00:00.000001Z", b"{}")) + 1
    journal = Spool(spool, files).begin(sealer.stream, {})
    for keep in range(1, size):
        line = sealer.seal(b"event", b"2026-11-23T07:00:00.000001Z", b"{}")
        files.shorten(keep, name=SEGMENT)
        with pytest.raises(JournalError) as caught:
            journal.append(line)
        assert caught.value.errno == errno.ENOSPC
        assert len(lines_of(folders(spool)[0])) == keep - 1
        journal.append(line)
        sealer.commit(line)
    journal.close()
    assert segments(folders(spool)[0])[0].read_bytes().count(b"\n") == size - 1
    assert findings(spool, besides=("unclosed", "schema")) == []
    opened.close()


def test_a_short_write_whose_rest_goes_through_is_a_whole_line(recorder, files, spool):
    append(recorder)
    files.shorten(7, name=SEGMENT, times=0)
    files._faults.pop()
    append(recorder, 2)
    assert numbers(folders(spool)[0]) == [0, 1, 2, 3]


def test_half_a_line_that_cannot_be_cut_off_is_left_behind_with_its_segment(recorder, files, spool, clock):
    append(recorder)
    files.shorten(50, name=SEGMENT)
    files.fail("truncate", errno.EIO)
    lose(recorder)
    clock.sleep(2)
    append(recorder, 2)
    assert len(segments(folders(spool)[0])) == 2

    assert {rule for severity, rule in findings(spool) if severity != "note"} == set()
    assert numbers(folders(spool)[0]) == [0, 1, 3, 4, 5]


def test_nothing_is_ever_glued_to_half_a_line_even_if_no_segment_can_be_made(recorder, files, spool, clock):
    append(recorder)
    files.shorten(50, name=SEGMENT)
    files.fail("truncate", errno.EIO)
    files.fail("create", errno.ENOSPC, name=SEGMENT, times=3)
    lose(recorder, 2)
    clock.sleep(2)
    lose(recorder)
    files.heal()
    clock.sleep(2)
    append(recorder)
    assert [severity for severity, _ in findings(spool) if severity != "note"] == []
    for segment in segments(folders(spool)[0]):
        assert all(json.loads(line) for line in segment.read_bytes().split(b"\n")[:-1])


@pytest.mark.parametrize("error", [*FULL, errno.EFBIG, errno.EIO, errno.EROFS, errno.ESTALE])
def test_a_record_the_disk_refuses_is_a_numbered_and_explained_hole(recorder, files, spool, clock, error):
    append(recorder, 2)
    files.fail("write", error, name=SEGMENT, times=99)
    lose(recorder, 3)
    files.heal()
    clock.sleep(2)
    append(recorder, 2)
    (folder,) = folders(spool)
    assert sum(drop["count"] for drop in drops(folder)) == 3
    assert (drops(folder)[0]["first"], drops(folder)[-1]["last"]) == (3, 5)
    assert {rule for _, rule in findings(spool)} == {"given_up", "drop"}
    assert recorder.tally.dropped == 3


def test_the_reason_of_a_drop_is_the_disks_own(recorder, files, spool, clock):
    append(recorder)
    files.fail("write", errno.EROFS, name=SEGMENT)
    lose(recorder)
    clock.sleep(2)
    append(recorder)
    (drop,) = drops(folders(spool)[0])
    assert "Read-only file system" in drop["reason"]


@pytest.mark.parametrize("error", FULL)
def test_a_full_disk_gives_the_reserve_up_so_that_the_drop_is_explained_at_once(recorder, files, spool, error):
    append(recorder)
    (folder,) = folders(spool)
    assert (folder / "reserve").stat().st_size == 65536
    files.fail("write", error, name=SEGMENT)
    lose(recorder)
    assert not (folder / "reserve").exists()
    assert [(drop["first"], drop["last"], drop["count"]) for drop in drops(folder)] == [(2, 2, 1)]


def test_the_reserve_is_made_again_after_a_full_disk(recorder, files, spool, clock):
    append(recorder)
    files.fail("write", errno.ENOSPC, name=SEGMENT)
    lose(recorder, 2)
    clock.sleep(2)
    append(recorder)
    assert (folders(spool)[0] / "reserve").stat().st_size == 65536


def test_a_disk_that_fills_up_and_empties_again_loses_only_what_it_refused(recorder, files, spool, clock):
    append(recorder, 3)
    files.room = 1000
    kept = refused = 0
    for number in range(300):
        clock.sleep(0.25)
        try:
            recorder.append(b"event", record_of(number))
            kept += 1
        except JournalError:
            refused += 1
        if number == 200:
            files.heal()
    (folder,) = folders(spool)
    assert sum(line["type"] == "event" for line in parsed(folder)) == 3 + kept
    assert sum(drop["count"] for drop in drops(folder)) == refused
    assert 60 < refused < 200
    assert {rule for _, rule in findings(spool, besides=("unclosed",))} == {"given_up", "drop"}


def test_a_full_disk_is_tried_again_each_second_under_steady_traffic(recorder, files, spool, clock):
    append(recorder)
    files.fail("write", errno.ENOSPC, name=SEGMENT, times=2)
    outcomes = []
    for number in range(40):
        clock.sleep(0.1)
        try:
            recorder.append(b"event", record_of(number))
            outcomes.append("kept")
        except JournalError:
            outcomes.append("lost")
    assert outcomes.count("lost") <= 12
    assert outcomes[-20:] == ["kept"] * 20


def test_the_disk_is_not_asked_for_every_record_while_it_fails(recorder, files, clock):
    append(recorder)
    files.fail("write", errno.EROFS, name=SEGMENT, times=10**6)
    asked = len(files.asked("write", SEGMENT))
    lose(recorder, 500)
    assert len(files.asked("write", SEGMENT)) - asked < 5


def test_a_bad_segment_is_left_and_the_line_goes_into_a_new_one(recorder, files, spool):
    append(recorder, 2)
    files.fail("write", errno.EIO, name=SEGMENT)
    append(recorder, 2)
    (folder,) = folders(spool)
    assert len(segments(folder)) == 2
    assert numbers(folder) == [0, 1, 2, 3, 4]
    assert findings(spool) == []


def test_a_limit_on_the_size_of_files_begins_a_new_segment(recorder, files, spool):
    append(recorder, 2)
    files.shorten(100, name=SEGMENT, error=errno.EFBIG)
    append(recorder, 2)
    assert numbers(folders(spool)[0]) == [0, 1, 2, 3, 4]
    assert len(segments(folders(spool)[0])) == 2
    assert findings(spool, besides=("unclosed",)) == []


def test_a_disk_that_fails_for_long_is_not_littered_with_empty_segments(recorder, files, spool, clock):
    append(recorder)
    files.fail("write", errno.EIO, name=SEGMENT, times=10**6)
    for _ in range(50):
        lose(recorder)
        clock.sleep(1.5)
    assert len(segments(folders(spool)[0])) == 2


def test_a_disk_that_is_full_from_the_start_takes_the_records_once_it_has_room(recorder, files, spool, clock):
    files.room = 0
    lose(recorder, 3)
    for _ in range(20):
        clock.sleep(1.5)
        lose(recorder)
    assert folders(spool) == []
    assert [path.name for path in (spool / "streams").iterdir()] == []
    files.heal()
    clock.sleep(2)
    append(recorder)
    (folder,) = folders(spool)
    assert [(drop["first"], drop["last"], drop["count"]) for drop in drops(folder)] == [(1, 23, 23)]
    assert findings(spool) == [("note", "given_up"), ("note", "drop")]


@pytest.mark.parametrize(
    "method", ["make_folder", "open_folder", "create", "lock", "allocate", "sync_folder", "rename", "write"]
)
def test_whichever_call_fails_at_the_birth_of_a_stream_the_next_try_works(spool, open_recorder, method, clock):
    for after in range(8):
        files = FaultyFiles()
        files.fail(method, errno.EIO, after=after)
        recorder = open_recorder(files=files, monotonic=clock)
        for number in range(3):
            clock.sleep(2)
            try:
                recorder.append(b"event", record_of(number))
            except JournalError:
                continue
        recorder.append(b"event", record_of())
        recorder.close()
        clock.sleep(2)
    assert {severity for severity, _ in findings(spool)} <= {"note"}
    assert not [path for path in (spool / "streams").iterdir() if path.name.startswith(".new-")]


def test_a_failed_begin_does_not_hide_the_head_of_the_stream_before(spool, open_recorder, files, clock):
    first = open_recorder()
    append(first, 2)
    first.close()
    files.fail("write", errno.ENOSPC, name=SEGMENT)
    second = open_recorder(files=files, monotonic=clock)
    lose(second)
    clock.sleep(2)
    append(second)
    (opened,) = [line for folder in folders(spool) for line in parsed(folder)[:1] if line["rec"].get("previous")]
    assert opened["rec"]["previous"]["seq"] == 3


def test_beats_between_losses_are_in_no_drop_record_that_counts_one(spool, recorder, files, clock):
    append(recorder)
    files.fail("write", errno.ENOSPC, name=SEGMENT)
    lose(recorder)
    clock.sleep(11)
    recorder.upkeep()
    files.fail("write", errno.EROFS, name=SEGMENT)
    clock.sleep(2)
    lose(recorder)
    clock.sleep(2)
    append(recorder)
    (folder,) = folders(spool)
    written = set(numbers(folder))
    for drop in drops(folder):
        assert written.isdisjoint(range(drop["first"], drop["last"] + 1))
        assert drop["count"] == drop["last"] - drop["first"] + 1
