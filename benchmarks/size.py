"""``python -m benchmarks size --records 10000000 [--index postgres] [--folder DIR]``: starting and searching at size.

The collector is a fresh process of the command; what it starts from is a ledger and an index of as many records. A
folder that is named is kept, and used again the next time.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlencode

from benchmarks.build import NAME, build
from benchmarks.lines import KEYS
from benchmarks.population import ACTIONS, DAYS, PEOPLE, RESOURCES, SERVICES, person
from benchmarks.server import free_port
from benchmarks.table import show

QUERIES, WATCHED = 60, 60  # searches of each kind; seconds
HOURS = (1, 24, 7 * 24, 30 * 24)
MIB = 1 << 20


def main(arguments):
    options = parse(arguments)
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="audit-bench-")))
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        until = build(folder, options.records)
        place = Place(folder)
        if options.index == "postgres":
            place = stack.enter_context(shared(folder, options.records))
        starts, searches = measure(place, until)
    where = f"{options.records:,} records of {SERVICES * 4 * 25:,} streams and {PEOPLE:,} people in {DAYS} days; {options.index}"
    show(
        f"A collector that starts on {options.records:,} records",
        f"{where}. From exec until /readyz answers 200; MiB resident: anonymous memory, and pages of files mapped.",
        ("start", "s until ready", "MiB anonymous", "MiB of files", "MiB at most"),
        starts,
    )
    show(
        "Searches over HTTP, pages of 100, each recorded",
        f"{where}. {QUERIES} different searches of each kind; ms. Cold: no page of index and ledger in memory before the first.",
        ("search", "records", "cold first", "cold p50", "cold p95", "again p50", "again p95"),
        searches,
    )


def parse(arguments):
    parser = argparse.ArgumentParser(prog="python -m benchmarks size")
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--index", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--folder", type=Path)
    return parser.parse_args(arguments)


class Place:
    """Where a collector finds what it starts from."""

    def __init__(self, folder, config=None, files=()):
        self.data, self.guard, self.config = folder / "data", folder / "guard", config
        self.files = (self.data, *files)

    def forget_pages(self):
        """Have the kernel drop what it holds of the files, without touching those of others (posix_fadvise(2))."""
        os.sync()
        for folder in self.files:
            for path in folder.rglob("*"):
                if path.is_file() and not path.is_symlink():
                    descriptor = os.open(path, os.O_RDONLY)
                    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                    os.close(descriptor)


@contextlib.contextmanager
def shared(folder, records):
    """Give the same ledger with an index in PostgreSQL; a collector fills it first, which is said."""
    from benchmarks.postgres import twin

    with twin(folder) as place:
        began = time.monotonic()
        with Running(place, wait=7200) as running:
            print(f"PostgreSQL took {records:,} records in {time.monotonic() - began:.0f} s", flush=True)
            running.watch(5)
        yield place


class Running:
    """A collector process."""

    def __init__(self, place, wait=600.0):
        self.port = free_port()
        command = [sys.executable, "-m", "audit_middleware", "collect", "--data", str(place.data), "--name", NAME]
        command += ["--guard", str(place.guard), "--listen", f"127.0.0.1:{self.port}"]
        command += ["--config", str(place.config)] if place.config else []
        began = time.monotonic()
        with open(place.data.parent / "collector.log", "ab") as log:
            self.process = subprocess.Popen(
                command, env={**os.environ, "AUDIT_KEYS": KEYS}, stdout=subprocess.DEVNULL, stderr=log
            )
        self.http = HTTPConnection("127.0.0.1", self.port, timeout=60)
        self.until_ready = self.wait_for("/readyz", began, wait)

    def wait_for(self, path, began, seconds=600.0):
        while time.monotonic() - began < seconds:
            if self.process.poll() is not None:
                raise SystemExit("the collector ended: see collector.log beside its data")
            with contextlib.suppress(OSError):
                if self.get(path)[0] == 200:
                    return time.monotonic() - began
            time.sleep(0.01)
        raise SystemExit(f"{path} did not become 200 in {seconds} s")

    def get(self, path):
        try:
            self.http.request("GET", path)
            answer = self.http.getresponse()
            return answer.status, answer.read()
        except BaseException:
            self.http.close()
            raise

    def memory(self):
        """Return RssAnon, RssFile and VmHWM in MiB (proc(5))."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        values = {name: rest.split() for name, _, rest in (line.partition(":") for line in lines)}
        return [round(int(values[name][0]) * 1024 / MIB) for name in ("RssAnon", "RssFile", "VmHWM")]

    def row(self, name):
        return (name, f"{self.until_ready:.2f}", *self.memory())

    def watch(self, seconds):
        self.http.close()  # the server would, meanwhile
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self.process.poll() is not None:
                raise SystemExit("the collector ended: see collector.log beside its data")
            time.sleep(0.5)

    def stop(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        self.process.wait()
        self.http.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.stop()


class Rows(list):
    """Rows of a table, shown as they come: the next one may take minutes."""

    def append(self, cells):
        super().append(cells)
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def measure(place, until):
    starts = Rows()
    (place.data / "monitor.json").unlink(missing_ok=True)
    place.forget_pages()
    with Running(place) as running:
        starts.append(running.row("without the monitor's memory, no page in memory"))
        began = time.monotonic()
        running.wait_for("/v1/findings", began)
        took = time.monotonic() - began
        starts.append((f"... once the monitor has read the ledger ({took:.0f} s more)", "", *running.memory()))
    with Running(place) as running:
        starts.append(running.row("after an orderly end"))
        running.watch(2)
        running.stop(signal.SIGKILL)
    place.forget_pages()
    with Running(place) as running:
        starts.append(running.row("after kill -9, no page in memory"))
        running.watch(WATCHED)
        starts.append((f"... {WATCHED} s later", "", *running.memory()))
        searches = search_all(place, running, until)
        starts.append(("... after all searches", "", *running.memory()))
    return starts, searches


def search_all(place, running, until):
    dice = random.Random(7)
    kinds = {name: [make(dice, until) for _ in range(QUERIES)] for name, make in KINDS.items()}
    kinds["request id"] = [{"request_id": each} for each in request_ids(running, dice, until)]
    rows = Rows()
    for name, queries in kinds.items():
        place.forget_pages()
        running.http.close()  # the server has, when that took long
        cold = [search(running, query) for query in queries]
        again = [search(running, query) for query in queries]
        rows.append(row(name, cold, again))
    return rows


def row(name, cold, again):
    given_up = sum(count is None for count, _ in [*cold, *again])
    found = statistics.median(count or 0 for count, _ in cold)
    cold_ms, again_ms = [seconds * 1e3 for _, seconds in cold], [seconds * 1e3 for _, seconds in again]
    figures = (cold_ms[0], *spread(cold_ms), *spread(again_ms))
    return (
        name,
        f"{found:.0f}" + (f" ({given_up} given up)" if given_up else ""),
        *(f"{figure:.0f}" for figure in figures),
    )


def spread(values):
    return statistics.median(values), statistics.quantiles(values, n=20)[-1]


def search(running, query):
    began = time.perf_counter()
    status, body = running.get("/v1/records?" + urlencode(query))
    seconds = time.perf_counter() - began
    if status == 503 and b"search-too-slow" in body:
        return None, seconds
    if status != 200:
        raise SystemExit(f"{query} is answered with {status}: {body[:300]!r}")
    return len(json.loads(body)["records"]), seconds


def request_ids(running, dice, until):
    found = []
    while len(found) < QUERIES:
        query = {"limit": "1", "type": "request", **window(dice, until, 24)}
        _, body = running.get("/v1/records?" + urlencode(query))
        found += [each["record"]["rec"]["trace"]["request_id"] for each in json.loads(body)["records"]]
    return found


def window(dice, until, hours):
    end = until // 1000 - dice.randrange((DAYS * 24 - hours) * 3600) * 10**6
    return {"from": moment(end - hours * 3600 * 10**6), "to": moment(end)}


def moment(microseconds):
    return datetime.fromtimestamp(microseconds / 10**6, UTC).isoformat()


def anybody(dice):
    return person(int(PEOPLE ** dice.random()) - 1)  # as often one of the busy few as one of the many


def action(dice):
    kind = dice.randrange(ACTIONS)
    return f"{('GET', 'POST', 'PUT', 'DELETE')[kind % 4]} /service-{dice.randrange(SERVICES):02}/{kind}/{{id}}"


KINDS = {
    "principal and time": lambda dice, until: {"principal": anybody(dice), **window(dice, until, dice.choice(HOURS))},
    "principal": lambda dice, until: {"principal": anybody(dice)},
    "resource and time": lambda dice, until: {
        "resource": f"kind-{dice.randrange(ACTIONS)}:{dice.randrange(RESOURCES)}",
        **window(dice, until, 30 * 24),
    },
    "resource": lambda dice, until: {"resource": str(dice.randrange(RESOURCES))},
    "action and time": lambda dice, until: {"action": action(dice), **window(dice, until, 24)},
    "principal, action and time": lambda dice, until: {
        "principal": anybody(dice),
        "action": action(dice),
        **window(dice, until, 30 * 24),
    },
    "service and time": lambda dice, until: {
        "service": f"service-{dice.randrange(SERVICES):02}",
        **window(dice, until, 24),
    },
    "time alone": lambda dice, until: window(dice, until, 1),
    "denied, unbounded": lambda dice, until: {"outcome": "denied"},
}
