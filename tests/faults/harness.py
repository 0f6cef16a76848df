"""What the fault tests share: a run of one site with its relay, slots in which apps die, and the report at the end.

`SEED` decides everything that is decided here; ``AUDIT_FAULT_SEED`` replays the decisions of an earlier run (not the
kernel's scheduling). ``AUDIT_FAULT_SCALE`` scales the numbers of kills for tries at one's desk.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from audit_middleware.sealing.text import b64url
from tests.faults.acks import Ack
from tests.faults.load import Load
from tests.faults.oracle import Verdict, judge
from tests.faults.processes import POLL_S, Process, Site, listens
from tests.faults.relay import FATES, Relay

# read at import: the fixture that keeps AUDIT_* away from tests runs later
SEED: Final = os.environ.get("AUDIT_FAULT_SEED") or b64url(os.urandom(6)).decode()
SCALE: Final = float(os.environ.get("AUDIT_FAULT_SCALE") or 1.0)

ENOUGH_WITHIN_S: Final = 180.0


def scaled(number: int) -> int:
    """A number of kills, or of what they should bring about, at the scale of this run."""
    return max(3, round(number * SCALE))


@dataclass(slots=True)
class Tally:
    """What was done to the processes of a run."""

    kills: dict[str, int] = field(default_factory=dict)
    torn_tails: int = 0
    in_flight: int = 0
    """Kills that hit while a delivery was on its way."""

    def killed(self, what: str) -> None:
        self.kills[what] = self.kills.get(what, 0) + 1


class Run:
    """A collector, a relay with faults in front of it, and apps that deliver through it; `report` ends it."""

    def __init__(self, name: str, folder: Path, *, rate: float = 0.2, fates=FATES, collector="audit_middleware"):
        self.name = name
        self.seed = f"{SEED}/{name}"
        self.site = Site(folder, self.seed)
        self.relay = Relay(self.site.collector_port, seed=self.seed, rate=rate, fates=fates)
        self.tally = Tally()
        self.loads: list[Load] = []
        self._module = collector
        self._began = time.monotonic()
        self._stack = contextlib.ExitStack()

    def __enter__(self):
        self._stack.enter_context(self.site)
        self._stack.enter_context(self.relay)
        self.site.environ["AUDIT_COLLECTOR_URL"] = self.relay.url
        self.start_collector()
        self.site.wait_until_ready(self.collector)
        return self

    def __exit__(self, *_):
        self.site.end_all()  # before the clients: none of them then waits for an answer that never comes
        self._stack.close()

    def start_collector(self) -> None:
        self.collector = self.site.start_collector(self._module)

    def random(self, what: str) -> random.Random:
        """Decisions of one kind, the same for the same seed."""
        return random.Random(f"{self.seed}/{what}")

    def load(self, port: int, *, clients: int, pause_s: float = 0.0) -> Load:
        """Clients for a port that ask until the run is over."""
        load = self._stack.enter_context(Load(port, clients=clients, pause_s=pause_s))
        self.loads.append(load)
        return load

    def wait_for_acks(self, number: int) -> None:
        """Poll until the clients have that many acknowledgements together."""
        until = time.monotonic() + ENOUGH_WITHIN_S
        while sum(load.count for load in self.loads) < number:
            assert time.monotonic() < until, f"not {number} complete responses within {ENOUGH_WITHIN_S} s"
            time.sleep(POLL_S)

    def kill(self, process: Process, what: str) -> None:
        """SIGKILL, noting what it hit: a delivery on its way, a line half written."""
        process.require_alive()
        self.tally.in_flight += self.relay.in_flight > 0
        process.kill()
        self.tally.killed(what)
        if what in {"collector", "sidecar"}:
            return  # they write no journal
        self.note_torn_tail(process.pid)

    def note_torn_tail(self, pid: int) -> None:
        """A torn tail is the beginning of a sealed line, never anything else."""
        tail = self.site.torn_tail(pid)
        assert b'{"v":1,"kid":"faults"'.startswith(tail[:21]), f"a torn tail that is no prefix: {tail[:80]!r}"
        self.tally.torn_tails += bool(tail)

    def drain(self) -> str:
        """Deliver all that is left over a network that works; say how, fail if anything stays behind."""
        self.relay.calm()
        shipped = self.site.ship("--once", "--timeout", "60")
        assert shipped.returncode == 0, shipped.stdout + shipped.stderr
        assert self.site.leftovers() == []
        return shipped.stdout.strip()

    def judge(self, more: Iterable[Ack] = (), *, verify: bool = True) -> Verdict:
        """Compare everything that was acknowledged with the ledger's files."""
        acks = [*more, *(ack for load in self.loads for ack in load.acks)]
        return judge(self.site.data, acks, self.site.keyring, verify=verify)

    def report(self, verdict: Verdict, *more: str) -> None:
        """Print the figures of the run; the seed with them replays its decisions."""
        kills = ", ".join(f"{number} {what}" for what, number in self.tally.kills.items())
        fates = ", ".join(f"{number} {fate}" for fate, number in sorted(self.relay.counts.items()))
        broken = sum(load.broken for load in self.loads)
        lines = [
            f"{self.name}: {time.monotonic() - self._began:.0f} s, AUDIT_FAULT_SEED={SEED}",
            str(verdict),
            f"killed: {kills or 'none by the harness'}; {self.tally.in_flight} while a delivery was on its way",
            f"{self.tally.torn_tails} torn tails, {broken:,} responses broken; relay: {fates}",
            *more,
        ]
        print("\n    ".join(("", *lines)), flush=True)


class Kills:
    """How many kills are left; taken by several slots at once."""

    def __init__(self, number: int):
        self._left = number
        self._lock = threading.Lock()

    def take(self) -> bool:
        with self._lock:
            self._left -= 1
            return self._left >= 0


@dataclass(slots=True)
class Slots:
    """Ports at which apps live and die in rotation: while one is under load, others start."""

    run: Run
    name: str = "app"
    number: int = 2
    clients: int = 2
    pause_s: float = 0.0
    lifetimes: tuple[float, float] = (0.02, 0.4)
    module: str = "app"
    environ: dict[str, str] = field(default_factory=dict)
    _loads: list[Load] = field(default_factory=list)

    def __post_init__(self):
        for _ in range(self.number):
            port = self.run.site.free_port()
            self._loads.append(self.run.load(port, clients=self.clients, pause_s=self.pause_s))

    @property
    def acknowledged(self) -> int:
        """Complete responses so far."""
        return sum(load.count for load in self._loads)

    def kill(self, number: int, *, again: str = "") -> None:
        """Let apps live and kill each, ``number`` times in all."""
        self.kill_while(Kills(number).take, again=again)

    def kill_while(self, goes_on: Callable[[], bool], *, again: str = "") -> None:
        """Let apps live and kill each, as long as ``goes_on`` says so."""
        with ThreadPoolExecutor(self.number) as pool:
            lives = [pool.submit(self._lives, slot, goes_on, again) for slot in range(self.number)]
        for life in lives:
            life.result()

    def _lives(self, slot: int, goes_on: Callable[[], bool], again: str) -> None:
        moments = self.run.random(f"{self.name} {slot}{again}")
        while goes_on():
            self._live(self._loads[slot], moments.uniform(*self.lifetimes))

    def _live(self, load: Load, lifetime: float) -> None:
        app = self.run.site.start_app(load.port, module=self.module, **self.environ)
        app.wait_until(lambda: listens(load.port), "listening")
        load.open()
        time.sleep(lifetime)  # the random moment is the point
        self.run.kill(app, self.name)
        load.pause()


@contextlib.contextmanager
def beside(run: Run) -> Iterator[None]:
    """Who delivers while short lives end: an app that lives for seconds, and a sidecar. Both are killed as well."""
    over = threading.Event()
    elder = Slots(run, "elder", number=1, pause_s=0.005, lifetimes=(1.0, 5.0))
    with ThreadPoolExecutor(2) as pool:
        jobs = [
            pool.submit(elder.kill_while, lambda: not over.is_set()),
            pool.submit(_follow, run, over),
        ]
        try:
            yield
        finally:
            over.set()
    for job in jobs:
        job.result()


def _follow(run: Run, over: threading.Event) -> None:
    """``audit-ready ship --follow``, killed every few seconds in the middle of what it adopts."""
    moments = run.random("sidecar")
    while not over.is_set():
        sidecar = run.site.start("sidecar", "-m", "audit_middleware", "ship", str(run.site.spool), "--follow")
        over.wait(moments.uniform(1.0, 6.0))
        run.kill(sidecar, "sidecar")
