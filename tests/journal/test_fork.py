"""Forks of every kind: the child writes a stream of its own, the parent's goes on as if nothing had happened."""

import ctypes
import multiprocessing
import os
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from audit_middleware.journal.files import REAL_FILES
from audit_middleware.journal.spool import Spool
from tests.journal.kit import (
    KEYRING,
    answer_of,
    append,
    findings,
    finish_child,
    folders,
    in_child,
    numbers,
    record_of,
    recorder_for,
)


def stream_of(recorder):
    append(recorder, 3)
    stream = recorder.stream
    recorder.close()
    return stream


def in_c_child(work):
    """Fork as uWSGI does: in C, so that no hook of Python runs in the child."""
    reader, writer = os.pipe()
    pid = ctypes.PyDLL(None).fork()
    if pid == 0:
        finish_child(work, writer)
    os.close(writer)
    return answer_of(pid, reader)


def is_locked(spool, stream):
    folder = spool / "streams" / stream
    fd = os.open(folder / "lock", os.O_RDWR)
    try:
        return not REAL_FILES.lock(fd)
    finally:
        os.close(fd)


@pytest.mark.parametrize("fork", [in_child, in_c_child], ids=["os.fork", "C fork"])
def test_a_forked_child_begins_its_own_stream_and_the_parents_goes_on(spool, open_recorder, fork):
    recorder = open_recorder()
    append(recorder, 2)
    child = fork(lambda: stream_of(recorder))
    assert child != recorder.stream
    assert is_locked(spool, recorder.stream)
    append(recorder, 2)
    recorder.close()
    assert {folder.name: numbers(folder) for folder in folders(spool)} == {
        child: [0, 1, 2, 3, 4],
        next(folder.name for folder in folders(spool) if folder.name != child): list(range(6)),
    }
    assert findings(spool) == []


def test_a_child_that_writes_nothing_leaves_no_stream(spool, open_recorder):
    recorder = open_recorder()
    append(recorder)
    assert in_child(lambda: recorder.stream) is None
    assert len(folders(spool)) == 1


@pytest.mark.parametrize("fork", [in_child, in_c_child], ids=["os.fork", "C fork"])
def test_closing_in_the_child_closes_nothing_of_the_parents(spool, open_recorder, fork):
    recorder = open_recorder()
    append(recorder)
    fork(lambda: (recorder.close(), recorder.upkeep(), recorder.sync(), None)[-1])
    assert is_locked(spool, recorder.stream)
    append(recorder)
    assert numbers(folders(spool)[0]) == [0, 1, 2]


def test_the_parents_lock_is_not_kept_alive_by_a_child_that_outlives_it(spool):
    """The lock is liveness: a forked child that kept it would keep the dead parent's stream from being delivered."""
    reader, writer = os.pipe()
    go_on, let_go = os.pipe()

    def parent():
        recorder = recorder_for(spool)
        append(recorder, 2)
        grandchild = os.fork()
        if grandchild == 0:
            os.close(writer)
            os.read(go_on, 1)
            os._exit(0)
        return recorder.stream

    pid = os.fork()
    if pid == 0:
        finish_child(parent, writer)
    os.close(writer)
    stream = answer_of(pid, reader)
    try:
        assert not is_locked(spool, stream)
    finally:
        os.write(let_go, b"x")
        os.close(let_go)
        os.close(go_on)


def test_a_fork_while_other_threads_append_deadlocks_nobody(spool, open_recorder):
    """By os.fork: a C-level fork under running threads can leave CPython itself waiting for the GIL to be taken over."""
    recorder = open_recorder()
    append(recorder)
    stop = threading.Event()
    counts = [0] * 3

    def write(me):
        while not stop.is_set():
            append(recorder)
            counts[me] += 1

    threads = [threading.Thread(target=write, args=(me,)) for me in range(3)]
    for thread in threads:
        thread.start()
    children = set()
    try:
        for _ in range(8):
            children.add(in_child(lambda: stream_of(recorder)))
    finally:
        stop.set()
        for thread in threads:
            thread.join(10)
    parent = recorder.stream
    recorder.close()
    assert len(children) == 8
    assert numbers(spool / "streams" / parent) == list(range(sum(counts) + 3))
    assert findings(spool) == []


def test_descriptors_of_the_parent_are_closed_in_the_child(spool, open_recorder):
    recorder = open_recorder()
    append(recorder)

    def inherited():
        links = [
            os.readlink(f"/proc/self/fd/{fd}")
            for fd in os.listdir("/proc/self/fd")
            if os.path.exists(f"/proc/self/fd/{fd}")
        ]
        return [link for link in links if str(spool) in link]

    assert in_child(inherited) == []
    assert len(inherited()) >= 4


def test_children_of_children_write_their_own_streams(spool, open_recorder):
    recorder = open_recorder()
    append(recorder)

    def child():
        mine = recorder.append(b"event", record_of()) and recorder.stream
        return [mine, in_child(lambda: stream_of(recorder)), recorder.stream]

    mine, grandchild, still_mine = in_child(child)
    assert len({mine, grandchild, recorder.stream}) == 3
    assert mine == still_mine
    assert findings(spool) == []


def work_in_process(spool):
    """The target of a multiprocessing worker."""
    recorder = recorder_for(spool, keyring=KEYRING)
    append(recorder, 2)
    recorder.close()


_PROGRAM = """
    import multiprocessing, sys
    from pathlib import Path
    from tests.journal.kit import append, recorder_for
    recorder = recorder_for(Path(sys.argv[1]))

    def work():
        append(recorder, 2)
        recorder.close()

    if __name__ == "__main__":
        append(recorder, 2)
        context = multiprocessing.get_context(sys.argv[2])
        children = [context.Process(target=work) for _ in range(2)]
        for child in children:
            child.start()
        for child in children:
            child.join(15)
        assert [child.exitcode for child in children] == [0, 0]
        append(recorder, 2)
        recorder.close()
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_every_start_method_of_multiprocessing_gives_each_process_its_stream(tmp_path, spool, method):
    assert method in multiprocessing.get_all_start_methods()
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(_PROGRAM))
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    subprocess.run(
        [sys.executable, str(program), str(spool), method],
        check=True,
        timeout=30,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert sorted(len(numbers(folder)) for folder in folders(spool)) == [4, 4, 6]
    assert findings(spool) == []


def test_a_fork_from_inside_a_record_leaves_both_whole(spool, open_recorder):
    """A signal handler may fork while an append of its own thread is under way."""
    from audit_middleware.testing import FaultyFiles

    files = FaultyFiles()
    recorder = open_recorder(files=files)
    append(recorder)
    streams = []

    def fork(_call):
        files.on_call = lambda _call: None
        streams.append(in_child(lambda: stream_of(recorder)))

    files.on_call = fork
    append(recorder, 2)
    recorder.close()
    assert len(streams) == 1
    assert sorted(len(numbers(folder)) for folder in folders(spool)) == [5, 5]
    assert findings(spool) == []


def test_a_killed_process_leaves_everything_it_was_told_is_written(spool):
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        recorder = recorder_for(spool)
        number = 0
        while True:
            recorder.append(b"event", record_of(number))
            os.write(writer, b".")
            number += 1
    os.close(writer)
    time.sleep(0.15)
    os.kill(pid, 9)
    with open(reader, "rb") as pipe:
        told = len(pipe.read())
    os.waitpid(pid, 0)
    (folder,) = folders(spool)
    assert told > 10
    assert len(numbers(folder)) >= told + 1
    assert numbers(folder) == list(range(len(numbers(folder))))
    assert findings(spool) == []
    assert Spool(spool).outbox(folder.name).writer_is_dead()
