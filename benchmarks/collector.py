"""What one collector process takes in: verify, dedupe, commit, tree, index; beside a hand-written limit in the same run."""

import contextlib
import itertools
import os
import secrets
import shutil
import sqlite3
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import msgspec

from audit_middleware.collector.alerts.settings import convert
from audit_middleware.collector.collector import Collector
from audit_middleware.collector.index_settings import PostgresSettings
from audit_middleware.collector.monitor.settings import MonitorSettings
from audit_middleware.collector.query import parse_query
from audit_middleware.collector.settings import CollectorSettings
from audit_middleware.record import AuditRecord
from audit_middleware.sealing.keys import parse_keys
from audit_middleware.sealing.seal import Ratchet, leaf_hash, parse_frame
from audit_middleware.sealing.text import unb64url
from audit_middleware.tlog.merkle import Frontier
from benchmarks.lines import KEYS, make_lines
from benchmarks.stores import bucket
from benchmarks.table import interleave, show
from tests.collector.alerts.receivers import HttpReceiver
from tests.postgres.server import Server
from tests.stores.weed import Weed, keys

BATCH, BATCHES, ROUNDS, STREAMS = 1000, 60, 3, 4
LONGER = 5  # times: a bucket is looked at every three seconds, and a run of six holds one look too many or too few
UNWATCHED = MonitorSettings(enabled=False)
LIMIT, OURS = "hand-written limit with three indexes", "files and SQLite"


def main():
    lines, more = (lines_of(BATCHES), lines_of(BATCHES * LONGER))
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="audit-bench-")))
        places = {
            OURS: dict,
            "files and PostgreSQL": stack.enter_context(shared_index(folder)),
            "S3 with Object Lock and SQLite": stack.enter_context(object_lock(folder)),
        }
        variants = {LIMIT: lambda: by_hand(folder, lines)}
        for name, place in places.items():
            taken = more if name.startswith("S3") else lines
            variants[name] = partial(take_in, folder, taken, place)
            variants[f"{name}, without the monitor"] = partial(take_in, folder, taken, place, monitor=UNWATCHED)
        alerts = stack.enter_context(webhook())
        variants[f"{OURS}, with an alert sink"] = partial(take_in, folder, lines, dict, alerts=alerts)
        figures = interleave(variants, ROUNDS)
    show(
        "Ingest, one process, no HTTP",
        f"{BATCHES} batches of {BATCH} records of {STREAMS} streams ({BATCHES * LONGER} into S3), one after the other, {ROUNDS} rounds in turn; verify, dedupe, fsync, tree, "
        "checkpoint, index, until indexed; one line of each stream is missing, which is found and told. CPU time is the collector's own, all threads; "
        "PostgreSQL and SeaweedFS share the two cores with it. The limit parses, checks MACs, hashes, writes and syncs one file and inserts rows.",
        (
            "variant",
            "records/s",
            "us per record",
            "CPU us per record",
            "x limit",
            "x without the monitor",
            "the same by CPU",
        ),
        [row(name, figures) for name in figures],
    )


def row(name, figures):
    wall, cpu = median(figures, name)
    bare = f"{name.partition(',')[0]}, without the monitor"
    beside = (f"{each:.2f}" for each in ratios(figures, bare, name)) if bare in figures and bare != name else ("", "")
    return (
        name,
        f"{1 / wall:,.0f}",
        f"{wall * 1e6:.1f}",
        f"{cpu * 1e6:.1f}",
        f"{ratios(figures, LIMIT, name)[0]:.2f}",
        *beside,
    )


def median(figures, name):
    return [statistics.median(column) for column in zip(*figures[name], strict=True)]


def ratios(figures, base, name):
    """Return by how much ``name`` is as fast as ``base``: the median over the rounds, wall and CPU time."""
    pairs = list(zip(figures[base], figures[name], strict=True))
    return [statistics.median(one[which] / other[which] for one, other in pairs) for which in (0, 1)]


def lines_of(batches):
    """Return the lines of so many batches; one of each stream is missing half way."""
    lines = make_lines(parse_keys(KEYS), BATCH * batches + STREAMS, streams=STREAMS)
    half = len(lines) // 2
    return lines[:half] + lines[half + STREAMS :]


def take_in(folder, lines, place, **given):
    """Return the wall and CPU seconds that each line takes."""
    name = f"bench-{secrets.token_hex(4)}"
    settings = CollectorSettings(
        data=folder / name / "data",
        keyring=parse_keys(KEYS),
        name=name,
        guard=folder / name / "guard",
        **place(),
        **given,
    )
    with Collector(settings).open() as collector:
        began, used = time.perf_counter(), time.process_time()
        for at in range(0, len(lines), BATCH):
            answer = collector.deliver(lines[at : at + BATCH])
            if answer.accepted != BATCH:
                raise SystemExit(f"the benchmark's lines were not accepted: {answer.quarantined[:3]}")
        collector.reader.search(parse_query([("limit", "1")]))  # waits for the index
        seconds = time.perf_counter() - began, time.process_time() - used
    shutil.rmtree(folder / name)
    return [each / len(lines) for each in seconds]


@contextlib.contextmanager
def shared_index(folder):
    """Give what makes settings of an empty index in PostgreSQL: streams of one run are unknown to the next."""
    server, numbers = Server(), itertools.count(1)
    key, dsn = folder / "index.key", folder / "index.dsn"
    key.write_text(f"index:{secrets.token_urlsafe(32)}")
    key.chmod(0o600)

    def place():
        database = f"run{next(numbers)}"
        server.database(database)
        dsn.write_text(server.dsn(database, "collector"))
        dsn.chmod(0o600)
        return {"index": PostgresSettings(key_file=str(key), dsn_file=str(dsn))}

    try:
        server.start()
        yield place
    finally:
        server.remove()


@contextlib.contextmanager
def object_lock(folder):
    weed = Weed(folder / "weed")
    try:
        weed.start()
        os.environ |= dict(zip(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), keys("writer").values(), strict=True))
        weed.wait()
        yield lambda: {"store": bucket(weed, worm=True)}
    finally:
        weed.remove()


@contextlib.contextmanager
def webhook():
    receiver = HttpReceiver()
    os.environ["BENCH_WEBHOOK_SECRET"] = secrets.token_urlsafe(32)
    sink = {
        "kind": "webhook",
        "name": "bench",
        "url": receiver.url,
        "secret_env": "BENCH_WEBHOOK_SECRET",
        "interval_seconds": 1,
    }
    try:
        yield convert([sink])
        if not receiver.taken:
            raise SystemExit("the webhook was told nothing")
    finally:
        receiver.close()


def by_hand(folder, lines):
    keyring = parse_keys(KEYS)
    for old in folder.glob("limit.*"):
        old.unlink()
    index = sqlite3.connect(folder / "limit.sqlite", isolation_level=None)
    index.executescript(
        "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;"
        "CREATE TABLE r (stream TEXT, seq INT, ts TEXT, type TEXT, service TEXT, principal TEXT, action TEXT, rtype TEXT, rid TEXT,"
        " outcome TEXT, ip TEXT, request_id TEXT, trace_id TEXT); CREATE UNIQUE INDEX a ON r (stream, seq);"
        "CREATE INDEX b ON r (principal, ts); CREATE INDEX c ON r (request_id);"
    )
    fd = os.open(folder / "limit.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    frontier, ratchets, heads = Frontier(), {}, {}
    decode = msgspec.json.Decoder(AuditRecord).decode
    began, used = time.perf_counter(), time.process_time()
    for at in range(0, len(lines), BATCH):
        batch = lines[at : at + BATCH]
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
    seconds = time.perf_counter() - began, time.process_time() - used
    os.close(fd)
    index.close()
    return [each / len(lines) for each in seconds]
