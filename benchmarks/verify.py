"""How fast a ledger is verified offline: hashes, tree, seals and chains, one core."""

import tempfile
import time
import tracemalloc
from pathlib import Path

from audit_middleware.collector.ledger import Ledger
from audit_middleware.collector.storage.files import FileStore
from audit_middleware.sealing.keys import parse_keys
from audit_middleware.tlog.note import Signer
from audit_middleware.tlog.reader import LogReader
from audit_middleware.verify import verify_logs
from audit_middleware.verify.ledger import Log
from benchmarks.lines import KEYS, make_lines
from benchmarks.table import show

ENTRIES = 100_000


def main():
    keyring = parse_keys(KEYS)
    signer = Signer.generate("bench/default/2026h2")
    with tempfile.TemporaryDirectory(prefix="audit-bench-") as folder:
        path = Path(folder, "log")
        store = FileStore(path)
        ledger = Ledger.open(path, store, signer, guard=Path(folder, "guard"))
        lines = make_lines(keyring, ENTRIES, streams=4)
        for at in range(0, ENTRIES, 1000):
            ledger.append(lines[at : at + 1000])
        ledger.close()
        rows = [measure(store, signer, keyring) for _ in range(3)]
        peak = memory(store, signer, keyring)
    show(
        "Offline verification of a ledger",
        f"{ENTRIES:,} entries of {len(lines[-1])} bytes in 4 streams, page cache warm; every seal, chain, record, tile and the signature.",
        ("run", "entries/s", "us per entry"),
        [
            (number, f"{ENTRIES / seconds:,.0f}", f"{seconds / ENTRIES * 1e6:.1f}")
            for number, seconds in enumerate(rows, 1)
        ],
    )
    print(f"\nMemory allocated at most: {peak / 2**20:.1f} MiB")


def measure(store, signer, keyring):
    began = time.process_time()
    report = verify_logs([Log("bench", LogReader(store.get, signer.verifier))], keyring)
    if report.exit_code:
        raise SystemExit(f"the benchmark's ledger does not verify: {report.findings[:3]}")
    return time.process_time() - began


def memory(store, signer, keyring):
    tracemalloc.start()
    try:
        measure(store, signer, keyring)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
