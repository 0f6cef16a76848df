"""The contract of `Store`, for every store of this package: folders, buckets, honest or not, simulated and real."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest

from audit_middleware.collector.storage import BatchStore, RetainingStore, Store, keep, put_all
from audit_middleware.collector.storage.durable import Durable
from audit_middleware.collector.storage.files import FileStore
from audit_middleware.errors import AlreadyStored, StorageError
from tests.stores.gateway import EVERYTHING, Gateway
from tests.stores.kit import OpenStore, s3_settings


@contextmanager
def files(request, *, immutable=False):
    root = request.getfixturevalue("tmp_path") / "new" / "log"

    @contextmanager
    def opened():
        yield FileStore(root, immutable=immutable)

    yield opened
    for folder, _, names in os.walk(root) if immutable else ():
        for name in names:
            with suppress(OSError):  # a file system without the flag
                Durable().set_immutable(root / folder / name, is_set=False)


@contextmanager
def simulated(_request, *, worm=True):
    gateway = Gateway(frozenset() if worm else EVERYTHING)
    yield lambda: OpenStore(s3_settings(gateway.endpoint, worm=worm))
    gateway.close()


@contextmanager
def real(request, *, worm=True, has_lock=True):
    weed = request.getfixturevalue("weed")
    name = weed.make_bucket(f"conform-{os.urandom(4).hex()}", has_lock=has_lock)
    yield lambda: OpenStore(s3_settings(weed.endpoint, name, worm=worm, timeout_seconds=20))


class Unbatched:
    """A store of the four methods alone."""

    def __init__(self, store):
        self.put, self.get, self.keys, self.discard = store.put, store.get, store.keys, store.discard


@contextmanager
def unbatched(request):
    with files(request) as open_files:

        @contextmanager
        def opened():
            with open_files() as store:
                yield Unbatched(store)

        yield opened


PLACES = {
    "files": files,
    "immutable files": lambda request: files(request, immutable=True),
    "four methods": unbatched,
    "simulated s3": simulated,
    "simulated s3 that ignores everything": lambda request: simulated(request, worm=False),
}
REAL = {
    "SeaweedFS": real,
    "SeaweedFS without lock": lambda request: real(request, worm=False, has_lock=False),
}


@pytest.fixture(params=[*PLACES, *(pytest.param(name, marks=pytest.mark.stores) for name in REAL)])
def place(request):
    with (PLACES | REAL)[request.param](request) as opened:
        yield opened


@pytest.fixture
def store(place):
    with place() as opened:
        yield opened


def test_it_is_a_store_and_stores_several_files_at_once_if_it_can(store):
    assert isinstance(store, Store)
    assert isinstance(store, BatchStore) == (not isinstance(store, Unbatched))


@pytest.mark.parametrize("data", [b"", b"data", bytes(range(256)) * 1000, b"\r\n--x\r\n\r\n"])
def test_what_was_put_is_got_back_byte_by_byte_and_what_was_not_is_none(store, data):
    store.put("tile/0/000", data)
    assert store.get("tile/0/000") == data
    assert store.get("tile/0/001") is None
    assert store.get("tile/0/00") is None
    assert store.get("tile/0/000/below-a-file") is None


def test_what_was_put_is_there_for_whoever_opens_the_store_next(place):
    with place() as first:
        first.put("tile/0/000", b"data")
    with place() as second:
        assert second.get("tile/0/000") == b"data"
        with pytest.raises(AlreadyStored):
            second.put("tile/0/000", b"other")


def test_equal_bytes_may_be_put_again_and_other_bytes_never(store):
    store.put("a", b"data")
    store.put("a", b"data")
    for other in (b"other", b"", b"data+"):
        with pytest.raises(AlreadyStored):
            store.put("a", other)
    assert store.get("a") == b"data"


def test_several_files_are_stored_at_once(store):
    put_all(store, [])
    put_all(store, [("a", b"1"), ("b/c", b"2"), ("a", b"1")])
    assert list(store.keys("")) == ["a", "b/c"]
    put_all(store, [(f"many/{number:03d}", bytes([number])) for number in range(100)])
    assert [store.get(f"many/{number:03d}") for number in range(100)] == [bytes([number]) for number in range(100)]


def test_one_key_with_other_bytes_among_several_is_said(store):
    store.put("a", b"1")
    with pytest.raises(AlreadyStored):
        put_all(store, [("new", b"1"), ("a", b"2"), ("newer", b"3")])
    assert store.get("a") == b"1"


def test_keys_are_those_with_the_prefix_in_order(store):
    every = ["a", "tile-x", "tile/0/000", "tile/0/000.p/1", "tile/0/x001/000", "tile/1/000", "tile.x"]
    put_all(store, [(key, b"") for key in every])
    for prefix in ("", "tile", "tile/", "tile/0/000", "tile/0/x", "none/", "a"):
        assert list(store.keys(prefix)) == sorted(key for key in every if key.startswith(prefix))


def test_a_superseded_partial_tile_may_go_and_nothing_else_goes_with_it(store):
    put_all(store, [("tile/0/000.p/1", b"1"), ("tile/0/000.p/2", b"2"), ("tile/0/000", b"3")])
    store.discard("tile/0/000.p/1")
    store.discard("tile/0/000.p/1")
    store.discard("tile/0/none.p/1")
    assert store.get("tile/0/000.p/1") in {None, b"1"}
    assert store.get("tile/0/000.p/2") == b"2"
    store.discard("tile/0/000.p/2")
    store.put("tile/0/000.p/3", b"3")
    assert (store.get("tile/0/000.p/3"), store.get("tile/0/000")) == (b"3", b"3")


def test_partial_tiles_may_be_kept_also_those_that_are_not_there(store):
    store.put("tile/0/000.p/1", b"1")
    keep(store, ["tile/0/000.p/1", "tile/0/000.p/2"])
    assert store.get("tile/0/000.p/1") == b"1"
    assert isinstance(store, RetainingStore) == hasattr(store, "keep")


@pytest.mark.parametrize(
    "key", ["", "/", "/a", "a/", "a//b", "..", "a/../b", ".hidden", "a/.b", "a\n", "a\x00", "ä", "a b"]
)
def test_a_key_that_could_leave_the_store_is_refused(store, key):
    for use in (store.get, store.discard, lambda key: store.put(key, b"")):
        with pytest.raises(StorageError):
            use(key)


@pytest.mark.parametrize("race", range(3))
def test_sixteen_writers_of_one_key_agree_on_one_content(place, race):
    key = f"a/b/{race}"

    def attempt(number):
        try:
            store.put(key, b"%d" % number)
        except AlreadyStored:
            return None
        return b"%d" % number

    with ThreadPoolExecutor(16) as pool, place() as store:
        winners = [won for won in pool.map(attempt, range(16)) if won is not None]
        if getattr(store, "_retention", True) is not None:  # elsewhere one writer is the rule, and nothing enforces it
            assert winners == [store.get(key)]
