"""The logs of a collector: one ledger for each retention class and half-year."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from functools import lru_cache
from typing import Final, Self

from audit_middleware.collector.folder import DataFolder
from audit_middleware.collector.ledger import Ledger
from audit_middleware.collector.retention.policy import CLASS, DEFAULT_CLASS, period_of
from audit_middleware.collector.storage import Store
from audit_middleware.collector.storage.durable import storage_errors
from audit_middleware.errors import StorageError
from audit_middleware.tlog.checkpoint import Checkpoint, open_checkpoint
from audit_middleware.tlog.merkle import tree_root
from audit_middleware.tlog.note import Signer
from audit_middleware.tlog.proof import Proof
from audit_middleware.tlog.reader import LogReader
from audit_middleware.tlog.tiles import ENTRIES, WIDTH, width_at
from audit_middleware.verify.expired import FILE as EXPIRED
from audit_middleware.verify.expired import order_of, parse_manifest

BUNDLES: Final = 16  # of up to 256 entries, remembered for each log
_PERIOD: Final = re.compile(r"[0-9]{4}h[12]")


class Log:
    """One ledger under its origin and path; reading is safe from any thread."""

    def __init__(self, folder: DataFolder, class_: str, period: str) -> None:
        self.class_, self.period = class_, period
        self.path = f"{class_}/{period}"
        self.folder = folder.logs / self.path
        self.origin = f"{folder.name}/{self.path}"
        self.store: Store = folder.stores.open(self.folder, self.origin, folder.policy.expires(class_, period))
        self._folder = folder
        self._signer = Signer(self.origin, folder.seed)
        self.ledger = self._open()
        self.verifier = self._signer.verifier
        self._bundle = lru_cache(BUNDLES)(self._read_bundle)  # for searches alone: who verifies reads the store

    def recover(self) -> None:
        """Open the ledger again after a failed append, which finds out how far that came; raises what opening raises.

        Until that succeeds readers have the old one, as it was published last.
        """
        if not self.ledger.is_sound:
            self.ledger.close()
            self.ledger = self._open()

    def _open(self) -> Ledger:
        guard = self._folder.guard / self.path
        return Ledger.open(self.folder, self.store, self._signer, guard=guard)

    @property
    def note(self) -> bytes:
        """The published checkpoint, a signed note."""
        return self.ledger.checkpoint

    def checkpoint(self) -> Checkpoint:
        """Return what the published note says."""
        return open_checkpoint(self.ledger.checkpoint, self.verifier)

    def reader(self) -> LogReader:
        """Return a reader of the tree as it is published now."""
        return LogReader(self.store.get, self.verifier, checkpoint=self.ledger.published)

    def root(self, size: int) -> bytes:
        """Return the root of the first ``size`` entries."""
        return tree_root(size, self.reader().nodes())

    def entry(self, index: int) -> bytes:
        """Return one sealed line; those a search finds lie together, and a bucket is far away."""
        size = self.ledger.size
        if not 0 <= index < size:
            return self.ledger.entry(index)  # which says what is wrong
        number = index // WIDTH
        return self._bundle(number, width_at(ENTRIES, number, size))[index % WIDTH]

    def _read_bundle(self, number: int, _width: int) -> list[bytes]:
        return self.reader().bundle(number)

    def proof(self, index: int) -> bytes:
        """Return the C2SP tlog-proof of one entry against the present checkpoint."""
        note = self.ledger.checkpoint
        size = open_checkpoint(note, self.verifier).size
        return Proof(index, tuple(self.ledger.inclusion(index, size)), note).encode()

    def consistency(self, old: int, new: int) -> list[bytes] | None:
        """Return the proof from ``old`` to ``new``, empty where none is needed; None if ``old`` is larger."""
        if old > new:
            return None
        return [] if old in {0, new} else self.ledger.consistency(old, new)


class FinishedLog:
    """What remains of a log whose entries have expired; nothing is ever appended to it."""

    def __init__(self, folder: DataFolder, class_: str, period: str) -> None:
        self.class_, self.period = class_, period
        self.path = f"{class_}/{period}"
        self.folder = folder.logs / self.path
        self.origin = f"{folder.name}/{self.path}"
        self.store: Store = folder.stores.open(self.folder, self.origin, None)
        self.verifier = Signer(self.origin, folder.seed).verifier
        with storage_errors(f"cannot read {self.folder}"):
            self.note = (self.folder / "checkpoint").read_bytes()
            self.manifest = parse_manifest((self.folder / EXPIRED).read_bytes())

    @property
    def size(self) -> int:
        """How many entries it had."""
        return open_checkpoint(self.note, self.verifier).size

    @property
    def root(self) -> bytes:
        """The root of its tree."""
        return open_checkpoint(self.note, self.verifier).root


class Logs:
    """Every log of a data folder, oldest period first. `current` opens a new one when a half-year begins.

    Iterating gives those with their entries; ``finished`` are those whose entries have expired.
    """

    def __init__(self, folder: DataFolder) -> None:
        self._folder = folder
        self._logs: dict[str, Log] = {}
        self.finished: dict[str, FinishedLog] = {}
        try:
            for path in self._existing():
                class_, _, period = path.partition("/")
                if (folder.logs / path / EXPIRED).exists():
                    self.finished[path] = FinishedLog(folder, class_, period)
                else:
                    self._logs[path] = Log(folder, class_, period)
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Iterator[Log]:
        return iter(list(self._logs.values()))

    def current(self, seconds: float, class_: str = DEFAULT_CLASS) -> Log:
        """Return the log that takes what is received at ``seconds``; raises what `Ledger.open` raises."""
        # a clock that is set back must not write into a period that has ended
        paths = [*self._logs, *self.finished]
        newest = max((path.partition("/")[2] for path in paths if path.startswith(f"{class_}/")), default="")
        period = max(period_of(seconds), newest)
        if f"{class_}/{period}" in self.finished:
            raise StorageError(
                f"{class_}/{period} has expired, and it is the newest of its class: is the clock right? "
                "Set it, and start the collector again"
            )
        log = self._logs.get(f"{class_}/{period}")
        if log is None:
            ended = self._logs.get(f"{class_}/{newest}")
            if ended is not None:
                ended.ledger.keep_last()
            log = self._logs[f"{class_}/{period}"] = Log(self._folder, class_, period)
            self.publish_vkeys()
        return log

    def find(self, path: str) -> Log | FinishedLog | None:
        """Return the log of ``<class>/<period>``, or what remains of it."""
        return self._logs.get(path) or self.finished.get(path)

    def finish(self, path: str) -> FinishedLog:
        """Close a log whose entries have expired; raises `StorageError`."""
        log = self._logs.pop(path)
        log.ledger.close()
        finished = self.finished[path] = FinishedLog(self._folder, log.class_, log.period)
        return finished

    @property
    def all(self) -> list[Log | FinishedLog]:
        """Every log, in the order in which they are replayed: by period, the collector's own class first."""
        every: list[Log | FinishedLog] = [*self._logs.values(), *self.finished.values()]
        return sorted(every, key=lambda log: order_of(log.path))

    def by_origin(self, origin: str) -> Log | None:
        """Return the log of an origin."""
        return next((log for log in self if log.origin == origin), None)

    @property
    def vkeys(self) -> list[str]:
        """The verifier key of every log."""
        return [log.verifier.vkey for log in self.all]

    def publish_vkeys(self) -> None:
        """Write the verifier keys beside the logs."""
        self._folder.write_vkeys(self.vkeys)

    def recover(self) -> None:
        """Open every ledger again in which an append failed."""
        for log in self:
            log.recover()

    def close(self) -> None:
        """Close every ledger."""
        with ExitStack() as all_of_them:
            for log in self:
                all_of_them.callback(log.ledger.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _existing(self) -> list[str]:
        root = self._folder.logs
        found = [path.relative_to(root).as_posix() for path in root.glob("*/*") if path.is_dir()]
        named = [path for path in found if CLASS.fullmatch(path.split("/")[0]) and _PERIOD.fullmatch(path[-6:])]
        return sorted(named, key=order_of)
