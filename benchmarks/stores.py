"""What a bucket costs the collector: ingest into S3 with Object Lock beside ingest into files, in one run."""

import os
import secrets
import statistics
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from audit_middleware.collector.collector import Collector
from audit_middleware.collector.query import parse_query
from audit_middleware.collector.settings import CollectorSettings
from audit_middleware.collector.storage.durable import Durable
from audit_middleware.collector.storage.settings import FilesSettings, S3Settings
from audit_middleware.sealing.keys import parse_keys
from benchmarks.lines import KEYS, make_lines
from benchmarks.table import interleave, show
from tests.stores.weed import Weed, keys

BATCH, BATCHES, ROUNDS = 1000, 20, 3


def main():
    lines = make_lines(parse_keys(KEYS), BATCH * BATCHES, streams=4)
    with tempfile.TemporaryDirectory(prefix="audit-bench-") as folder:
        weed = Weed(Path(folder, "weed"))
        weed.start()
        os.environ |= dict(zip(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), keys("writer").values(), strict=True))
        try:
            weed.wait()
            figures = interleave(
                {
                    "files": lambda: take_in(folder, lines, FilesSettings),
                    "files, immutable": lambda: take_in(folder, lines, lambda: FilesSettings(immutable=True)),
                    "S3 with Object Lock": lambda: take_in(folder, lines, lambda: bucket(weed, worm=True)),
                    "S3, not WORM": lambda: take_in(folder, lines, lambda: bucket(weed, worm=False)),
                },
                ROUNDS,
            )
        finally:
            weed.remove()
    base = statistics.median(figures["files"])
    rows = [
        (name, f"{BATCH * BATCHES / median:,.0f}", f"{median / BATCHES * 1e3:.0f}", f"{base / median:.2f}")
        for name, median in ((name, statistics.median(seconds)) for name, seconds in figures.items())
    ]
    show(
        "Ingest by store, one process, no HTTP",
        f"{BATCHES} batches of {BATCH} records, one after the other, until indexed; the bucket is a SeaweedFS on the same two cores, over loopback.",
        ("store", "records/s", "ms per commit", "x files"),
        rows,
    )


def bucket(weed, *, worm):
    name = weed.make_bucket(f"bench-{secrets.token_hex(4)}", has_lock=worm)
    return S3Settings(
        bucket=name,
        endpoint=weed.endpoint,
        region="us-east-1",
        path_style=True,
        worm=worm,
        retain="1d" if worm else None,
    )


def take_in(folder, lines, store):
    place = Path(folder, secrets.token_hex(4))
    settings = CollectorSettings(
        data=place / "data", keyring=parse_keys(KEYS), name="bench", guard=place / "guard", store=store()
    )
    with Collector(settings).open() as collector:
        began = time.perf_counter()
        for at in range(0, len(lines), BATCH):
            collector.deliver(lines[at : at + BATCH])
        collector.reader.search(parse_query([("limit", "1")]))  # waits for the index
        seconds = time.perf_counter() - began
    release(place)
    return seconds


def release(place):
    """Take the immutable flag off, so that the folder can go."""
    for path in place.rglob("*"):
        if path.is_file():
            with suppress(OSError):
                Durable().set_immutable(path, is_set=False)
