"""The contract of `Store`, for every store of this package that needs no network, and the files of `FileStore`."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from audit_middleware.collector.storage import BatchStore, Store, put_all
from audit_middleware.collector.storage.durable import Durable
from audit_middleware.collector.storage.files import FileStore
from audit_middleware.errors import AlreadyStored, StorageError


@pytest.fixture
def store(tmp_path):
    return FileStore(tmp_path / "new" / "log")


class Unbatched:
    """A store of the four methods alone, as a bucket might be."""

    def __init__(self, store):
        self.put, self.get, self.keys, self.discard = store.put, store.get, store.keys, store.discard


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


def test_a_file_store_is_a_store(store):
    assert isinstance(store, Store)
    assert isinstance(store, BatchStore)
    assert not isinstance(Unbatched(store), BatchStore)


def test_what_was_put_is_got_back_and_what_was_not_is_none(store):
    store.put("tile/0/000", b"data")
    assert store.get("tile/0/000") == b"data"
    assert store.get("tile/0/001") is None
    assert store.get("tile/0/000/below-a-file") is None


def test_equal_bytes_may_be_put_again_and_other_bytes_never(store):
    store.put("a", b"data")
    store.put("a", b"data")
    with pytest.raises(AlreadyStored):
        store.put("a", b"other")
    assert store.get("a") == b"data"


@pytest.mark.parametrize("wrap", [lambda store: store, Unbatched])
def test_several_files_are_stored_at_once_by_every_store(store, wrap):
    put_all(wrap(store), [("a", b"1"), ("b/c", b"2"), ("a", b"1")])
    assert list(store.keys("")) == ["a", "b/c"]
    with pytest.raises(AlreadyStored):
        put_all(wrap(store), [("new", b"1"), ("a", b"2")])


def test_keys_are_those_with_the_prefix_in_order(store):
    every = ["a", "tile-x", "tile/0/000", "tile/0/000.p/1", "tile/0/x001/000", "tile/1/000", "tile.x"]
    put_all(store, [(key, b"") for key in every])
    for prefix in ("", "tile", "tile/", "tile/0/000", "tile/0/x", "none/", "a"):
        assert list(store.keys(prefix)) == sorted(key for key in every if key.startswith(prefix))


def test_a_discarded_file_takes_its_empty_folder_of_partials_along(store, tmp_path):
    put_all(store, [("tile/0/000.p/1", b"1"), ("tile/0/000.p/2", b"2")])
    store.discard("tile/0/000.p/1")
    assert store.get("tile/0/000.p/1") is None
    store.discard("tile/0/000.p/2")
    store.discard("tile/0/000.p/2")
    assert os.listdir(tmp_path / "new/log/tile/0") == []
    store.put("tile/0/000.p/3", b"3")
    assert store.get("tile/0/000.p/3") == b"3"


@pytest.mark.parametrize(
    "key", ["", "/", "/a", "a/", "a//b", "..", "a/../b", ".hidden", "a/.b", "a\n", "a\x00", "ä", "a b"]
)
def test_a_key_that_could_leave_the_folder_is_refused(store, key):
    for use in (store.get, store.discard, lambda key: store.put(key, b"")):
        with pytest.raises(StorageError):
            use(key)


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


def test_threads_that_put_the_same_key_agree_on_one_content(store):
    def attempt(number):
        try:
            store.put("a/b/c", b"%d" % number)
        except AlreadyStored:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(32))) == 1


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
