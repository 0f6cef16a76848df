"""Who delivers which stream: the dead are adopted, the living left alone, nothing undelivered is removed."""

import errno
import os
import threading
import time

import pytest

from audit_middleware.journal.spool import Spool
from audit_middleware.shipping.dispatch import Dispatch
from audit_middleware.shipping.receipt import LogPins
from audit_middleware.shipping.shipper import Shipper
from audit_middleware.testing import FaultyFiles, SimulatedCollector, faults
from tests.journal.kit import Clock, append, folders, lines_of, parsed, recorder_for, segments


@pytest.fixture
def spool(tmp_path):
    return tmp_path / "spool"


@pytest.fixture
def collector():
    return SimulatedCollector()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def living(spool):
    """Makes recorders that live until the test ends."""
    made = []

    def make(count=3, **changes):
        made.append(recorder_for(spool, **changes))
        append(made[-1], count)
        return made[-1]

    yield make
    for recorder in made:
        recorder._writer.abandon()


@pytest.fixture
def dispatch_of(spool, collector, clock):
    made = []

    def make(*, files=None, to=collector, **changes):
        opened = Spool(spool, files) if files else Spool(spool)
        pins = LogPins()
        pins.pin([to.vkey])
        dispatch = Dispatch(opened, Shipper(to, pins, opened.keep_aside, monotonic=clock), monotonic=clock, **changes)
        made.append((dispatch, opened))
        return dispatch

    yield make
    for dispatch, opened in made:
        dispatch.release()
        opened.close()


def die(recorder):
    """The process is gone: its lock is free, its stream not closed."""
    recorder._writer.abandon()


def turns(dispatch, clock, count=12):
    for _ in range(count):
        clock.sleep(7 + dispatch.shipper.backoff.wait_s)
        dispatch.turn()


def test_a_dead_stream_is_delivered_and_removed(spool, collector, living, dispatch_of, clock):
    recorder = living(5)
    stream, whole = recorder.stream, lines_of(folders(spool)[0])
    die(recorder)
    dispatch, adopted = dispatch_of(), []
    dispatch.on_adopted = lambda *what: adopted.append(what)
    turns(dispatch, clock)
    assert collector.stored == whole
    assert folders(spool) == []
    assert adopted == [(stream, 0)]


def test_the_bytes_of_a_torn_line_are_counted_and_not_delivered(spool, collector, living, dispatch_of, clock):
    recorder = living(2)
    die(recorder)
    with open(segments(folders(spool)[0])[0], "ab") as file:
        file.write(b'{"v":1,"half')
    dispatch, adopted = dispatch_of(), []
    dispatch.on_adopted = lambda *what: adopted.append(what)
    turns(dispatch, clock)
    assert len(collector.stored) == 3
    assert [torn for _, torn in adopted] == [12]


def test_a_living_neighbour_is_left_alone(spool, collector, living, dispatch_of, clock):
    living(5)
    turns(dispatch_of(), clock)
    assert collector.posts == []
    assert len(folders(spool)) == 1


def test_a_sidecar_delivers_the_living_and_removes_only_the_dead(spool, collector, living, dispatch_of, clock):
    alive, dead = living(3), living(4)
    die(dead)
    turns(dispatch_of(takes_living=True), clock)
    assert len(collector.stored) == 9
    assert [folder.name for folder in folders(spool)] == [alive.stream]
    append(alive, 2)
    alive.close()


def test_the_own_stream_is_delivered_and_kept(spool, collector, living, dispatch_of, clock):
    recorder = living(3)
    dispatch = dispatch_of(own_stream=lambda: recorder.stream)
    turns(dispatch, clock)
    append(recorder, 2)
    turns(dispatch, clock)
    assert len(collector.stored) == 6
    assert len(folders(spool)) == 1


def test_a_backlog_of_its_own_keeps_no_dead_stream_waiting(spool, collector, living, dispatch_of, clock):
    recorder, dead = living(2500), living(10)
    name = dead.stream
    die(dead)
    dispatch = dispatch_of(own_stream=lambda: recorder.stream)
    turns(dispatch, clock, 2)
    assert name in {line.split(b'"stream":"')[1][:22].decode() for line in collector.stored}


def test_many_dead_streams_are_delivered_in_few_batches(spool, collector, dispatch_of, clock):
    for _ in range(60):
        recorder = recorder_for(spool)
        append(recorder, 1)
        die(recorder)
    turns(dispatch_of(), clock, 4)
    assert len(collector.stored) == 120
    assert len(collector.posts) < 5
    assert folders(spool) == []


def test_a_stream_whose_writer_died_after_it_was_delivered_is_removed(spool, living, dispatch_of, clock):
    recorder = living(3)
    dispatch = dispatch_of(takes_living=True)
    turns(dispatch, clock)
    assert len(folders(spool)) == 1
    die(recorder)
    turns(dispatch, clock, 2)
    assert folders(spool) == []


def test_what_is_written_between_the_last_look_and_the_death_of_the_writer_is_delivered(
    spool, collector, living, dispatch_of, clock
):
    recorder = living(3)
    dispatch = dispatch_of(takes_living=True)
    turns(dispatch, clock)
    append(recorder, 2)
    recorder.close()
    dispatch.scan()
    assert len(folders(spool)) == 1
    turns(dispatch, clock)
    assert len(collector.stored) == 7


def test_two_adopters_never_deliver_one_stream_at_the_same_time(spool, collector, living, dispatch_of, clock):
    die(living(5))
    other = SimulatedCollector()
    first, second = dispatch_of(), dispatch_of(to=other)
    collector.usually = faults.lose_request
    turns(first, clock, 2)
    turns(second, clock, 4)
    assert other.posts == []
    first.release()
    turns(second, clock, 4)
    assert len(other.stored) == 6
    assert folders(spool) == []


def test_many_adopters_at_once_store_each_record_once(spool, dispatch_of):
    whole = []
    for _ in range(15):
        recorder = recorder_for(spool)
        append(recorder, 4)
        whole += lines_of(spool / "streams" / recorder.stream)
        die(recorder)
    collectors = [SimulatedCollector() for _ in range(4)]
    stop = threading.Event()

    def adopt(mine):
        opened = Spool(spool)
        pins = LogPins()
        pins.pin([mine.vkey])
        dispatch = Dispatch(opened, Shipper(mine, pins, opened.keep_aside))
        while not stop.is_set() and folders(spool):
            dispatch.scan()
            dispatch.turn()
            time.sleep(0.002)
        dispatch.release()
        opened.close()

    threads = [threading.Thread(target=adopt, args=(mine,)) for mine in collectors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(15)
    stop.set()
    assert sorted(line for mine in collectors for line in mine.stored) == sorted(whole)
    assert folders(spool) == []


def test_an_adopter_that_dies_in_the_middle_leaves_the_rest_to_the_next(spool, collector, living, dispatch_of, clock):
    recorder = living(9)
    whole = lines_of(folders(spool)[0])
    die(recorder)
    first = dispatch_of()
    collector.script = [faults.only_first(4), faults.lose_response]
    turns(first, clock, 2)
    first.release()
    turns(dispatch_of(), clock)
    assert collector.stored == whole


def test_a_delivered_stream_is_named_by_the_next_one_after_it_was_removed(spool, living, dispatch_of, clock):
    recorder = living(3)
    name = recorder.stream
    recorder.close()
    turns(dispatch_of(), clock)
    assert folders(spool) == []
    living(1)
    assert parsed(folders(spool)[0])[0]["rec"]["previous"]["stream"] == name


@pytest.mark.parametrize("error", [errno.EMFILE, errno.EIO])
def test_nothing_is_removed_while_it_cannot_be_read(spool, collector, living, dispatch_of, clock, error):
    die(living(3))
    files = FaultyFiles()
    dispatch = dispatch_of(files=files)
    for method, name in (("open_existing", "seg-"), ("pread", "seg-"), ("open_existing", "lock")):
        files.fail(method, error, name=name, times=5)
        turns(dispatch, clock, 3)
        assert len(folders(spool)) == 1
        files.heal()
    turns(dispatch, clock)
    assert len(collector.stored) == 4
    assert folders(spool) == []


def test_a_stream_with_a_foreign_file_is_delivered_and_never_removed(spool, collector, living, dispatch_of, clock):
    die(living(3))
    os.mkfifo(folders(spool)[0] / "seg-0000000001.ndjson")
    turns(dispatch_of(), clock)
    assert len(collector.stored) == 4
    assert len(folders(spool)) == 1


def test_a_damaged_line_is_put_aside_and_the_rest_delivered(spool, collector, living, dispatch_of, clock):
    die(living(4))
    (segment,) = segments(folders(spool)[0])
    lines = segment.read_bytes().split(b"\n")
    segment.write_bytes(b"\n".join([lines[0], b"\0" * 300_000, *lines[1:]]))
    turns(dispatch_of(), clock)
    assert [line for line in lines if line] == [line for line in collector.stored if line in lines]
    kept = sum(path.stat().st_size for path in (spool / "quarantine").rglob("*.line"))
    assert kept + sum(len(line) for line in collector.quarantined) == 300_000
    assert folders(spool) == []


def test_an_open_circuit_pauses_adoption(spool, collector, living, dispatch_of, clock):
    die(living(3))
    dispatch = dispatch_of()
    collector.usually = faults.answering(503)
    turns(dispatch, clock, 8)
    die(living(3))
    turns(dispatch, clock, 3)
    assert all(len(post.lines) == 1 for post in collector.posts[6:])
    collector.usually = faults.accept
    turns(dispatch, clock, 8)
    assert len(collector.stored) == 8


def test_half_made_folders_are_swept(spool, living, dispatch_of, clock):
    living()
    path = spool / "streams" / (".new-" + "A" * 22)
    path.mkdir(mode=0o700)
    os.utime(path, (0, 0))
    turns(dispatch_of(), clock, 2)
    assert not path.exists()
