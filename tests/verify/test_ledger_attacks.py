"""Attacks on a ledger, by somebody who can write its files: each is found, named, and said in plain words."""

import itertools
import shutil

import pytest

from audit_middleware.record import Quarantined
from audit_middleware.sealing.encode import encode_rec
from audit_middleware.sealing.keys import new_key, parse_keys
from audit_middleware.sealing.seal import Sealer
from audit_middleware.tlog.checkpoint import Checkpoint, sign_checkpoint
from audit_middleware.tlog.merkle import leaf_hash, root_of
from audit_middleware.tlog.note import Signer
from audit_middleware.tlog.reader import LogReader
from audit_middleware.tlog.tiles import encode_bundle, entries_path, tile_path
from audit_middleware.verify import Severity, verify_logs
from audit_middleware.verify.ledger import Log
from tests.sealing.test_lines import record

KEYS = parse_keys(f"k1:{'A' * 43}")
SIGNER = Signer.generate("audit.example.com/default/2026h2")
TS = b"2026-11-23T07:00:00.000001Z"
REC = encode_rec(record())


def stream_lines(count, number=0, keys=KEYS, closed=True):
    sealer = Sealer(keys, number.to_bytes(16, "big"))
    lines = []
    for seq in range(count):
        lines.append(
            sealer.seal(
                b"close" if closed and seq == count - 1 else b"request",
                TS,
                REC if not (closed and seq == count - 1) else CLOSE,
            )
        )
        sealer.commit(lines[-1])
    return lines


CLOSE = b'{"service":"orders","monotonic_us":1,"seen":1,"recorded":1,"dropped":0,"spool_bytes":1}'


def write_log(folder, entries, signer=SIGNER):
    """Write a whole log as its files; whoever has the signing key can do that to any entries."""
    hashes = [leaf_hash(entry) for entry in entries]
    level = 0
    for number in range(0, len(entries), 256):
        part = entries[number : number + 256]
        put(folder / entries_path(number // 256, len(part)), encode_bundle(part))
    while hashes:
        for number in range(0, len(hashes), 256):
            part = hashes[number : number + 256]
            put(folder / tile_path(level, number // 256, len(part)), b"".join(part))
        hashes = [root_of(hashes[at : at + 256]) for at in range(0, len(hashes) - len(hashes) % 256, 256)]
        level += 1
    root = root_of([leaf_hash(entry) for entry in entries])
    put(folder / "checkpoint", sign_checkpoint(Checkpoint(SIGNER.name, len(entries), root), signer))


def put(file, data):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)


def verify(folder, keys=KEYS):
    def read(key):
        return (folder / key).read_bytes() if (folder / key).is_file() else None

    return verify_logs([Log("default/2026h2", LogReader(read, SIGNER.verifier))], keys)


def rules(report):
    return {finding.rule for finding in report.findings if finding.severity is not Severity.NOTE}


@pytest.fixture
def log(tmp_path):
    write_log(tmp_path / "log", stream_lines(300))
    return tmp_path / "log"


def test_an_untouched_log_is_good(log):
    report = verify(log)
    assert (report.exit_code, report.findings) == (0, [])
    assert report.counts == {"logs": 1, "entries": 300, "streams": 1}


def test_an_altered_entry_is_named_by_its_index(log):
    bundle = log / entries_path(0, 256)
    bundle.write_bytes(bundle.read_bytes().replace(b"alice", b"mallo", 1))
    report = verify(log)
    assert report.exit_code == 1
    assert {(finding.rule, finding.where) for finding in report.findings} == {
        ("seal", "default/2026h2 entry 0"),
        ("ledger", "default/2026h2/tile/entries/000 entry 0"),
    }
    assert report.counts["entries"] == 300  # what stands behind it was verified all the same


@pytest.mark.parametrize("attack", ["delete", "reorder", "insert", "replay", "truncate"])
def test_entries_changed_under_the_same_checkpoint_contradict_it(log, attack):
    lines = stream_lines(300)[:256]
    changed = {
        "delete": lines[:10] + lines[11:],
        "reorder": [*lines[:10], lines[11], lines[10], *lines[12:]],
        "insert": [*lines[:10], stream_lines(1, 9)[0], *lines[11:]],
        "replay": [*lines[:10], lines[9], *lines[11:]],
        "truncate": lines[:200],
    }[attack]
    (log / entries_path(0, 256)).write_bytes(encode_bundle(changed))
    report = verify(log)
    assert report.exit_code == 1
    assert "ledger" in rules(report)


@pytest.mark.parametrize("attack", ["delete", "reorder", "insert", "replay", "wrong key", "duplicate seq"])
def test_a_log_rewritten_by_who_has_the_signing_key_still_shows_what_was_done(tmp_path, attack):
    """The collector's operator can sign any tree; the application's chain of seals is not his."""
    lines = stream_lines(20)
    forged = stream_lines(20, keys=parse_keys(new_key("k1")))
    changed, expected = {
        "delete": (lines[:10] + lines[11:], "gap"),
        "reorder": ([*lines[:10], lines[11], lines[10], *lines[12:]], None),
        "insert": ([*lines[:10], forged[10], *lines[10:]], "seal"),
        "replay": ([*lines[:10], lines[9], *lines[10:]], "replay"),
        "wrong key": ([*lines[:10], forged[10], *lines[11:]], "seal"),
        "duplicate seq": ([*lines[:10], *lines[9:]], "replay"),
    }[attack]
    write_log(tmp_path, changed)
    report = verify(tmp_path)
    if expected is None:
        assert report.exit_code == 0  # streams may arrive in any order: every line is there, once
    else:
        assert expected in rules(report)
        assert report.exit_code == 1


def test_a_swapped_tile_is_named(tmp_path):
    write_log(tmp_path, stream_lines(600))
    one, two = tmp_path / tile_path(0, 0, 256), tmp_path / tile_path(0, 1, 256)
    first = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(first)
    report = verify(tmp_path)
    assert report.exit_code == 1
    assert "tile/0/000" in report.findings[0].where


def test_an_extra_entry_in_a_bundle_is_found(log):
    bundle = log / entries_path(1, 44)
    bundle.write_bytes(bundle.read_bytes() + encode_bundle([b"extra"]))
    assert "ledger" in rules(verify(log))


def test_a_missing_bundle_is_found(log):
    (log / entries_path(1, 44)).unlink()
    report = verify(log)
    assert report.exit_code == 1
    assert "is missing" in report.findings[0].message


def test_a_checkpoint_signed_with_another_key_is_refused(log):
    write_log(log, stream_lines(300), signer=Signer.generate(SIGNER.name))
    assert rules(verify(log)) == {"signature"}


def test_an_older_checkpoint_put_back_is_good_in_itself_and_the_guard_and_receipts_are_what_finds_it(tmp_path):
    """A prefix of a log is a log: that is why the size is remembered outside (guard, receipts, witnesses)."""
    write_log(tmp_path / "old", stream_lines(256, closed=False))
    write_log(tmp_path / "new", stream_lines(300, closed=False))
    shutil.copy(tmp_path / "old" / "checkpoint", tmp_path / "new" / "checkpoint")
    assert verify(tmp_path / "new").exit_code == 0


def test_an_unknown_key_is_unverifiable_and_not_tampered(log):
    report = verify(log, parse_keys(new_key("other")))
    assert report.exit_code == 2
    assert rules(report) == {"unknown_key"}


def test_a_crash_is_unclosed_and_not_tampered(tmp_path):
    write_log(tmp_path, stream_lines(10, closed=False))
    report = verify(tmp_path)
    assert report.exit_code == 0
    assert [finding.rule for finding in report.findings] == ["unclosed"]


def test_duplicate_members_in_a_sealed_record_are_found(tmp_path):
    sealer = Sealer(KEYS, bytes(16))
    write_log(tmp_path, [sealer.seal(b"request", TS, REC[:-1] + b',"service":"billing"}')])
    assert rules(verify(tmp_path)) == {"json"}


def test_a_hole_made_of_quarantined_lines_is_explained(tmp_path):
    lines = stream_lines(10)
    own = Sealer(KEYS, b"c" * 16)
    said = Quarantined("audit-collector", "A" * 43, "schema", "orders", stream="A" * 22, seq=4)
    kept = own.seal(b"quarantine", TS, encode_rec(said))
    write_log(tmp_path, [*lines[:4], *lines[5:], kept])
    assert verify(tmp_path).exit_code == 0
    write_log(tmp_path, [*lines[:4], *lines[6:], kept])
    assert rules(verify(tmp_path)) == {"gap"}


def test_a_whole_stream_that_was_deleted_leaves_a_dangling_reference(tmp_path):
    previous = b'"previous":{"stream":"AAAAAAAAAAAAAAAAAAAAAQ","seq":7,"closed":true}'
    opened = (
        b'{"service":"orders","version":"1","instance":"a","env":"t","host":"h","boot_id":"b","pid":1,'
        b'"started":"2026-11-23T07:00:00.000001Z","library":"0","policy":"p","durability":"journal",%b}' % previous
    )
    later = Sealer(KEYS, (2).to_bytes(16, "big")).seal(b"open", TS, opened)
    write_log(tmp_path, [later])
    assert rules(verify(tmp_path)) == {"missing_stream"}
    write_log(tmp_path, [*stream_lines(5, 1), later])
    assert rules(verify(tmp_path)) == {"truncated"}


def test_memory_of_the_report_is_bounded(tmp_path):
    write_log(tmp_path, [b"rubbish %d" % number for number in range(2000)])
    report = verify(tmp_path)
    assert len(report.findings) == 1000
    assert report.by_severity[Severity.TAMPERING] >= 2000


def test_a_stream_goes_on_from_one_period_to_the_next(tmp_path):
    lines = stream_lines(20)
    write_log(tmp_path / "a", lines[:12])
    write_log(tmp_path / "b", lines[12:])
    readers = [LogReader(lambda key, name=name: (tmp_path / name / key).read_bytes(), SIGNER.verifier) for name in "ab"]
    calls = []
    logs = [Log(name, reader) for name, reader in zip(("default/1", "default/2"), readers, strict=True)]
    report = verify_logs(logs, KEYS, lambda done, total: calls.append((done, total)))
    assert report.exit_code == 0
    assert calls[-1] == (20, 20)
    assert all(a <= b for a, b in itertools.pairwise(calls))
