"""The logs of a collector: one ledger for each retention class and half-year."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, Self

from audit_middleware.collector.folder import DataFolder
from audit_middleware.collector.ledger import Ledger
from audit_middleware.collector.retention.policy import CLASS, DEFAULT_CLASS, period_of
from audit_middleware.collector.storage import Store
from audit_middleware.collector.storage.durable import storage_errors
from audit_middleware.collector.storage.files import FileStore
from audit_middleware.errors import StorageError
from audit_middleware.tlog.checkpoint import Checkpoint, open_checkpoint
from audit_middleware.tlog.merkle import tree_root
from audit_middleware.tlog.note import Signer
from audit_middleware.tlog.proof import Proof
from audit_middleware.tlog.reader import LogReader
from audit_middleware.verify.expired import FILE as EXPIRED
from audit_middleware.verify.expired import order_of, parse_manifest

_PERIOD: Final = re.compile(r"[0-9]{4}h[12]")


class Log:
    """One ledger under its origin and path; reading is safe from any thread."""

    def __init__(self, folder: DataFolder, class_: str, period: str) -> None:
        self.class_, self.period = class_, period
        self.path = f"{class_}/{period}"
        self.folder = folder.logs / self.path
        self.origin = f"{folder.name}/{self.path}"
        self.store: Store = FileStore(folder.logs / self.path)
        signer = Signer(self.origin, folder.seed)
        self.ledger = Ledger.open(folder.logs / self.path, self.store, signer, guard=folder.guard / self.path)
        self.verifier = signer.verifier

    @property
    def note(self) -> bytes:
        """The published checkpoint, a signed note."""
        return self.ledger.checkpoint

    def checkpoint(self) -> Checkpoint:
        """Return what the published note says."""
        return open_checkpoint(self.ledger.checkpoint, self.verifier)

    def reader(self) -> LogReader:
        """Return a reader of the tree as it is published now."""
        return LogReader(self.store.get, self.verifier, checkpoint=self.checkpoint())

    def root(self, size: int) -> bytes:
        """Return the root of the first ``size`` entries."""
        return tree_root(size, self.reader().nodes())

    def entry(self, index: int) -> bytes:
        """Return one sealed line."""
        return self.ledger.entry(index)

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
        self.store: Store = FileStore(self.folder)
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

    def close(self) -> None:
        """Close every ledger."""
        for log in self._logs.values():
            log.ledger.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _existing(self) -> list[str]:
        root = self._folder.logs
        found = [path.relative_to(root).as_posix() for path in root.glob("*/*") if path.is_dir()]
        named = [path for path in found if CLASS.fullmatch(path.split("/")[0]) and _PERIOD.fullmatch(path[-6:])]
        return sorted(named, key=order_of)
