"""What one collector process takes in: verify, dedupe, commit, tree, index; beside a hand-written limit in the same run."""

import os
import sqlite3
import statistics
import tempfile
import time
from pathlib import Path

import msgspec

from audit_middleware.collector.collector import Collector
from audit_middleware.collector.monitor.settings import MonitorSettings
from audit_middleware.collector.query import parse_query
from audit_middleware.collector.settings import CollectorSettings
from audit_middleware.record import AuditRecord
from audit_middleware.sealing.keys import parse_keys
from audit_middleware.sealing.seal import Ratchet, leaf_hash, parse_frame
from audit_middleware.sealing.text import unb64url
from audit_middleware.tlog.merkle import Frontier
from benchmarks.lines import KEYS, make_lines
from benchmarks.table import show

BATCH, BATCHES = 1000, 60


def main():
    keyring = parse_keys(KEYS)
    with tempfile.TemporaryDirectory(prefix="audit-bench-") as folder:
        ours = take_in(Path(folder, "data"), keyring)
        unwatched = take_in(Path(folder, "unwatched", "data"), keyring, MonitorSettings(enabled=False))
        limit = by_hand(Path(folder), keyring)
    rows = [row("hand-written limit with three indexes", limit, limit), row("audit-ready", ours, limit)]
    rows.append(row("audit-ready without its monitor", unwatched, limit))
    show(
        "Ingest, one process, no HTTP",
        f"{BATCHES} batches of {BATCH} records of 4 streams; verify, dedupe, fsync, tree, checkpoint, SQLite index; "
        "the limit parses, checks MACs, hashes, writes and syncs one file and inserts rows with three indexes. Wall time, until indexed.",
        ("variant", "records/s", "us per record", "x limit"),
        rows,
    )


def row(name, seconds, limit):
    per_record = statistics.median(seconds) / BATCH
    return (
        name,
        f"{1 / per_record:,.0f}",
        f"{per_record * 1e6:.1f}",
        f"{statistics.median(limit) / statistics.median(seconds):.2f}",
    )


def batches(keyring):
    lines = make_lines(keyring, BATCH * BATCHES, streams=4)
    return [lines[at : at + BATCH] for at in range(0, len(lines), BATCH)]


def take_in(data, keyring, monitor=MonitorSettings()):  # noqa: B008 - immutable
    settings = CollectorSettings(data=data, keyring=keyring, name="bench", guard=data.parent / "guard", monitor=monitor)
    seconds = []
    with Collector(settings).open() as collector:
        for batch in batches(keyring):
            began = time.perf_counter()
            answer = collector.deliver(batch)
            seconds.append(time.perf_counter() - began)
            if answer.accepted != BATCH:
                raise SystemExit(f"the benchmark's lines were not accepted: {answer.quarantined[:3]}")
        began = time.perf_counter()
        collector.reader.search(parse_query([("limit", "1")]))  # waits for the index
        rest = (time.perf_counter() - began) / len(seconds)
    return [each + rest for each in seconds]


def by_hand(folder, keyring):
    index = sqlite3.connect(folder / "limit.sqlite", isolation_level=None)
    index.executescript(
        "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;"
        "CREATE TABLE r (stream TEXT, seq INT, ts TEXT, type TEXT, service TEXT, principal TEXT, action TEXT, rtype TEXT, rid TEXT,"
        " outcome TEXT, ip TEXT, request_id TEXT, trace_id TEXT); CREATE UNIQUE INDEX a ON r (stream, seq);"
        "CREATE INDEX b ON r (principal, ts); CREATE INDEX c ON r (request_id);"
    )
    fd = os.open(folder / "limit.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    frontier, ratchets, heads, seconds = Frontier(), {}, {}, []
    decode = msgspec.json.Decoder(AuditRecord).decode
    for batch in batches(keyring):
        began = time.perf_counter()
        rows, leaves = [], []
        for line in batch:
            frame = parse_frame(line)
            ratchet = ratchets.get(frame.stream) or Ratchet(
                keyring.stream_key(frame.kid, unb64url(frame.stream.encode()))
            )
            ratchets[frame.stream] = ratchet = ratchet.at(frame.seq >> 6)
            mac = ratchet.mac.copy()
            mac.update(line[:-53])
            mac.finalize()
            heads[frame.stream] = frame.seq
            leaves.append(leaf_hash(line))
            if frame.type == "request":
                rec = decode(frame.rec)
                rows.append((
                    frame.stream, frame.seq, frame.ts, frame.type, rec.service, rec.principal.id, rec.action, rec.resource.type,
                    rec.resource.id, rec.outcome, rec.source.ip, rec.trace.request_id, rec.trace.trace_id,
                ))  # fmt: skip
        frontier.extend(leaves)
        os.write(fd, b"\n".join(batch))
        os.fdatasync(fd)
        index.execute("BEGIN")
        index.executemany("INSERT INTO r VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)", rows)
        index.execute("COMMIT")
        seconds.append(time.perf_counter() - began)
    os.close(fd)
    index.close()
    return seconds
