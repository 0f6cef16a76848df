"""What delivery costs the process that records: a paced service beside a collector, with and without a URL to deliver to."""

import shutil
import tempfile
import time
from functools import partial
from pathlib import Path

from audit_middleware import config
from audit_middleware.pipeline import Pipeline
from benchmarks.lines import KEYS, make_record
from benchmarks.server import start_collector
from benchmarks.table import added, interleave, show

RATES = (50, 300, 1000)
SECONDS, ROUNDS, SETTLE_S = 4, 3, 1.5
KEPT, DELIVERED = "kept in the spool", "delivered"


def main():
    folder = Path(tempfile.mkdtemp(prefix="audit-bench-"))
    folder.chmod(0o700)
    processes = []
    try:
        url = start_collector(folder, processes)
        rows = [row(rate, folder, url) for rate in RATES]
    finally:
        for process in processes:
            process.terminate()
            process.wait()
        shutil.rmtree(folder)
    show(
        "Delivery from the process that records",
        f"Records at an even pace for {SECONDS} s, no application; CPU time of the whole process, its threads counted; medians of {ROUNDS} rounds in turn.",
        ("records/s", "kept, us a record", "delivered, us a record", "delivery, % of a core"),
        rows,
    )


def row(rate, folder, url):
    variants = {name: partial(record, rate, folder, where) for name, where in ((KEPT, ()), (DELIVERED, (url,)))}
    figures = interleave(variants, ROUNDS)
    delivery = added(figures, KEPT)[DELIVERED]
    kept, delivered = (f"{sorted(figures[name])[ROUNDS // 2]:.0f}" for name in (KEPT, DELIVERED))
    return rate, kept, delivered, f"{delivery * rate / 1e4:.1f}"


def record(rate, folder, url):
    """Return the CPU us that the process takes for each record."""
    spool = Path(tempfile.mkdtemp(dir=folder))
    pipeline = Pipeline(config.load(keys=KEYS, spool_dir=spool, service="orders", collector_url=url), "orders")
    recorder = pipeline.recorder
    recorder.append(b"request", make_record(0, "first"))
    time.sleep(SETTLE_S)  # the threads have started, and met the collector
    used, began = time.process_time(), time.monotonic()
    for number in range(rate * SECONDS):
        recorder.append(b"request", make_record(number, "paced"))
        time.sleep(max(0.0, began + (number + 1) / rate - time.monotonic()))
    used = time.process_time() - used
    pipeline.close()
    return used / (rate * SECONDS) * 1e6
