"""The spool folder: what is refused, what is ignored, what is never removed."""

import errno
import os
import threading
import time

import pytest

from audit_middleware.errors import JournalError
from audit_middleware.journal.segment import segment_name
from audit_middleware.journal.spool import Spool
from audit_middleware.testing import FaultyFiles
from tests.journal.kit import append, folders, lines_of, segments


@pytest.fixture
def dead(spool, open_recorder):
    """The name of a stream whose writer is gone, on an open spool."""
    recorder = open_recorder()
    append(recorder, 5)
    name = recorder.stream
    recorder.close()
    opened = Spool(spool)
    yield opened, name
    opened.close()


def waiting(opened, name):
    outbox = opened.outbox(name)
    try:
        return [item.line.data for item in outbox.pending(1000, 1 << 20)]
    finally:
        outbox.release()


def test_the_spool_and_all_in_it_belong_to_this_user_alone(spool, open_recorder):
    append(open_recorder())
    assert spool.stat().st_mode & 0o777 == 0o700
    for path in spool.rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


def test_a_spool_that_is_a_link_is_refused(tmp_path, spool):
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    spool.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(JournalError, match="name the folder itself"):
        Spool(spool)


@pytest.mark.parametrize("mode", [0o701, 0o770, 0o707, 0o750])
def test_a_spool_others_can_reach_is_refused(spool, mode):
    spool.mkdir()
    spool.chmod(mode)
    with pytest.raises(JournalError, match=f"mode {mode:04o}.*chmod 700"):
        Spool(spool)


def test_a_spool_in_a_folder_anybody_can_write_to_is_refused(tmp_path):
    tmp_path.chmod(0o1777)
    with pytest.raises(JournalError, match="move it"):
        Spool(tmp_path / "spool")


def test_a_spool_of_another_user_is_refused(spool, monkeypatch):
    spool.mkdir(mode=0o700)
    owner = os.geteuid()
    monkeypatch.setattr("os.geteuid", lambda: owner + 1)
    with pytest.raises(JournalError, match=f"belongs to uid {owner}"):
        Spool(spool)


def test_a_spool_that_is_a_file_is_refused(spool):
    spool.write_bytes(b"")
    with pytest.raises(JournalError):
        Spool(spool)


@pytest.mark.parametrize("inside", ["streams", "quarantine"])
def test_a_link_in_place_of_a_folder_of_the_spool_is_not_followed(tmp_path, spool, inside):
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    spool.mkdir(mode=0o700)
    (spool / inside).symlink_to(tmp_path / "elsewhere")
    with pytest.raises((JournalError, OSError)):
        Spool(spool).keep_aside("A" * 22, "1", b"line", {})
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_fifo_in_place_of_a_segment_never_blocks(dead, spool):
    opened, name = dead
    os.mkfifo(spool / "streams" / name / segment_name(1))
    done = threading.Event()

    def look():
        assert len(waiting(opened, name)) == 7
        opened.end(name)
        opened.newest_head()
        opened.view(name)
        done.set()

    threading.Thread(target=look, daemon=True).start()
    assert done.wait(5), "it blocked"


@pytest.mark.parametrize("kind", ["symlink", "hard link", "fifo", "folder"])
def test_a_foreign_file_in_place_of_a_segment_is_not_read_and_nothing_is_removed(dead, spool, tmp_path, kind):
    opened, name = dead
    whole = lines_of(spool / "streams" / name)
    foreign, place = tmp_path / "foreign", spool / "streams" / name / segment_name(1)
    foreign.write_bytes(b"a secret\n")
    make = {"symlink": lambda: place.symlink_to(foreign), "hard link": lambda: os.link(foreign, place)}
    make |= {"fifo": lambda: os.mkfifo(place), "folder": place.mkdir}
    make[kind]()
    assert waiting(opened, name) == whole
    outbox = opened.outbox(name)
    outbox.advance(outbox.pending(100, 1 << 20)[-1])
    assert not outbox.is_delivered()
    outbox.release()
    assert foreign.read_bytes() == b"a secret\n"


def test_a_segment_that_a_backup_linked_is_not_taken_for_delivered(dead, spool, tmp_path):
    """`cp -al` gives a segment a second name: it is not read, so it must not be removed either."""
    opened, name = dead
    os.link(segments(spool / "streams" / name)[0], tmp_path / "backup")
    outbox = opened.outbox(name)
    assert outbox.pending(10, 1 << 20) == []
    assert not outbox.is_delivered()
    (tmp_path / "backup").unlink()
    assert len(outbox.pending(10, 1 << 20)) == 7
    outbox.release()


@pytest.mark.parametrize("error", [errno.EMFILE, errno.EIO, errno.EACCES])
def test_a_segment_that_cannot_be_opened_now_is_not_taken_for_delivered(dead, spool, error):
    _, name = dead
    files = FaultyFiles()
    outbox = Spool(spool, files).outbox(name)
    files.fail("open_existing", error, name="seg-", times=2)
    with pytest.raises(OSError, match=os.strerror(error)):
        outbox.pending(10, 1 << 20)
    assert not outbox.is_delivered()
    assert len(outbox.pending(10, 1 << 20)) == 7
    outbox.release()


def test_names_that_are_not_ours_are_left_alone(dead, spool):
    opened, name = dead
    for foreign in ("lost+found", "A" * 23, "notes.txt", ".hidden"):
        (spool / "streams" / foreign).mkdir()
    assert opened.streams() == [name]
    (spool / "streams" / name / "seg-1.ndjson").write_bytes(b"x\n")
    assert len(waiting(opened, name)) == 7


def test_an_outbox_is_taken_by_one_at_a_time(dead, spool):
    opened, name = dead
    outbox = opened.outbox(name)
    assert Spool(spool).outbox(name) is None
    outbox.release()
    again = Spool(spool).outbox(name)
    assert again is not None
    again.release()


def test_the_writer_is_alive_until_it_lets_go(spool, open_recorder):
    recorder = open_recorder()
    append(recorder)
    outbox = Spool(spool).outbox(recorder.stream)
    assert not outbox.writer_is_dead()
    recorder.close()
    assert outbox.writer_is_dead()
    outbox.release()


def test_half_made_folders_are_swept_after_a_minute_and_no_sooner(spool, open_recorder):
    append(open_recorder())
    opened = Spool(spool)
    old, young = (spool / "streams" / f".new-{letter * 22}" for letter in "AB")
    for path in (old, young):
        path.mkdir(mode=0o700)
        (path / "lock").write_bytes(b"")
        (path / "cursor").write_bytes(b"")
    os.utime(old, (0, time.time() - 90))
    opened.sweep()
    assert (old.exists(), young.exists()) == (False, True)


def test_a_half_made_folder_whose_maker_lives_is_not_swept(spool, open_recorder):
    append(open_recorder())
    opened = Spool(spool)
    path = spool / "streams" / (".new-" + "A" * 22)
    path.mkdir(mode=0o700)
    fd = os.open(path / "lock", os.O_RDWR | os.O_CREAT)
    assert opened.files.lock(fd)
    os.utime(path, (0, 0))
    opened.sweep()
    assert path.exists()
    os.close(fd)
    opened.sweep()
    assert not path.exists()


# ------------------------------------------------------------------ small files: whole or not at all


def test_what_is_kept_aside_is_kept_once(spool):
    opened = Spool(spool)
    opened.keep_aside("A" * 22, "7-0-9", b"first", {"reason": "bad"})
    opened.keep_aside("A" * 22, "7-0-9", b"second", {"reason": "worse"})
    folder = spool / "quarantine" / ("A" * 22)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        "7-0-9.line": b"first",
        "7-0-9.why.json": b'{"reason": "bad"}',
    }


def test_a_disk_that_fills_up_never_leaves_half_of_what_was_kept_aside(spool):
    files = FaultyFiles()
    opened = Spool(spool, files)
    files.shorten(3, name=".7")
    with pytest.raises(OSError, match="No space"):
        opened.keep_aside("A" * 22, "7", b"a whole line", {})
    assert list((spool / "quarantine" / ("A" * 22)).iterdir()) == []
    opened.keep_aside("A" * 22, "7", b"a whole line", {})
    assert (spool / "quarantine" / ("A" * 22) / "7.line").read_bytes() == b"a whole line"


@pytest.mark.parametrize("method", ["create", "write", "rename"])
def test_a_state_file_is_replaced_whole_or_not_at_all_and_the_next_time_works(spool, method):
    files = FaultyFiles()
    opened = Spool(spool, files)
    opened.write_state("logs.json", b"old")
    files.fail(method, errno.ENOSPC)
    with pytest.raises(OSError, match="No space"):
        opened.write_state("logs.json", b"new and longer")
    assert opened.read_state("logs.json", 100) == b"old"
    opened.write_state("logs.json", b"newer")
    assert opened.read_state("logs.json", 100) == b"newer"
    assert sorted(path.name for path in spool.iterdir()) == ["logs.json", "streams"]


def test_what_a_killed_process_of_the_same_number_left_is_in_nobodys_way(spool):
    opened = Spool(spool)
    (spool / f".logs.json-{os.getpid()}-{threading.get_ident()}").write_bytes(b"half")
    opened.write_state("logs.json", b"whole")
    assert opened.read_state("logs.json", 100) == b"whole"


def test_state_that_cannot_be_read_is_no_head(spool, open_recorder):
    Spool(spool).write_state("last.json", b"{")
    append(open_recorder())
    assert len(folders(spool)) == 1


@pytest.mark.parametrize("has_lines", [False, True])
@pytest.mark.parametrize("looks_before", range(4))
def test_a_stream_that_another_process_removes_meanwhile_is_named_only_if_it_had_a_line(
    dead, spool, has_lines, looks_before
):
    """A stream without a line is in no ledger: to name it would look like tampering."""
    other, older = dead
    name = "B" * 21 + "A"
    journal = other.begin(name, {})
    if has_lines:
        journal.append(b'{"v":1,"kid":"k1","stream":"%b","seq":0,"prev":"%b","type":"open","ts":"x","rec":{}}' % (
            name.encode(), b"A" * 43,
        ))  # fmt: skip
    journal.close()
    files, looked = FaultyFiles(), []
    with_races = Spool(spool, files)

    def remove(call):
        if name not in call.name and call.name != "last.json":
            return
        looked.append(call)
        if len(looked) == looks_before + 1:
            outbox = other.outbox(name)
            for pending in outbox.pending(10, 1 << 20):
                outbox.advance(pending)
            other.retire(outbox)

    files.on_call = remove
    head = with_races.newest_head()
    assert len(looked) > looks_before
    assert head.stream == (name if has_lines else older)
    assert head.seq is not None
    with_races.close()


def test_descriptors_come_back_when_streams_are_begun_delivered_and_removed(spool, open_recorder, fd_count):
    opened = Spool(spool)
    before = fd_count()
    for _ in range(20):
        recorder = open_recorder()
        append(recorder, 2)
        recorder.sync()
        recorder.close()
        name = opened.streams()[0]
        outbox = opened.outbox(name)
        outbox.advance(outbox.pending(10, 1 << 20)[-1])
        assert outbox.is_delivered()
        opened.retire(outbox)
    assert fd_count() == before
    assert folders(spool) == []
