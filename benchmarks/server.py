"""Throughput under real web servers: one worker on one core, 16 keep-alive connections from the other core."""

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
UVICORN = ("uvicorn", "--no-access-log", "--log-level", "critical", "--port")
GUNICORN = ("gunicorn", "--worker-class", "gthread", "--threads", "4", "--log-level", "critical", "--bind")
SERVED = {
    "Starlette under uvicorn": ("starlette", UVICORN),
    "Flask under gunicorn (gthread, 4 threads)": ("flask", GUNICORN),
    "Django under gunicorn (gthread, 4 threads)": ("django", GUNICORN),
    "Django (ASGI) under uvicorn": ("django_async", UVICORN),
}
DOWN = "http://127.0.0.1:9"


def main():
    for title, (framework, command) in SERVED.items():
        folder = Path(tempfile.mkdtemp(prefix="audit-bench-"))
        folder.chmod(0o700)
        processes = []
        try:
            report(title, measure(framework, command, folder, processes))
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait()
            shutil.rmtree(folder)


def measure(framework, command, folder, processes):
    collector = start_collector(folder, processes)
    variants = {
        "bare": ("bare", ""),
        **({"hand-written limit": ("handwritten", "")} if framework == "starlette" else {}),
        "audited, collector up": ("audited", collector),
        "audited, collector down": ("audited", DOWN),
        "OpenTelemetry, no-op exporter": ("traced", ""),
    }
    servers = {
        name: start_app(folder, f"{framework}_{variant}", command, url, processes)
        for name, (variant, url) in variants.items()
    }
    figures = {name: [] for name in servers}
    for _ in range(ROUNDS):
        for name, (port, pid) in servers.items():
            before = cpu_seconds(pid)
            count, seconds = asyncio.run(load(port))
            figures[name].append((count / seconds, (cpu_seconds(pid) - before) / count * 1e6))
    return figures


def report(title, figures):
    medians = {
        name: [statistics.median(column) for column in zip(*values, strict=True)] for name, values in figures.items()
    }
    rate, cpu = medians["bare"]
    show(
        title,
        f"One worker, {CONNECTIONS} connections, {ROUNDS} interleaved rounds of {SECONDS} s; server on core 0, client "
        "and collector on core 1.",
        ("variant", "requests/s", "kept", "server CPU us/request", "added us", "kept by CPU"),
        [
            (name, f"{here:,.0f}", f"{here / rate:.0%}", f"{used:.0f}", f"{used - cpu:+.0f}", f"{cpu / used:.0%}")
            for name, (here, used) in medians.items()
        ],
    )


def start(arguments, environ, core, processes):
    command = ["taskset", "--cpu-list", str(core), sys.executable, "-m", *arguments]
    process = subprocess.Popen(
        command, env={**os.environ, **environ}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    processes.append(process)
    return process


def start_app(folder, app, command, collector, processes):
    """Return the port, and the pid of the process that answers: gunicorn's worker is a child of what was started."""
    port = free_port()
    spool = folder / f"spool-{port}"
    spool.mkdir(mode=0o700)
    environ = {
        "PYTHONPATH": f"{os.getcwd()}{os.pathsep}{os.path.join(os.getcwd(), 'integrations')}",
        "AUDIT_KEYS": KEYS, "AUDIT_SPOOL_DIR": str(spool), "AUDIT_SERVICE": "orders", "AUDIT_COLLECTOR_URL": collector,
    }  # fmt: skip
    address = f"127.0.0.1:{port}" if command is GUNICORN else str(port)
    process = start([*command, address, f"benchmarks.apps:{app}"], environ, 0, processes)
    wait_for(port)
    asyncio.run(load(port, seconds=0.5))
    return port, next(iter(children(process.pid)), process.pid)


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def cpu_seconds(pid):
    """User and system time of a process, all threads (proc_pid_stat(5), fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def start_collector(folder, processes):
    port = free_port()
    arguments = ["audit_middleware", "collect", "--data", str(folder / "data"), "--guard", str(folder / "guard")]
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


async def load(port, seconds=SECONDS):
    os.sched_setaffinity(0, {1})
    began = time.monotonic()
    counts = await asyncio.gather(*(connection(port, began + seconds) for _ in range(CONNECTIONS)))
    return sum(counts), time.monotonic() - began


async def connection(port, until):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    count = 0
    while time.monotonic() < until:
        writer.write(REQUEST)
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"port {port} answers {head.splitlines()[0].decode()}")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
        count += 1
    writer.close()
    return count
