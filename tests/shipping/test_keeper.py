"""The threads behind a recorder, with real sockets: delivery, waiting responses, shutdown, forks."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from audit_middleware.journal.recorder import Recorder
from audit_middleware.journal.spool import Spool
from audit_middleware.shipping.keeper import Keeper
from audit_middleware.testing import faults
from tests.journal.kit import KEYRING, append, finish_child, folders, in_child, lines_of, parsed, recorder_for
from tests.shipping.kit import wait_until


@pytest.fixture
def spool(tmp_path):
    return tmp_path / "spool"


@pytest.fixture
def keep(spool, monkeypatch):
    """Starts a recorder with its keeper, as the pipeline does."""
    monkeypatch.setattr("audit_middleware.shipping.keeper.LINGER_S", 0.02)
    monkeypatch.setattr("audit_middleware.shipping.dispatch.SCAN_EVERY_S", 0.1)
    kept = []
    others = set(threading.enumerate())

    def make(*urls, **changes):
        recorder = recorder_for(spool, collector_url=urls, **changes)
        keeper = Keeper(recorder.settings, recorder)
        recorder.on_begin = keeper.start
        kept.append(keeper)
        return recorder, keeper

    yield make
    for keeper in kept:
        keeper.stop()
    wait_until(lambda: not set(threading.enumerate()) - others, 12)


def test_records_are_delivered_while_the_application_runs_and_the_rest_at_its_end(served, keep, spool):
    recorder, keeper = keep(served.url)
    append(recorder, 5)
    wait_until(lambda: len(served.collector.stored) == 6)
    append(recorder, 3)
    keeper.stop()
    wait_until(lambda: len(served.collector.stored) == 10)
    assert json.loads(served.collector.stored[-1])["type"] == "close"
    assert folders(spool) == []


def test_a_stream_that_begins_and_ends_between_two_turns_of_the_shipper_is_delivered(served, keep, spool, monkeypatch):
    monkeypatch.setattr("audit_middleware.shipping.dispatch.SCAN_EVERY_S", 60)
    monkeypatch.setattr("audit_middleware.shipping.keeper.LINGER_S", 5)
    recorder, keeper = keep(served.url)
    keeper.start()
    wait_until(lambda: keeper._line is not None)
    time.sleep(0.3)  # it has looked once, and found nothing
    append(recorder, 3)
    keeper.stop()
    assert [json.loads(line)["type"] for line in served.collector.stored][-1] == "close"
    assert folders(spool) == []


def test_records_that_come_one_by_one_are_delivered_together(served, keep, monkeypatch):
    monkeypatch.setattr("audit_middleware.shipping.keeper.LINGER_S", 0.3)
    recorder, keeper = keep(served.url)
    for _ in range(60):
        append(recorder)
        time.sleep(0.01)
    wait_until(lambda: len(served.collector.stored) >= 60)
    assert len(served.collector.posts) <= 6
    keeper.stop()
    assert len(served.collector.stored) == 62


def test_a_backlog_is_delivered_batch_after_batch_without_a_pause(served, keep, monkeypatch):
    monkeypatch.setattr("audit_middleware.shipping.keeper.LINGER_S", 30)
    recorder, keeper = keep(served.url)
    recorder.on_begin = lambda: None
    append(recorder, 1600)
    keeper.start()
    wait_until(lambda: len(served.collector.stored) == 1601)


def test_an_idle_process_is_delivered_without_another_record(served, keep):
    recorder, _ = keep(served.url)
    append(recorder)
    wait_until(lambda: len(served.collector.stored) == 2)


def test_the_first_record_starts_the_threads_once(served, keep):
    def ours():
        return sorted(
            thread.name for thread in threading.enumerate() if thread.name in {"audit-keeper", "audit-shipper"}
        )

    recorder, keeper = keep(served.url)
    assert ours() == []
    append(recorder, 3)
    keeper.start()
    assert ours() == ["audit-keeper", "audit-shipper"]
    keeper.stop()


@pytest.mark.parametrize("changes", [{"shipper": "external"}, {"urls": ()}])
def test_without_collector_or_with_a_sidecar_no_thread_ships(served, keep, changes):
    recorder, keeper = keep(*changes.pop("urls", (served.url,)), **changes)
    append(recorder)
    assert [thread.name for thread in keeper._threads] == ["audit-keeper"]


def test_a_response_that_waits_for_the_disk_is_released_at_once(keep):
    recorder, keeper = keep(durability="fsync")
    began = time.monotonic()
    for _ in range(5):
        (seq,) = append(recorder)
        keeper.wake()
        assert recorder.watermark.wait(seq, 5)
    assert time.monotonic() - began < 3


def test_a_response_that_waits_for_the_collector_is_released_by_its_receipt(served, keep):
    recorder, keeper = keep(served.url, durability="collector")
    (seq,) = append(recorder)
    keeper.wake()
    assert recorder.watermark.wait(seq, 5)
    assert len(served.collector.stored) >= seq + 1


def test_a_partial_receipt_releases_only_what_it_covers(served, keep):
    served.collector.script = [faults.only_first(3)]
    served.collector.usually = faults.answering(503)
    recorder, keeper = keep(served.url, durability="collector")
    recorder.on_begin = lambda: None
    append(recorder, 6)
    keeper.start()
    assert recorder.watermark.wait(2, 5)
    wait_until(lambda: len(served.collector.posts) == 2)
    assert recorder.watermark.wait(3, 0.1) is False


def test_a_collector_that_comes_back_gets_everything_once(served, keep, spool):
    served.handle = lambda request, body: request.send(503, b"", [("retry-after", "0")]) or True
    recorder, _ = keep(served.url)
    append(recorder, 20)
    wait_until(lambda: len(served.requests) >= 2)
    whole = lines_of(folders(spool)[0])
    served.handle = None
    wait_until(lambda: len(served.collector.stored) >= 21)
    assert served.collector.stored[:21] == whole[:21]


def test_the_journal_of_a_dead_neighbour_is_adopted_and_the_adoption_recorded(served, keep, spool):
    dead = recorder_for(spool)
    append(dead, 3)
    stream = dead.stream
    dead._writer.abandon()
    recorder, _ = keep(served.url)
    append(recorder)
    wait_until(lambda: not (spool / "streams" / stream).exists())
    (mine,) = [folder for folder in folders(spool) if folder.name == recorder.stream]
    wait_until(lambda: any(line["rec"].get("action") == "audit.spool.adopted" for line in parsed(mine)))
    said = next(line["rec"] for line in parsed(mine) if line["rec"].get("action") == "audit.spool.adopted")
    assert said["details"] == {"stream": stream, "torn_bytes": 0}
    assert said["service"] == parsed(mine)[0]["rec"]["service"] == "orders"


@pytest.mark.parametrize("durability", ["journal", "fsync", "memory"])
def test_stopping_with_a_black_holed_collector_takes_two_seconds_and_keeps_the_journal(
    keep, black_hole, spool, durability
):
    recorder, keeper = keep(black_hole, durability=durability)
    append(recorder, 3)
    time.sleep(0.2)
    began = time.monotonic()
    keeper.stop()
    assert time.monotonic() - began < 2.5
    if durability != "memory":
        assert [line["type"] for line in parsed(folders(spool)[0])] == ["open", "event", "event", "event", "close"]


def test_a_record_after_the_stop_begins_a_new_stream_and_is_delivered(served, keep):
    recorder, keeper = keep(served.url)
    append(recorder)
    keeper.stop()
    append(recorder)
    wait_until(lambda: len({json.loads(line)["stream"] for line in served.collector.stored}) == 2)


def test_memory_mode_is_delivered_too(served, keep, spool):
    recorder, keeper = keep(served.url, durability="memory")
    append(recorder, 4)
    wait_until(lambda: len(served.collector.stored) == 5)
    keeper.stop()
    wait_until(lambda: len(served.collector.stored) == 6)
    assert not spool.exists()


def test_a_forked_child_ships_its_own_stream_with_threads_of_its_own(served, keep):
    recorder, _ = keep(served.url)
    append(recorder, 2)
    wait_until(lambda: len(served.collector.stored) == 3)

    def child():
        last = append(recorder, 2)[-1]
        return [recorder.stream, recorder.acknowledged.wait(last, 20)]  # on a machine that does much else

    stream, was_delivered = in_child(child)
    assert was_delivered
    assert sum(json.loads(line)["stream"] == stream for line in served.collector.stored) == 3
    append(recorder)
    wait_until(
        lambda: len(served.collector.stored) >= 7
    )  # one more when it has said already that it adopted the child's


def test_a_child_that_outlives_its_parent_keeps_nobody_from_delivering_the_parents_journal(spool, black_hole):
    """The shipper's locks are inherited by a fork too; a child that kept them would hide the stream for its life."""
    reader, writer = os.pipe()
    go_on, let_go = os.pipe()

    def parent():
        recorder = recorder_for(spool, collector_url=(black_hole,))
        keeper = Keeper(recorder.settings, recorder)
        recorder.on_begin = keeper.start
        append(recorder, 2)
        wait_until(lambda: keeper._line is not None and keeper._line._dispatch._outboxes)
        if os.fork() == 0:
            os.close(writer)
            os.close(let_go)
            os.read(go_on, 1)
            os._exit(0)
        return recorder.stream

    pid = os.fork()
    if pid == 0:
        finish_child(parent, writer)
    os.close(writer)
    with open(reader, "rb") as pipe:
        answer = json.loads(pipe.read())
    os.waitpid(pid, 0)
    try:
        outbox = Spool(spool).outbox(answer["value"])
        assert outbox is not None, "the child holds the outbox of its dead parent"
        assert outbox.writer_is_dead()
        assert len(outbox.pending(10, 1 << 20)) == 3
        outbox.release()
    finally:
        os.close(let_go)
        os.close(go_on)


def test_a_host_that_starts_no_thread_still_journals(served, keep, spool, monkeypatch):
    def refuse(_thread):
        raise RuntimeError("can't start new thread")

    recorder, keeper = keep(served.url)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    append(recorder, 3)
    monkeypatch.undo()
    keeper.stop()
    assert len(lines_of(folders(spool)[0])) == 5


def run_python(program, **environ):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
        env={**os.environ, **environ},
    )


def test_importing_and_constructing_starts_no_thread_opens_nothing_and_imports_nothing_heavy(spool):
    program = """
import sys, threading, os
before = set(os.listdir("/proc/self/fd"))
import audit_middleware
from pathlib import Path
async def app(scope, receive, send): ...
settings = audit_middleware.Settings(spool_dir=Path(sys.argv[-1]) if len(sys.argv) > 1 else Path(os.environ["SPOOL"]),
    keys="k1:" + "A" * 43, collector_url=("http://127.0.0.1:9",))
audit_middleware.Pipeline(settings, "orders")
heavy = {"httpx", "starlette", "opentelemetry.sdk", "sqlite3", "click"} & set(sys.modules)
assert not heavy, heavy
assert threading.active_count() == 1, threading.enumerate()
assert len(os.listdir("/proc/self/fd")) <= len(before), os.listdir("/proc/self/fd")
assert not os.path.exists(os.environ["SPOOL"])
"""
    done = run_python(program, SPOOL=str(spool))
    assert done.returncode == 0, done.stderr


def test_a_process_that_ends_closes_its_stream_and_exits_in_time_although_nobody_answers(spool, black_hole):
    program = """
import os, sys
from pathlib import Path
import audit_middleware
from tests.journal.kit import record_of
settings = audit_middleware.Settings(spool_dir=Path(os.environ["SPOOL"]), keys="k1:" + "A" * 43,
    spool_min_free=0, collector_url=(os.environ["URL"],))
pipeline = audit_middleware.Pipeline(settings, "orders")
pipeline.event(record_of())
sys.exit(7)
"""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    began = time.monotonic()
    done = run_python(program, SPOOL=str(spool), URL=black_hole, PYTHONPATH=root)
    assert (done.returncode, done.stderr) == (7, "")
    assert time.monotonic() - began < 6
    assert [line["type"] for line in parsed(folders(spool)[0])] == ["open", "event", "close"]


def test_a_recorder_that_is_dropped_is_not_kept_alive_by_its_fork_hook(spool):
    import gc
    import weakref

    recorder = Recorder(recorder_for(spool).settings, KEYRING)
    keeper = Keeper(recorder.settings, recorder)
    dropped = weakref.ref(recorder), weakref.ref(keeper)
    del recorder, keeper
    gc.collect()
    assert [each() for each in dropped] == [None, None]
    assert in_child(lambda: True)
