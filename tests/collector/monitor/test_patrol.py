"""The patrol finds whatever is done to the stored files, names the entries, and goes on."""

import shutil
import threading
import time
from dataclasses import dataclass

import pytest

from audit_middleware.collector.ledger import Ledger
from audit_middleware.collector.monitor.memory import Patrolled
from audit_middleware.collector.monitor.patrol import (
    NEWEST,
    Damage,
    Unit,
    check_archived,
    check_edge,
    check_unit,
    newest,
    units,
)
from audit_middleware.collector.monitor.patroller import BUSY_ENTRIES, PassEnded, Patroller, Sound
from audit_middleware.collector.storage.files import FileStore
from audit_middleware.errors import StorageError, StoreUnavailable
from audit_middleware.tlog.merkle import leaf_hash
from audit_middleware.tlog.note import Signer
from audit_middleware.tlog.tiles import WIDTH, encode_bundle, entries_path, tile_path

SEED = bytes(range(32))
SIZE = 70_000  # more than one full tile of level 1, and partial tiles on every level


@dataclass
class Kept:
    """A ledger in a folder, as the patrol sees it."""

    folder: object
    ledger: Ledger
    store: FileStore
    origin: str = "audit.test/default/2026h2"

    @property
    def verifier(self):
        return self.ledger.verifier

    def checkpoint(self):
        return self.ledger.published

    def signed(self):
        return self.ledger.signed

    def kept_notes(self):
        return self.ledger.kept_notes()

    def append(self, count, start=0):
        self.ledger.append([b"entry %d" % number for number in range(start, start + count)])

    def replace(self, key, data):
        path = self.folder / "log" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.chmod(0o644) if path.exists() else None
        path.write_bytes(data)

    def flip(self, key, at=10):
        data = bytearray((self.folder / "log" / key).read_bytes())
        data[at] ^= 1
        self.replace(key, bytes(data))

    def remove(self, key):
        (self.folder / "log" / key).unlink()


def kept_in(folder):
    origin = Kept.origin
    store = FileStore(folder / "log")
    ledger = Ledger.open(folder / "log", store, Signer(origin, SEED), guard=folder / "guard")
    return Kept(folder, ledger, store)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    folder = tmp_path_factory.mktemp("large")
    kept = kept_in(folder)
    kept.append(SIZE - 5000)
    kept.append(5000, SIZE - 5000)
    kept.ledger.close()
    return folder


@pytest.fixture
def kept(large, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(large, folder)
    kept = kept_in(folder)
    yield kept
    kept.ledger.close()


@pytest.fixture
def small(tmp_path):
    kept = kept_in(tmp_path)
    kept.append(600)
    yield kept
    kept.ledger.close()


def whole_pass(log):
    """Everything a pass reports, in order."""
    suspects = set()
    found = [check_unit(log, unit, suspects)[0] for unit in units(log.checkpoint().size)]
    found += [check_archived(log, key, suspects) for key in log.store.keys("checkpoints/")]
    return [damage for damage in [*found, *check_edge(log)] if damage]


def test_a_ledger_that_nobody_touched_has_no_damage(kept):
    assert whole_pass(kept) == []


@pytest.mark.parametrize("size", [1, 255, 256, 257, WIDTH**2, WIDTH**2 + 1, 10**7])
def test_a_pass_comes_by_every_bundle_and_every_full_tile_and_may_be_taken_up_anywhere(size):
    every = list(units(size))
    bundles = [unit.number for unit in every if unit.level == 0]
    assert bundles == list(range(-(-size // WIDTH)))
    full = {(level, number) for level in (1, 2) for number in range(size >> 8 * (level + 1))}
    assert {tuple(unit) for unit in every if unit.level} == full
    for at in {0, len(every) // 2, len(every) - 1}:
        assert list(units(size, every[at])) == every[at:]


ALTERED = [
    (entries_path(0), (0, 0)),
    (entries_path(100), (25600, 25600)),
    (entries_path(SIZE // WIDTH, SIZE % WIDTH), (69888, 69888)),
    (tile_path(0, 3), (768, 1023)),
    (tile_path(1, 0), (0, 65535)),
]


@pytest.mark.parametrize(("key", "span"), ALTERED, ids=[key for key, _ in ALTERED])
def test_an_altered_file_is_found_with_its_entries(kept, key, span):
    kept.flip(key, at=3)
    (found,) = whole_pass(kept)
    assert (found.kind, found.path, (found.first, found.last)) == ("tampering", key, span)


@pytest.mark.parametrize("key", [entries_path(7), tile_path(0, 7), tile_path(1, 0)])
@pytest.mark.parametrize("how", ["removed", "cut", "emptied", "extended"])
def test_a_file_that_is_removed_cut_or_extended_is_found(kept, key, how):
    data = (kept.folder / "log" / key).read_bytes()
    if how == "removed":
        kept.remove(key)
    else:
        kept.replace(key, {"cut": data[:-1], "emptied": b"", "extended": data + b"\0\1x"}[how])
    found = whole_pass(kept)
    assert {(damage.kind, damage.path) for damage in found if damage.path != "tile"} == {("tampering", key)}


def test_a_bundle_rewritten_with_its_tile_does_not_lead_to_the_tile_above(kept):
    """An insider who knows the format recomputes the hashes of the lowest level too."""
    entries = [b"forged %d" % number for number in range(WIDTH)]
    kept.replace(entries_path(9), encode_bundle(entries))
    kept.replace(tile_path(0, 9), b"".join(map(leaf_hash, entries)))
    (found,) = whole_pass(kept)
    assert (found.path, found.first, found.last) == (tile_path(0, 9), 9 * WIDTH, 10 * WIDTH - 1)


def test_a_tree_that_is_rewritten_to_its_top_does_not_lead_to_what_was_signed(small, tmp_path):
    other = kept_in(tmp_path / "other")
    other.ledger.append([b"forged %d" % number for number in range(600)])
    shutil.rmtree(small.folder / "log" / "tile")
    shutil.copytree(tmp_path / "other" / "log" / "tile", small.folder / "log" / "tile")
    other.ledger.close()
    assert [damage.path for damage in check_edge(small)] == ["tile"]


@pytest.mark.parametrize("name", ["checkpoint", "guard"])
def test_an_older_or_foreign_or_missing_note_is_a_rollback(small, tmp_path, name):
    path = small.folder / "log" / "checkpoint" if name == "checkpoint" else small.folder / "guard"
    old = path.read_bytes()
    small.append(10, 600)
    good = path.read_bytes()
    assert check_edge(small) == []
    other = kept_in(tmp_path / "other")
    other.append(611, 7)
    for note in (old, good.replace(b"610", b"611"), b"", other.ledger.checkpoint):
        path.write_bytes(note)
        (found,) = check_edge(small)
        assert (found.kind, found.path) == ("rollback", name)
    other.ledger.close()
    path.unlink()
    (found,) = check_edge(small)
    assert (found.kind, "missing" in found.message) == ("rollback", True)
    path.write_bytes(good)
    assert check_edge(small) == []


def test_a_disk_that_takes_long_over_a_checkpoint_is_no_rollback(small, monkeypatch):
    written, goes_on = threading.Event(), threading.Event()
    publish = small.ledger._folder.publish

    def slowly(note):
        publish(note)
        written.set()
        goes_on.wait(10)

    monkeypatch.setattr(small.ledger._folder, "publish", slowly)
    commit = threading.Thread(target=small.append, args=(10, 600))
    commit.start()
    try:
        assert written.wait(10)
        assert small.checkpoint().size == 600
        assert check_edge(small) == []
    finally:
        goes_on.set()
        commit.join()
    assert (small.checkpoint().size, check_edge(small)) == (610, [])


def test_an_archived_checkpoint_of_another_history_is_found(small, tmp_path):
    other = kept_in(tmp_path / "other")
    other.append(600, 1)
    archived = small.store.get("checkpoints/600")
    small.replace("checkpoints/600", other.ledger.checkpoint)
    other.ledger.close()
    assert "another history" in check_archived(small, "checkpoints/600", set()).message
    small.replace("checkpoints/600", b"nonsense")
    assert check_archived(small, "checkpoints/600", set()).kind == "tampering"
    small.replace("checkpoints/9", small.ledger.checkpoint)
    assert "size 600" in check_archived(small, "checkpoints/9", set()).message
    small.replace("checkpoints/600", archived)
    assert check_archived(small, "checkpoints/600", set()) is None


def test_every_new_bundle_is_looked_at_within_four_turns():
    for size in (1, WIDTH, 5 * WIDTH + 1, 100 * WIDTH):
        last = (size - 1) // WIDTH
        seen = {unit.number for turn in range(4) for unit in newest(size, turn)}
        assert seen == set(range(max(0, last - NEWEST + 1), last + 1))


def test_a_patrol_beside_a_growing_ledger_finds_nothing(small):
    stop = threading.Event()

    def grow():
        at = 600
        while not stop.is_set():
            small.append(37, at)
            at += 37

    writer = threading.Thread(target=grow)
    writer.start()
    try:
        found = []
        patroller = Patroller(lambda: [small], 1 << 20, found.append)
        turns, until = 0, time.monotonic() + 60
        while (turns < 60 or small.checkpoint().size <= 1000) and time.monotonic() < until:
            patroller.turn()
            turns += 1
    finally:
        stop.set()
        writer.join()
    assert [each for each in found if isinstance(each, Damage)] == []
    assert small.checkpoint().size > 1000


THERE = Sound("store", f"{Kept.origin} store")


class Clock:
    """Time that passes only when it is told to."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def turns(patroller, clock, count):
    for _ in range(count):
        clock.now += 1.0
        patroller.turn()


def test_a_pass_keeps_to_its_rate_says_how_far_it_is_and_ends(kept):
    found, clock = [], Clock()
    rate = 100_000
    patroller = Patroller(lambda: [kept], rate, found.append, wall=clock, monotonic=clock)
    turns(patroller, clock, 20)
    assert patroller.bytes <= 20 * (rate + 200_000)
    assert 0 < patroller.progress().entries < patroller.progress().total == SIZE
    assert found == [THERE]
    turns(patroller, clock, 100)
    assert isinstance(found[1], PassEnded)
    assert patroller.progress().last_full_pass is not None


def test_a_pass_is_taken_up_after_a_restart_where_it_was(kept):
    clock, found = Clock(), []
    patroller = Patroller(lambda: [kept], 100_000, found.append, wall=clock, monotonic=clock)
    turns(patroller, clock, 20)
    at, began = patroller.patrolled.index, patroller.patrolled.began
    assert at > 10
    again = Patroller(lambda: [kept], 100_000, found.append, patrolled=patroller.patrolled, wall=clock, monotonic=clock)
    turns(again, clock, 1)
    assert at <= again.patrolled.index < at + 60
    turns(again, clock, 100)
    assert found == [THERE, THERE, PassEnded(began), *found[3:]]


def test_old_damage_is_found_within_one_pass_and_new_damage_within_five_turns(kept):
    clock, found = Clock(), []
    patroller = Patroller(lambda: [kept], 100_000, found.append, wall=clock, monotonic=clock)
    turns(patroller, clock, 3)
    kept.flip(entries_path(SIZE // WIDTH - 12), at=50)
    turns(patroller, clock, 4)
    assert {each.path for each in found if each != THERE} == {entries_path(SIZE // WIDTH - 12)}
    kept.flip(entries_path(200), at=50)
    turns(patroller, clock, 120)
    assert entries_path(200) in {each.path for each in found if isinstance(each, Damage)}


class Remote(FileStore):
    """A store whose reads are requests; it counts them."""

    read_cost = 50_000
    reads = 0

    def get(self, key):
        self.reads += 1
        return super().get(key)


def test_a_pass_over_a_network_keeps_to_a_rate_that_counts_its_reads(kept):
    kept.store = Remote(kept.folder / "log")
    clock, found = Clock(), []
    patroller = Patroller(lambda: [kept], 100_000, found.append, wall=clock, monotonic=clock)
    turns(patroller, clock, 60)
    a_look = 30  # five bundles, their tiles, and the edge
    assert 60 < kept.store.reads < 60 * 5 + 20 * a_look
    assert found == [THERE]
    turns(patroller, clock, 400)
    assert any(isinstance(each, PassEnded) for each in found)


def test_a_store_over_a_network_is_read_less_while_its_log_grows_fast(kept):
    kept.store = Remote(kept.folder / "log")
    clock, found, read = Clock(), [], []
    patroller = Patroller(lambda: [kept], 1_000_000, found.append, wall=clock, monotonic=clock)
    for grown in (BUSY_ENTRIES + 1, BUSY_ENTRIES):
        before = kept.store.reads
        for _ in range(12):
            kept.append(grown, kept.checkpoint().size)
            turns(patroller, clock, 1)
        read.append(kept.store.reads - before)
    assert 0 < read[0] < 0.6 * read[1]
    assert found == [THERE]


def test_new_damage_is_found_in_the_third_turn_over_a_network_too(kept):
    kept.store = Remote(kept.folder / "log")
    clock, found = Clock(), []
    patroller = Patroller(lambda: [kept], 1000, found.append, wall=clock, monotonic=clock)
    for offset in range(3):
        turns(patroller, clock, offset + 1)
        kept.flip(entries_path(SIZE // WIDTH, SIZE % WIDTH), at=50)
        turns(patroller, clock, 3)
        kept.flip(entries_path(SIZE // WIDTH, SIZE % WIDTH), at=50)
        assert {each.path for each in found if isinstance(each, Damage)} == {entries_path(SIZE // WIDTH, SIZE % WIDTH)}
        found.clear()
    kept.flip(entries_path(SIZE // WIDTH - 12), at=50)
    turns(patroller, clock, 12)
    assert entries_path(SIZE // WIDTH - 12) in {each.path for each in found if isinstance(each, Damage)}


def test_a_store_over_a_network_that_is_away_is_asked_every_turn_until_it_answers(kept):
    class Gone(Remote):
        is_away = True

        def get(self, key):
            if self.is_away:
                raise StoreUnavailable(DEAF)
            return super().get(key)

    kept.store = Gone(kept.folder / "log")
    clock, found = Clock(), []
    patroller = Patroller(lambda: [kept], 1000, found.append, wall=clock, monotonic=clock)
    turns(patroller, clock, 5)
    assert found == [Damage("store", kept.origin, "store", DEAF)] * 5
    kept.store.is_away = False
    turns(patroller, clock, 1)
    assert found[5:] == [THERE]


class Broken(FileStore):
    """A disk that cannot read some files."""

    broken = frozenset()

    def get(self, key):
        if key in self.broken:
            raise StorageError(f"cannot read {key}: Input/output error")
        return super().get(key)


def test_a_disk_that_fails_is_reported_and_the_patrol_goes_on(kept):
    kept.store = Broken(kept.folder / "log")
    kept.store.broken = {entries_path(3), "checkpoints/70000"}
    clock, found = Clock(), []
    patroller = Patroller(lambda: [kept], 10_000_000, found.append, wall=clock, monotonic=clock)
    turns(patroller, clock, 5)
    first = next(each for each in found if isinstance(each, Damage))
    assert first.message == f"cannot read {entries_path(3)}: Input/output error"
    assert any(isinstance(each, PassEnded) for each in found)


DEAF = "the bucket does not answer"


class Away(Broken):
    """A store that does not answer, or not for some files; everything in it is as it was."""

    is_away = False

    def get(self, key):
        if self.is_away or key in self.broken:
            raise StoreUnavailable(DEAF)
        return FileStore.get(self, key)

    def keys(self, prefix):
        if self.is_away:
            raise StoreUnavailable(DEAF)
        return super().keys(prefix)

    def worm_failure(self):
        if self.is_away:
            raise StoreUnavailable(DEAF)


def test_a_store_that_does_not_answer_is_away_and_not_tampered_with(kept):
    kept.store = Away(kept.folder / "log")
    clock, found = Clock(), []
    patroller = Patroller(lambda: [kept], 100_000, found.append, wall=clock, monotonic=clock)
    turns(patroller, clock, 20)
    at, began = patroller.patrolled.index, patroller.patrolled.began
    found.clear()
    kept.store.is_away = True
    turns(patroller, clock, 200)
    assert {(each.kind, each.about, each.message) for each in found} == {("store", THERE.about, DEAF)}
    assert (patroller.patrolled.index, patroller.progress().last_full_pass) == (at, None)
    kept.store.is_away = False
    found.clear()
    turns(patroller, clock, 1)
    assert [each for each in found if each.kind == "store"] == [THERE]
    turns(patroller, clock, 100)
    assert PassEnded(began) in found


def test_a_pass_does_not_end_over_a_file_that_the_store_does_not_give(kept):
    kept.store = Away(kept.folder / "log")
    kept.store.broken = {entries_path(100)}
    clock, found = Clock(), []
    patroller = Patroller(lambda: [kept], 10_000_000, found.append, wall=clock, monotonic=clock)
    turns(patroller, clock, 50)
    assert (patroller.patrolled.index, patroller.progress().last_full_pass) == (100, None)
    assert found[-40:] == [Damage("store", kept.origin, "store", DEAF)] * 40
    kept.store.broken = frozenset()
    turns(patroller, clock, 50)
    assert THERE in found[50:]
    assert any(isinstance(each, PassEnded) for each in found)


class Locked(FileStore):
    """A store that claims to be write-once, and may lose that."""

    failure = None

    def worm_failure(self):
        if self.failure == "unreachable":
            raise StorageError(DEAF)
        return self.failure


def test_a_store_that_is_write_once_no_longer_is_reported_until_it_is_again(small):
    small.store = Locked(small.folder / "log")
    clock, found = Clock(), []
    patroller = Patroller(lambda: [small], 1000, found.append, wall=clock, monotonic=clock)
    turns(patroller, clock, 1)
    assert found == [Sound("worm", f"{small.origin} store"), THERE]
    for failure in ("object lock was turned off", "unreachable"):
        small.store.failure = failure
        found.clear()
        turns(patroller, clock, 60)
        assert [each.message for each in found if isinstance(each, Damage)] == [failure.replace("unreachable", DEAF)]
    small.store.failure = None
    found.clear()
    turns(patroller, clock, 60)
    assert Sound("worm", f"{small.origin} store") in found


def test_progress_of_an_empty_store_is_nothing_of_nothing():
    progress = Patroller(list, 1000, lambda _: None, patrolled=Patrolled()).progress()
    assert (progress.entries, progress.total, progress.log) == (0, 0, None)
    assert list(units(1)) == [Unit(0, 0)]
