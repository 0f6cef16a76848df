"""Fills a collector through its own committer: the ledger and index are those that as many deliveries make."""

import json
import time
from collections import deque

from audit_middleware.collector.auth import OPEN_DOOR
from audit_middleware.collector.collector import Collector
from audit_middleware.collector.monitor.settings import MonitorSettings
from audit_middleware.collector.query import parse_query
from audit_middleware.collector.settings import CollectorSettings
from audit_middleware.sealing.keys import parse_keys
from benchmarks.lines import KEYS
from benchmarks.population import batches

NAME = "bench"
AT_ONCE = 8  # batches that wait for the committer, as from so many senders


def build(folder, records):
    """Fill ``folder/data`` unless it holds as many records already; return when the last one was made, in ns."""
    note = folder / "built.json"
    if note.exists():
        built = json.loads(note.read_text())
        if built["records"] == records:
            return built["until"]
        raise SystemExit(f"{folder} holds {built['records']} records: name another folder")
    until = time.time_ns() - 3600 * 10**9
    settings = CollectorSettings(
        data=folder / "data",
        keyring=parse_keys(KEYS),
        name=NAME,
        guard=folder / "guard",
        monitor=MonitorSettings(enabled=False),
    )
    began = time.monotonic()
    with Collector(settings).open() as collector:
        waiting = deque()
        for number, lines in enumerate(batches(records, until), 1):
            waiting.append(collector.submit(lines, OPEN_DOOR, {}))
            if len(waiting) > AT_ONCE:
                require_all(waiting.popleft().result(), lines)
            if number % 500 == 0:
                print(f"built {number * len(lines):,} records in {time.monotonic() - began:.0f} s", flush=True)
        for answer in waiting:
            require_all(answer.result(), lines)
        collector.reader.search(parse_query([("limit", "1")]))  # waits for the index
    note.write_text(json.dumps({"records": records, "until": until, "seconds": time.monotonic() - began}))
    return until


def require_all(answer, lines):
    if answer.accepted != len(lines):
        raise SystemExit(f"the benchmark's lines were not accepted: {answer.quarantined[:3]}")
