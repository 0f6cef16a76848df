"""Rows of declared models: who read or changed which ones, as ``event`` records; keys, and never values.

An adapter of a database layer says what a statement did; what it is, for whom, and whether policy lets it happen
without its record is decided here.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, Literal, NamedTuple

import msgspec

from audit_middleware.capture import refusal
from audit_middleware.capture.current import exchange_at_hand
from audit_middleware.capture.exchange import Exchange
from audit_middleware.capture.meaning import MAX_ID
from audit_middleware.capture.work import Work
from audit_middleware.errors import AuditError, JournalError, RequestRefused
from audit_middleware.inventory_record import DATA
from audit_middleware.pipeline import LOGGER, Pipeline, pipeline_at_hand
from audit_middleware.plain import Plainer
from audit_middleware.quiet import IS_ASKING
from audit_middleware.record import UNKNOWN, AuditRecord, Outcome, Resource

Method = Literal["read", "create", "update", "delete"]
ROLLED_BACK: Final = "rolled back"
MAX_KEYS: Final = 500
"""Keys in one record, and..."""
MAX_KEY_BYTES: Final = 16 * 1024
"""...their bytes: half of a line (wire format, section 1)."""
MAX_REMEMBERED: Final = 10_000
"""Keys of one transaction that are remembered until it ends; of those beyond only the number is."""


class Rows(NamedTuple):
    """Rows that a statement read or changed: their keys, or only how many, or not even that."""

    method: Method
    label: str
    keys: Sequence[object] | None
    """A tuple for a key of several columns; None if they are not known."""
    number: int | None = None


class DataTrail:
    """Puts on record what statements do; ``pipeline`` is asked where no request or work is at hand."""

    def __init__(self, pipeline: Callable[[], Pipeline] = pipeline_at_hand) -> None:
        self._pipeline = pipeline

    @property
    def is_quiet(self) -> bool:
        """Whether a statement is the audit trail's own: it looks up who acts."""
        return IS_ASKING.get()

    def require(self, method: Method) -> None:
        """Raise `RequestRefused` when a change must not happen because its record could not be kept."""
        try:
            exchange, pipeline = self._at_hand(method)
            if _denies(exchange, pipeline, method) and not pipeline.vouches(exchange):
                _refuse(exchange)
        except RequestRefused:
            raise
        except Exception as error:  # noqa: BLE001 - containment: `note` meets the same fault, and says so
            LOGGER.debug("audit: %s cannot be asked for: %s", method, type(error).__name__)

    def note(self, rows: Rows, *, outcome: Outcome = "success", reason: str | None = None) -> None:
        """Append the records of ``rows``; raise `RequestRefused` when policy is deny and they cannot be kept."""
        if self.is_quiet or (rows.keys is not None and not rows.keys) or rows.number == 0:
            return
        try:
            exchange, pipeline = self._at_hand(rows.method)
        except AuditError as error:
            LOGGER.error("audit: %s of %s is not on record: %s", rows.method, rows.label, error)
            return
        except Exception:  # noqa: BLE001 - containment: a fault of ours must not fail what happens
            LOGGER.exception("audit: %s of %s is not on record", rows.method, rows.label)
            return
        try:
            for record in _contained(exchange, pipeline, rows, outcome, reason):
                pipeline.event(record)
        except JournalError as error:
            if outcome == "success" and _denies(exchange, pipeline, rows.method):
                _refuse(exchange, error)
            LOGGER.error("audit: %s of %s is not on record: %s", rows.method, rows.label, error)

    def rolled_back(self, changes: Iterable[Rows]) -> None:
        """Say that changes on record did not last. Never raises."""
        for rows in changes:
            self.note(rows, outcome="failure", reason=ROLLED_BACK)

    def _at_hand(self, method: Method) -> tuple[Exchange, Pipeline]:
        exchange = exchange_at_hand()
        gate = exchange.gate if exchange is not None else None
        pipeline = gate if isinstance(gate, Pipeline) else self._pipeline()
        return exchange if exchange is not None else Work(pipeline, DATA + method, "function"), pipeline


class Transaction:
    """The changes of one transaction that are on record, so that it can be said if they do not last."""

    def __init__(self) -> None:
        self.changes: list[Rows] = []
        self._marks: dict[str, int] = {}
        self._keys = 0

    def add(self, rows: Rows) -> None:
        """Remember a change."""
        if rows.keys is not None:
            self._keys += len(rows.keys)
            if self._keys > MAX_REMEMBERED:
                rows = rows._replace(keys=None, number=len(rows.keys))
        if rows.keys is None and self.changes and self.changes[-1][:3] == rows[:3] and rows.number is not None:
            last = self.changes[-1].number
            self.changes[-1] = rows._replace(number=rows.number + last if last is not None else None)
        else:
            self.changes.append(rows)

    def mark(self, name: str) -> None:
        """Begin a savepoint."""
        self._marks[name] = len(self.changes)
        if self.changes:  # what comes after it must not be counted together with what came before
            self.changes.append(Rows("update", "", ()))

    def back_to(self, name: str) -> list[Rows]:
        """Forget what came after a savepoint, and return it."""
        start = self._marks.get(name, 0)  # of a savepoint that is older than this, everything may be gone
        gone, self.changes = self.changes[start:], self.changes[:start]
        return gone

    def end(self) -> list[Rows]:
        """Forget everything, and return it."""
        gone, self.changes = self.changes, []
        self._marks.clear()
        self._keys = 0
        return gone


def _denies(exchange: Exchange, pipeline: Pipeline, method: Method) -> bool:
    policy = exchange.on_failure or pipeline.settings.on_failure
    return policy == "deny" or (policy == "auto" and method != "read")


def _refuse(exchange: Exchange, error: JournalError | None = None) -> None:
    exchange.is_refused = exchange.is_refused or exchange.status is None  # an answer that has begun stays as it is
    raise RequestRefused(refusal.NOT_CARRIED_OUT) from error


def _contained(
    exchange: Exchange, pipeline: Pipeline, rows: Rows, outcome: Outcome, reason: str | None
) -> Iterator[AuditRecord]:
    try:
        yield from list(_records(exchange, rows, outcome, reason))
    except Exception as error:  # noqa: BLE001 - containment, see Pipeline.contain
        pipeline.contain("the record of rows", error)
        lost = Rows(rows.method, rows.label, None)
        yield from _records(exchange, lost, outcome, reason)


def _records(exchange: Exchange, rows: Rows, outcome: Outcome, reason: str | None) -> Iterator[AuditRecord]:
    principal = exchange.principal_now()
    resource = Resource(rows.label, UNKNOWN)
    bare = exchange.event(DATA + rows.method, principal=principal, resource=resource, outcome=outcome, reason=reason)
    missing = ["principal"] if principal.id == UNKNOWN else []
    if rows.keys is None:
        defects = [*missing, "details.keys"] if rows.number is not None else [*missing, "resource.id"]
        details: dict[str, object] | None = {"rows": rows.number} if rows.number is not None else None
        yield _with(bare, _counted(rows.number), defects, details)
        return
    notes = Plainer()
    for keys in _chunks([key_text(key, notes) for key in rows.keys]):
        defects, notes.defects = [*missing, *notes.defects], []
        if len(keys) == 1:
            cut = notes.cut(keys[0], MAX_ID, "resource.id") or UNKNOWN
            record = _with(bare, cut, defects, None)
            yield msgspec.structs.replace(record, truncated=notes.truncated)
        else:
            yield _with(bare, _counted(len(keys)), defects, {"rows": len(keys), "keys": keys})


def _with(record: AuditRecord, id_: str, defects: list[str], details: dict[str, object] | None) -> AuditRecord:
    found = [*(record.defects or ()), *defects]
    resource = Resource(record.resource.type, id_)
    return msgspec.structs.replace(record, resource=resource, defects=found or None, details=details)


def _counted(count: int | None) -> str:
    if count is None:
        return UNKNOWN
    return f"{count} row" if count == 1 else f"{count} rows"


def _chunks(keys: list[str]) -> Iterator[list[str]]:
    """Yield the keys by as many as fit into one record."""
    chunk: list[str] = []
    size = 0
    for key in keys:
        cost = len(key) + 3 if key.isascii() and key.isprintable() else len(json.dumps(key)) + 1
        if chunk and (len(chunk) == MAX_KEYS or size + cost > MAX_KEY_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(key)
        size += cost
    if chunk:
        yield chunk


def key_text(key: object, notes: Plainer) -> str:
    """Spell a primary key: bytes in hexadecimal, several columns with ``/`` between (``%2F`` inside). Never raises."""
    if isinstance(key, tuple):
        parts = (_part(each, notes).replace("%", "%25").replace("/", "%2F") for each in key)
        text = "/".join(parts)
    else:
        text = _part(key, notes)
    return text if len(text) <= MAX_ID else notes.cut(text, MAX_ID, "details.keys")


def _part(key: object, notes: Plainer) -> str:
    if type(key) is int:
        return str(key) if -(1 << 64) < key < 1 << 64 else notes.text(hex(key), "details.keys")
    if isinstance(key, enum.Enum):
        return _part(key.value, notes)
    if isinstance(key, bytes | bytearray | memoryview):
        return bytes(key).hex()
    if key is None:
        notes.defects.append("details.keys")
        return UNKNOWN
    return notes.text(key, "details.keys")
