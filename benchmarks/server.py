"""Throughput under uvicorn: one worker on one core, 16 keep-alive connections from another process on the other core."""

import asyncio
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.request import KEYS
from benchmarks.table import show

CONNECTIONS, SECONDS, ROUNDS = 16, 1.5, 7
REQUEST = (
    b"GET /v1/orders/4711 HTTP/1.1\r\nhost: 127.0.0.1\r\nuser-agent: bench\r\naccept: application/json\r\n"
    b"authorization: Bearer eyJhbGciOiJIUzI1NiJ9\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n"
)
APP = """
import os
from audit_middleware import AuditMiddleware
from audit_middleware.sealing.keys import parse_keys
from benchmarks.handwritten import Handwritten
from benchmarks.request import make_app
bare = make_app()
by_hand = make_app()
if "AUDIT_BENCH_LINES" in os.environ:
    by_hand.add_middleware(Handwritten, path=os.environ["AUDIT_BENCH_LINES"], keyring=parse_keys(os.environ["AUDIT_KEYS"]))
audited = make_app()
audited.add_middleware(AuditMiddleware)
"""


def main():
    folder = Path(tempfile.mkdtemp(prefix="audit-bench-"))
    folder.chmod(0o700)
    (folder / "bench_app.py").write_text(APP)
    processes = []
    try:
        collector = start_collector(folder, processes)
        servers = {
            "bare": start_app(folder, "bare", {}, processes),
            "hand-written limit": start_app(folder, "by_hand", {"AUDIT_BENCH_LINES": str(folder / "lines")}, processes),
            "audited, collector up": start_app(folder, "audited", {"AUDIT_COLLECTOR_URL": collector}, processes),
            "audited, collector down": start_app(
                folder, "audited", {"AUDIT_COLLECTOR_URL": "http://127.0.0.1:9"}, processes
            ),
        }
        figures = {name: [] for name in servers}
        for _ in range(ROUNDS):
            for name, (port, process) in servers.items():
                before = cpu_seconds(process.pid)
                count, seconds = asyncio.run(load(port))
                figures[name].append((count / seconds, (cpu_seconds(process.pid) - before) / count * 1e6))
        report(figures)
    finally:
        for process in processes:
            process.kill()
            process.wait()
        shutil.rmtree(folder)


def report(figures):
    medians = {
        name: [statistics.median(column) for column in zip(*values, strict=True)] for name, values in figures.items()
    }
    rate, cpu = medians["bare"]
    show(
        "Throughput under uvicorn",
        f"One worker (h11 or httptools as installed), {CONNECTIONS} connections, {ROUNDS} interleaved rounds of {SECONDS} s; "
        "server on core 0, client and collector on core 1.",
        ("variant", "requests/s", "kept", "server CPU us/request", "added us", "kept by CPU"),
        [
            (name, f"{here:,.0f}", f"{here / rate:.0%}", f"{used:.0f}", f"{used - cpu:+.0f}", f"{cpu / used:.0%}")
            for name, (here, used) in medians.items()
        ],
    )


def start(arguments, environ, core, processes):
    command = ["taskset", "--cpu-list", str(core), *arguments]
    process = subprocess.Popen(
        command, env={**os.environ, **environ}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    processes.append(process)
    return process


def cpu_seconds(pid):
    """User and system time of a process, all threads (proc_pid_stat(5), fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def start_app(folder, name, environ, processes):
    port = free_port()
    spool = folder / f"spool-{port}"
    arguments = [
        sys.executable,
        "-m",
        "uvicorn",
        f"bench_app:{name}",
        "--port",
        str(port),
        "--no-access-log",
        "--log-level",
        "critical",
    ]
    own = {
        "PYTHONPATH": f"{folder}:{os.getcwd()}",
        "AUDIT_KEYS": KEYS,
        "AUDIT_SPOOL_DIR": str(spool),
        "AUDIT_SERVICE": "orders",
    }
    process = start(arguments, {**own, **environ}, 0, processes)
    wait_for(port)
    return port, process


def start_collector(folder, processes):
    port = free_port()
    arguments = [
        sys.executable,
        "-m",
        "audit_middleware",
        "collect",
        "--data",
        str(folder / "data"),
        "--guard",
        str(folder / "guard"),
    ]
    start([*arguments, "--listen", f"127.0.0.1:{port}"], {"AUDIT_KEYS": KEYS}, 1, processes)
    wait_for(port)
    return f"http://127.0.0.1:{port}"


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def wait_for(port):
    until = time.monotonic() + 20
    while time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise SystemExit(f"nothing listens on {port}")


async def load(port):
    os.sched_setaffinity(0, {1})
    until = time.monotonic() + SECONDS
    began = time.monotonic()
    counts = await asyncio.gather(*(connection(port, until) for _ in range(CONNECTIONS)))
    return sum(counts), time.monotonic() - began


async def connection(port, until):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    count = 0
    while time.monotonic() < until:
        writer.write(REQUEST)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
        count += 1
    writer.close()
    return count
