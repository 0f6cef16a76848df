"""Retention at work: plans, takes away what has expired, keeps what is held; by hand and by itself once an hour."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final

from audit_middleware.collector.auth import OPEN_DOOR
from audit_middleware.collector.group import Batch, Said
from audit_middleware.collector.index_store import IndexStore
from audit_middleware.collector.logs import Log, Logs
from audit_middleware.collector.quarantine import Quarantine
from audit_middleware.collector.retention.expiry import declare_expired, remove_entries, write_inventory
from audit_middleware.collector.retention.holds import HoldBook, covers, may_cover
from audit_middleware.collector.retention.ledger_book import LedgerBook
from audit_middleware.collector.retention.plan import Candidate, Item, Plan, make_plan, services_in
from audit_middleware.collector.retention.policy import OWN_CLASS, Policy, following, period_of
from audit_middleware.collector.storage import HoldingStore
from audit_middleware.collector_record import Held, Retained
from audit_middleware.errors import AuditError, ConfigurationError
from audit_middleware.record import COLLECTOR_SERVICE, Payload
from audit_middleware.sealing.keys import Keyring
from audit_middleware.sealing.parse import parse_rec
from audit_middleware.sealing.seal import leaf_hash, parse_frame
from audit_middleware.tlog.encoding import to_base64

SWEEP_SECONDS: Final = 3600.0
FIRST_SWEEP_SECONDS: Final = 60.0
JUMP_SECONDS: Final = 86_400.0
POLICY: Final = "policy"
"""Who deletes when nobody asked: the policy in the configuration."""
_log: Final = logging.getLogger(__name__)


class Retention:
    """Plans and deletes; one thing at a time. Methods may be called from any thread but the committer's.

    ``submit`` hands a batch with records of the collector's own to the committer.
    """

    def __init__(
        self,
        policy: Policy,
        keyring: Keyring,
        logs: Logs,
        index: IndexStore,
        quarantine: Quarantine,
        *,
        submit: Callable[[Batch], None],
        sweeps: bool = True,
    ) -> None:
        self.clock: Callable[[], float] = time.time
        self.policy = policy
        self._ledger_book = LedgerBook(keyring)
        self._logs = logs
        self._index = index
        self._quarantine = quarantine
        self._submit = submit
        self._sweeps = sweeps and any(policy.keep(class_).number is not None for class_ in policy.classes)
        self._newest = max((log.period for log in logs.all), default="")
        self._began = time.time(), time.monotonic()
        self._turn = threading.Lock()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._mirrored: dict[str, bool] = {}

    def start(self) -> None:
        """Finish what a crash cut off; hold and sweep from now on. Called again after a recovery."""
        for finished in list(self._logs.finished.values()):
            remove_entries(finished)
        if self._thread is None:
            self._thread = threading.Thread(target=self._sweep, name="audit-retention", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End sweeping."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def plan(self) -> Plan:
        """Return what would go now, and why the rest stays; raises `BadLedger`, `StorageError`."""
        return self._plan(self._book().standing)

    def apply(self, plan_id: str, by: str) -> list[Item]:
        """Delete what the plan ``plan_id`` says; return it.

        Raises `ConfigurationError` if that is not the plan of this moment, or a hold needs one of the logs after all;
        `BadLedger` if a log, or what the collector says of holds, was altered; `StorageError`.
        """
        with self._turn:
            holds = self._book(is_fresh=True).standing
            plan = self._plan(holds)
            if plan.id != plan_id:
                raise ConfigurationError(f"plan {plan_id!r} is not what would go now: look at the plan again")
            for item in plan.to_delete:
                self._delete(item, plan.id, by, holds)
            return plan.to_delete

    def holds(self) -> list[Held]:
        """Return every hold, released ones too."""
        return list(self._book().holds.values())

    def place(self, held: Held) -> Held:
        """Place a hold; it counts when this returns. Raises `ConfigurationError`."""
        with self._turn:
            return self._say_held(self._book().place(held))

    def confirm(self, case: str, by: str, reason: str) -> Held:
        """Confirm a hold as the second person. Raises `ConfigurationError`."""
        with self._turn:
            return self._say_held(self._book().confirm(case, by, reason))

    def release(self, case: str, by: str, reason: str) -> Held:
        """Ask for a release, or release as the second person. Raises `ConfigurationError`."""
        with self._turn:
            return self._say_held(self._book().release(case, by, reason))

    def _plan(self, holds: Iterable[Held]) -> Plan:
        logs = [
            Candidate(log.class_, log.period, log.origin, log.ledger.size, to_base64(log.ledger.root))
            for log in self._logs
        ]
        return make_plan(self.policy, logs, holds, datetime.fromtimestamp(self.clock(), UTC))

    def _book(self, *, is_fresh: bool = False) -> HoldBook:
        """Read the holds from the ledger itself; no index is asked."""
        return self._ledger_book.read(self._logs, is_fresh=is_fresh)

    def _delete(self, item: Item, plan: str, by: str, holds: list[Held]) -> None:
        log = next(log for log in self._logs if log.origin == item.origin)
        self._require_intact(log, holds)
        manifest, streams = write_inventory(log, self._quarantine)
        self._say(
            "retention",
            Retained(
                service=COLLECTOR_SERVICE,
                origin=item.origin,
                size=item.size,
                root=item.root,
                keep=item.keep,
                expires=item.expires or "",
                streams=streams,
                manifest=sha256(manifest).hexdigest(),
                plan=plan,
                by=by,
            ),
        )
        self._archive_records()
        declare_expired(log.folder)
        finished = self._logs.finish(log.path)
        self._index.forget(log.origin)
        count = remove_entries(finished)
        _log.info("%s has expired: %d entries, %d files removed", item.origin, item.size, count)

    def _archive_records(self) -> None:
        """Whoever reads a bucket knows archived checkpoints only: they cover the record before the entries go."""
        for log in self._logs:
            if log.class_ == OWN_CLASS:
                log.ledger.archive()

    def _require_intact(self, log: Log, holds: list[Held]) -> None:
        """Read every line before it goes: what was altered is evidence, and a hold may name what no plan could see."""
        log.reader().check_tiles(self._unheld_leaves(log, holds))

    @staticmethod
    def _unheld_leaves(log: Log, holds: list[Held]) -> Iterator[bytes]:
        for line in log.ledger.entries():
            if holds:
                frame = parse_frame(line)
                payload = parse_rec(line, frame)
                cases = [held.case for held in holds if covers(held, payload, frame.ts)]
                if cases:
                    raise ConfigurationError(
                        f"{log.origin} holds records of case {', '.join(cases)}: nothing was deleted"
                    )
            yield leaf_hash(line)

    def _say_held(self, held: Held) -> Held:
        self._say("hold", held)
        self._mirror()
        return held

    def _mirror(self) -> None:
        """Let stores that can hold files by themselves do so; what fails is tried again with the next sweep."""
        try:
            holds = self._book().standing
            for log in self._logs:
                self._mirror_log(log, any(may_cover(held, self._services(log), log.period) for held in holds))
        except (AuditError, OSError) as error:
            _log.error("retention: the store could not be told what is held: %s", error)

    def _mirror_log(self, log: Log, is_held: bool) -> None:  # noqa: FBT001 - a fact of the log
        if isinstance(log.store, HoldingStore) and self._mirrored.get(log.path, False) != is_held:
            log.store.hold(is_held=is_held)
            self._mirrored[log.path] = is_held

    def _services(self, log: Log) -> list[str] | None:
        return services_in(self.policy, log.class_)

    def _say(self, type_: str, payload: Payload) -> None:
        """Put a record of the collector's own into the ledger; it is durable when this returns."""
        done: Future[Any] = Future()
        self._submit(Batch([], OPEN_DOOR, done=done, said=[Said(type_, payload)]))
        done.result()

    def _sweep(self) -> None:
        wait = FIRST_SWEEP_SECONDS
        self._mirror()
        while not self._over.wait(wait):
            wait = SWEEP_SECONDS
            self._mirror()
            if self._sweeps:
                self.sweep()

    def sweep(self) -> None:
        """Delete what the policy lets go now; what goes wrong is logged, and tried again an hour later.

        A clock that has jumped must not delete anything: then somebody has to look at the plan, and apply it.
        """
        try:
            plan = self.plan()
            if plan.to_delete and self._has_jumped():
                _log.error(
                    "retention: %d logs have expired by a clock that jumped: look at the plan", len(plan.to_delete)
                )
            elif plan.to_delete:
                self.apply(plan.id, POLICY)
        except (AuditError, OSError) as error:
            _log.error("retention: nothing was deleted: %s", error)
        except Exception:  # noqa: BLE001 -  # containment: a sweep must never end the collector
            _log.exception("retention: nothing was deleted")

    def _has_jumped(self) -> bool:
        """Whether the clock went on by itself since the start, or skipped a half-year while the collector was down."""
        wall, monotonic = self._began
        drift = (self.clock() - wall) - (time.monotonic() - monotonic)
        return abs(drift) > JUMP_SECONDS or (bool(self._newest) and following(self._newest) < period_of(self.clock()))
