"""Attacks on the files of a ledger, seen by the writer at its start and by an auditor."""

from __future__ import annotations

import shutil

import pytest

from audit_middleware.collector.ledger_reader import LedgerReader
from audit_middleware.errors import BadLedger, BadSignature, RollbackDetected, StorageError
from audit_middleware.tlog.merkle import leaf_hash
from audit_middleware.tlog.note import Signer, sign
from audit_middleware.tlog.tiles import decode_bundle, encode_bundle
from tests.collector.ledger_simulators import SIGNER, BucketStore, entries, open_ledger

SIZE = 600


@pytest.fixture
def folder(tmp_path):
    with open_ledger(tmp_path) as ledger:
        ledger.append(entries(0, 300))
        ledger.append(entries(300, SIZE))
    return tmp_path


def check(folder):
    LedgerReader(folder / "log", SIGNER.verifier).check_tiles()


def rewrite(path, data):
    path.chmod(0o644)
    path.write_bytes(data)


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    rewrite(path, bytes(data))


def tiles_of(folder):
    reader = LedgerReader(folder / "log", SIGNER.verifier)
    assert reader.checkpoint().size == SIZE
    return ["tile/0/000", "tile/0/001", "tile/0/002.p/88", "tile/1/000.p/2"]


def test_an_untouched_ledger_passes(folder):
    check(folder)


@pytest.mark.parametrize("index", [0, 255, 256, 599])
def test_a_changed_entry_is_named_by_its_index(folder, index):
    number, width = divmod(index, 256)[0], min(256, SIZE - index // 256 * 256)
    path = folder / "log/tile/entries" / (f"{number:03d}" + (f".p/{width}" if width < 256 else ""))
    held = decode_bundle(path.read_bytes(), width)
    held[index % 256] = b'{"entry":"forged"}'
    rewrite(path, encode_bundle(held))
    with pytest.raises(BadLedger, match=f"entry {index}: ") as caught:
        check(folder)
    assert caught.value.where.startswith("tile/entries/")


def test_every_changed_tile_is_named(folder):
    for tile in tiles_of(folder):
        for at in (0, 40):
            flip(folder / "log" / tile, at)
            with pytest.raises(BadLedger) as caught:
                check(folder)
            assert caught.value.where == tile
            flip(folder / "log" / tile, at)
    check(folder)


def test_a_changed_entry_with_its_tiles_changed_to_match_is_found_by_the_checkpoint(tmp_path, folder):
    forged = entries(0, SIZE)
    forged[5] = b'{"entry":"forged"}'
    with open_ledger(tmp_path / "forger") as ledger:
        ledger.append(forged)
    shutil.rmtree(folder / "log/tile")
    shutil.copytree(tmp_path / "forger/log/tile", folder / "log/tile")
    with pytest.raises(BadLedger) as caught:
        check(folder)
    assert caught.value.where == "checkpoint"
    with pytest.raises(BadLedger, match="do not lead to the root"):
        open_ledger(folder)


@pytest.mark.parametrize("path", ["tile/entries/000", "tile/entries/002.p/88", "tile/0/001", "tile/1/000.p/2"])
def test_a_deleted_file_is_named(folder, path):
    (folder / "log" / path).unlink()
    with pytest.raises(BadLedger) as caught:
        check(folder)
    assert caught.value.where == path


def test_swapped_tiles_and_swapped_bundles_are_found(folder):
    for kind in ("0", "entries"):
        one, other = (folder / "log/tile" / kind / name for name in ("000", "001"))
        first, second = one.read_bytes(), other.read_bytes()
        rewrite(one, second)
        rewrite(other, first)
        with pytest.raises(BadLedger, match="000"):
            check(folder)
        rewrite(one, first)
        rewrite(other, second)


@pytest.mark.parametrize("path", ["tile/entries/000", "tile/entries/002.p/88"])
def test_a_bundle_with_an_extra_entry_or_one_less_is_named(folder, path):
    whole = (folder / "log" / path).read_bytes()
    extra = encode_bundle([b"extra"])
    for data in (whole + extra, extra + whole, whole + b"\x00", whole[:-1], b""):
        rewrite(folder / "log" / path, data)
        with pytest.raises(BadLedger, match="exactly") as caught:
            check(folder)
        assert caught.value.where == path


def test_a_tile_with_an_extra_hash_is_named(folder):
    path = folder / "log/tile/0/002.p/88"
    rewrite(path, path.read_bytes() + bytes(32))
    with pytest.raises(BadLedger, match=r"tile/0/002\.p/88"):
        check(folder)


def test_leaves_that_are_fewer_or_more_than_the_checkpoint_s_are_found(folder):
    leaves = [leaf_hash(entry) for entry in entries(0, SIZE + 1)]
    reader = LedgerReader(folder / "log", SIGNER.verifier)
    reader.check_tiles(leaves[:SIZE])
    for wrong in (leaves, leaves[: SIZE - 1], [], leaves[:256]):
        with pytest.raises(BadLedger):
            reader.check_tiles(wrong)


def test_a_checkpoint_that_is_missing_or_of_another_key_is_refused(folder):
    path = folder / "log/checkpoint"
    note = path.read_bytes()
    rewrite(path, note[:40] + sign("x\n", Signer(SIGNER.name, bytes(32))))
    with pytest.raises(BadSignature):
        check(folder)
    with pytest.raises(BadSignature):
        open_ledger(folder)
    path.unlink()
    with pytest.raises(BadLedger, match="missing"):
        check(folder)


def test_a_reader_that_saw_a_larger_log_notices_a_smaller_one(folder):
    old = (folder / "log/checkpoints/300").read_bytes()
    reader = LedgerReader(folder / "log", SIGNER.verifier)
    assert reader.checkpoint().size == SIZE
    rewrite(folder / "log/checkpoint", old)
    with pytest.raises(BadLedger, match="shrank from 600 to 300"):
        reader.refresh()


def test_the_writer_refuses_last_tiles_that_do_not_lead_to_the_checkpoint(folder):
    for path in ("tile/0/002.p/88", "tile/1/000.p/2", "tile/entries/002.p/88"):
        flip(folder / "log" / path, 5)
        with pytest.raises(BadLedger):
            open_ledger(folder)
        flip(folder / "log" / path, 5)
    open_ledger(folder).close()


def test_an_older_checkpoint_put_back_is_a_rollback_that_says_which_sizes(folder):
    rewrite(folder / "log/checkpoint", (folder / "log/checkpoints/300").read_bytes())
    (folder / "log/.write-ahead").unlink()
    with pytest.raises(RollbackDetected, match=r"size 300, but size 600 was signed.*300 to 599"):
        open_ledger(folder)


def test_an_older_checkpoint_with_the_write_ahead_that_follows_it_is_repaired(folder):
    rewrite(folder / "log/checkpoint", (folder / "log/checkpoints/300").read_bytes())
    with open_ledger(folder) as ledger:
        assert ledger.size == SIZE


def test_a_restored_backup_of_the_folder_refuses_to_start(tmp_path):
    backup = tmp_path / "backup"
    with open_ledger(tmp_path) as ledger:
        ledger.append(entries(0, 100))
    shutil.copytree(tmp_path / "log", backup)
    with open_ledger(tmp_path) as ledger:
        ledger.append(entries(100, 200))
    shutil.rmtree(tmp_path / "log")
    shutil.copytree(backup, tmp_path / "log")
    with pytest.raises(RollbackDetected, match="size 100, but size 200 was signed"):
        open_ledger(tmp_path)


def test_an_emptied_folder_refuses_to_start(folder):
    shutil.rmtree(folder / "log")
    with pytest.raises(RollbackDetected, match="size 0, but size 600 was signed"):
        open_ledger(folder)


def test_a_lost_guard_refuses_to_start_and_copying_the_checkpoint_goes_on(folder):
    guard = folder / "guard/default"
    for damage in (guard.unlink, lambda: rewrite(guard, (folder / "log/checkpoints/300").read_bytes())):
        damage()
        with pytest.raises(RollbackDetected, match="copy the file 'checkpoint' over the guard"):
            open_ledger(folder)
        shutil.copy(folder / "log/checkpoint", guard)
        open_ledger(folder).close()


def test_the_guard_of_another_history_refuses_to_start(tmp_path, folder):
    with open_ledger(tmp_path / "fork") as ledger:
        ledger.append(entries(1, SIZE + 1))
    shutil.copy(tmp_path / "fork/guard/default", folder / "guard/default")
    with pytest.raises(RollbackDetected, match="two roots for size 600"):
        open_ledger(folder)


def test_a_write_ahead_of_another_time_refuses_to_start(tmp_path):
    with open_ledger(tmp_path) as ledger:
        ledger.append(entries(0, 10))
        old = (tmp_path / "log/.write-ahead").read_bytes()
        ledger.append(entries(10, 20))
        ledger.append(entries(20, 30))
    rewrite(tmp_path / "log/.write-ahead", old)
    with pytest.raises(RollbackDetected, match="different times"):
        open_ledger(tmp_path)


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda data: data[:20], lambda data: b"", lambda data: data + b"x"]
)
def test_a_damaged_write_ahead_refuses_to_start(folder, damage):
    path = folder / "log/.write-ahead"
    rewrite(path, damage(path.read_bytes()))
    with pytest.raises(StorageError, match="is damaged"):
        open_ledger(folder)


def test_a_write_ahead_with_another_entry_is_not_replayed(folder):
    rewrite(folder / "log/checkpoint", (folder / "log/checkpoints/300").read_bytes())
    path = folder / "log/.write-ahead"
    rewrite(path, path.read_bytes().replace(b'{"entry":300}', b'{"entry":999}'))
    with pytest.raises(BadLedger, match="does not lead to the root"):
        open_ledger(folder)


def test_a_store_ahead_of_folder_and_guard_refuses_to_start(tmp_path):
    bucket = BucketStore()
    with open_ledger(tmp_path, store=bucket) as ledger:
        ledger.append(entries(0, 100))
        shutil.copytree(tmp_path, tmp_path / "backup")
        ledger.append(entries(100, 400))
    with pytest.raises(RollbackDetected, match="older than the store"):
        open_ledger(tmp_path / "backup", store=bucket)
    with pytest.raises(RollbackDetected, match="begin a new log folder"):
        open_ledger(tmp_path / "nothing", store=bucket)
