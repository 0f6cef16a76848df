"""The files of `FileStore`; what it has in common with every other store is in tests/stores."""

from __future__ import annotations

import errno
import logging
import os
import stat

import pytest

from audit_middleware.collector.storage import put_all
from audit_middleware.collector.storage.durable import Durable
from audit_middleware.collector.storage.files import FileStore
from audit_middleware.errors import StorageError, StoreFull, StoreUnavailable


@pytest.fixture
def store(tmp_path):
    return FileStore(tmp_path / "new" / "log")


class FailingFiles(Durable):
    """A file system that fails in one call, before doing it or after."""

    def __init__(self, call, *, done):
        self.call, self.done, self.count = call, done, 0

    def __getattribute__(self, name):
        method = super().__getattribute__(name)
        if name != super().__getattribute__("call"):
            return method

        def fail(*args):
            self.count += 1
            if self.done:
                method(*args)
            raise OSError(28, "No space left on device")

        return fail


def test_a_discarded_file_takes_its_empty_folder_of_partials_along(store, tmp_path):
    put_all(store, [("tile/0/000.p/1", b"1"), ("tile/0/000.p/2", b"2")])
    store.discard("tile/0/000.p/1")
    assert store.get("tile/0/000.p/1") is None
    store.discard("tile/0/000.p/2")
    store.discard("tile/0/000.p/2")
    assert os.listdir(tmp_path / "new/log/tile/0") == []
    store.put("tile/0/000.p/3", b"3")
    assert store.get("tile/0/000.p/3") == b"3"


def test_files_are_read_only_and_folders_are_not_writable_by_others(store, tmp_path):
    store.put("tile/0/000", b"data")
    assert stat.S_IMODE(os.stat(tmp_path / "new/log/tile/0/000").st_mode) == 0o444
    assert stat.S_IMODE(os.stat(tmp_path / "new/log/tile").st_mode) == 0o755


def test_what_a_crash_left_half_written_is_swept_and_never_listed(tmp_path):
    FileStore(tmp_path).put("a", b"1")
    (tmp_path / ".staging" / "leftover").write_bytes(b"half")
    assert list(FileStore(tmp_path).keys("")) == ["a"]
    FileStore(tmp_path).put("b", b"2")
    assert os.listdir(tmp_path / ".staging") == []


def test_reading_creates_nothing(tmp_path):
    store = FileStore(tmp_path / "absent")
    assert store.get("a") is None
    assert list(store.keys("")) == []
    store.discard("a")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("call", ["create", "write", "sync", "link", "remove", "make_folder", "sync_folder"])
def test_a_failing_file_system_is_a_storage_error_and_is_not_asked_twice(tmp_path, call, done):
    files = FailingFiles(call, done=done)
    with pytest.raises(StorageError, match="No space left"):
        FileStore(tmp_path / "log", files=files).put("tile/0/000", b"data")
    assert files.count == 1
    again = FileStore(tmp_path / "log")
    again.put("tile/0/000", b"data")
    assert again.get("tile/0/000") == b"data"


def test_an_unreadable_place_is_a_storage_error_not_an_absent_file(store):
    store.put("a/b", b"data")
    with pytest.raises(StorageError, match="cannot read"):
        store.get("a")


def test_a_full_disk_may_have_room_later_and_a_broken_one_is_broken(tmp_path):
    class Failing(Durable):
        def __init__(self, number):
            self.number = number

        def sync(self, descriptor):
            raise OSError(self.number, os.strerror(self.number))

    for number, kind in {
        errno.ENOSPC: StoreFull,
        errno.EDQUOT: StoreFull,
        errno.EIO: StorageError,
    }.items():
        with pytest.raises(StorageError) as failed:
            FileStore(tmp_path / str(number), files=Failing(number)).put("a", b"1")
        assert type(failed.value) is kind


@pytest.mark.parametrize("call", ["create", "write", "sync"])
def test_what_a_full_disk_did_not_take_takes_no_room(tmp_path, call):
    store = FileStore(tmp_path, files=FailingFiles(call, done=True))
    with pytest.raises(StoreUnavailable):
        put_all(store, [("a", b"1"), ("b", b"2")])
    assert os.listdir(tmp_path / ".staging") == []


class FlaggedFiles(Durable):
    """A file system with the flag: what has it can be neither removed nor given another name."""

    def __init__(self, refuses=None):
        self.refuses, self.flagged = refuses, set()

    def set_immutable(self, path, *, is_set):
        if self.refuses is not None:
            raise OSError(self.refuses, os.strerror(self.refuses))
        (self.flagged.add if is_set else self.flagged.discard)(os.stat(path).st_ino)

    def remove(self, path):
        if path.exists() and os.stat(path).st_ino in self.flagged:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        super().remove(path)

    def link(self, source, target):
        if os.stat(source).st_ino in self.flagged:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        super().link(source, target)


def test_every_file_is_immutable_and_a_partial_tile_goes_all_the_same(tmp_path):
    files = FlaggedFiles()
    store = FileStore(tmp_path / "log", immutable=True, files=files)
    put_all(store, [("tile/0/000", b"1"), ("tile/0/001.p/1", b"2")])
    put_all(store, [("tile/0/000", b"1"), ("tile/0/001.p/1", b"2")])
    assert len(files.flagged) == 2
    with pytest.raises(PermissionError):
        files.remove(tmp_path / "log/tile/0/000")
    store.discard("tile/0/001.p/1")
    assert list(store.keys("")) == ["tile/0/000"]
    assert os.listdir(tmp_path / "log/.staging") == []


def test_a_partial_tile_made_immutable_by_an_earlier_configuration_goes_too(tmp_path):
    files = FlaggedFiles()
    FileStore(tmp_path, immutable=True, files=files).put("tile/0/001.p/1", b"2")
    FileStore(tmp_path, files=files).discard("tile/0/001.p/1")
    assert FileStore(tmp_path).get("tile/0/001.p/1") is None


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTTY, errno.EOPNOTSUPP])
def test_a_system_without_the_flag_is_said_once_and_the_files_are_stored(tmp_path, caplog, number):
    store = FileStore(tmp_path, immutable=True, files=FlaggedFiles(refuses=number))
    with caplog.at_level(logging.WARNING):
        put_all(store, [("a", b"1"), ("b", b"2")])
    assert [record.message.partition("stay read-only, but not immutable")[1] for record in caplog.records] != [""]
    assert len(caplog.records) == 1
    assert not store.immutable
    assert list(store.keys("")) == ["a", "b"]


def test_the_flag_of_this_file_system_stops_root_or_the_store_says_that_it_is_not_set(tmp_path):
    store = FileStore(tmp_path, immutable=True)
    store.put("tile/0/000", b"data")
    if store.immutable:
        path = tmp_path / "tile/0/000"
        for attempt in (
            path.unlink,
            lambda: path.chmod(0o600),
            lambda: path.open("ab"),
            lambda: path.rename(tmp_path / "x"),
        ):
            with pytest.raises(PermissionError):
                attempt()
        Durable().set_immutable(path, is_set=False)
        path.unlink()
