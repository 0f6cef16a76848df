"""Kills writers and adopters of a spool at each of their system calls in turn. Run as a program: SPOOL ACKS.

Each victim is a forked child whose journal makes its system calls through `DyingFiles`: it dies right before its n-th
call, or with half of its n-th write written. Somebody who lives cleans up after each. A writer notes in the
file ACKS what it appended, once the call that appended it has returned.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx  # noqa: F401 - once, not in each child

from audit_middleware import config
from audit_middleware.journal import journal
from audit_middleware.journal.files import REAL_FILES, Files
from audit_middleware.journal.lifecycle import Announcer
from audit_middleware.journal.recorder import Recorder
from audit_middleware.journal.spool import Spool
from audit_middleware.sealing.seal import Sealer
from audit_middleware.shipping.dispatch import dispatch_for
from tests.faults.acks import ack_line

RECORDS = 12
SEGMENT_BYTES = 3000  # so that a dozen records fill several segments


class DyingFiles(Files):
    """Kills this process at its n-th system call; with ``half`` at its n-th write, once half of it is written."""

    def __init__(self, at: int, *, half: bool):
        self._left = at
        self._half = half

    def _pass(self, name, args, named):
        self._left -= not self._half or name in {"write", "pwrite"}
        if self._left == 0:
            if self._half:
                fd, data, *offset = args
                getattr(REAL_FILES, name)(fd, data[: len(data) // 2], *offset)
            os.kill(os.getpid(), signal.SIGKILL)
        return getattr(REAL_FILES, name)(*args, **named)


def _counted(name):
    def call(self, *args, **named):
        return self._pass(name, args, named)

    return call


for _name in [name for name in vars(Files) if not name.startswith("_")]:
    setattr(DyingFiles, _name, _counted(_name))


def write(settings: config.Settings, acks: Path, files: Files) -> None:
    """One process life: a dozen records, upkeep in between, a clean end."""
    committed = []
    commit = Sealer.commit

    def watched(self, line):
        commit(self, line)
        committed[:] = [line]

    Sealer.commit = watched
    recorder = Recorder(settings, settings.keyring(), service="faults", files=files)
    event = Announcer(settings).event("faults", "faults.tested", "a record like any other")
    with open(acks, "ab", buffering=0) as promised:
        for _ in range(RECORDS):
            recorder.append(b"event", event)
            promised.write(ack_line(committed[0]) + b"\n")
        recorder.sync()
        recorder.close()


def deliver(settings: config.Settings, files: Files) -> None:
    """Adopt and deliver whatever is there, as a sidecar does."""
    dispatch = dispatch_for(settings, Spool(settings.spool_dir, files), takes_living=True)
    dispatch.scan()
    while dispatch.turn():
        pass
    dispatch.scan()
    dispatch.release()


def dies(run, *args) -> bool:
    """Run something in a child; say whether it was killed, fail if it failed."""
    child = os.fork()
    if child == 0:
        try:
            run(*args)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise SystemExit(f"a child failed with {status}")
    return os.WIFSIGNALED(status)


def sweep(victim: Callable[[Files], bool]) -> int:
    """Let a victim die at its first system call, at its second, and so on; return how many it makes in a life."""
    deaths = 0
    for half in (False, True):
        for at in itertools.count(1):
            if not victim(DyingFiles(at, half=half)):
                break
            deaths += 1
    return deaths


def main(spool: Path, acks: Path) -> None:
    settings = config.load(spool_dir=spool)
    journal.SEGMENT_BYTES = SEGMENT_BYTES
    torn = []

    def writer(files: Files) -> bool:
        has_died = dies(write, settings, acks, files)
        torn.extend(segment for segment in spool.glob("streams/*/seg-*") if is_torn(segment.read_bytes()))
        clean_up(settings)
        return has_died

    def adopter(files: Files) -> bool:
        dies(write, settings, acks, REAL_FILES)
        has_died = dies(deliver, settings, files)
        clean_up(settings)
        return has_died

    print(
        f"{sweep(writer)} writers and {sweep(adopter)} adopters died, each at another call; {len(torn)} torn tails",
        flush=True,
    )


def clean_up(settings: config.Settings) -> None:
    """Deliver and sweep what the dead left, as if it had lain there for two minutes."""
    then = time.time() - 120
    for path in [*settings.spool_dir.glob(".*"), *settings.spool_dir.glob("streams/.*")]:
        os.utime(path, (then, then))
    dies(deliver, settings, REAL_FILES)


def is_torn(segment: bytes) -> bool:
    return bool(segment) and not segment.endswith(b"\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
