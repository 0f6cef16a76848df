"""Which entry points the records of a group commit are of: how many of each, the first and the last of them. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from operator import itemgetter
from typing import Final, NamedTuple

from audit_middleware.collector.index_rows import Entry
from audit_middleware.inventory_record import DATA_ACTIONS, NOT_ALLOWED, Reached, reached
from audit_middleware.record import AuditRecord

_Seen = tuple[str, str, AuditRecord]
_moment: Final = itemgetter(0)


class Sighting(NamedTuple):
    """Records of one entry point of a service; ``defects`` has the last time of each."""

    service: str
    reached: Reached
    records: int
    first: str
    last: str
    defects: Mapping[str, str]


def sightings_of(entries: Sequence[Entry]) -> list[Sighting]:
    """Return what was seen in a group commit; of each entry point only one record is looked at closely."""
    records: list[_Seen] = [
        (frame.ts, frame.type, payload) for _, frame, payload in entries if isinstance(payload, AuditRecord)
    ]
    records.sort(key=_moment)
    keys = _keys(records)
    counts = Counter(keys)
    counts.pop(None, None)
    if not counts:
        return []
    first, last = dict(zip(reversed(keys), reversed(records), strict=True)), dict(zip(keys, records, strict=True))
    defects = _defects(keys, records)
    return [
        Sighting(record.service, point, number, first[key][0], moment, defects.get(key, {}))
        for key, number in counts.items()
        for moment, type_, record in [last[key]]
        if (point := reached(type_, record)) is not None
    ]


def _keys(records: Sequence[_Seen]) -> list[Hashable | None]:
    """Return for each record something that is the same for those of one entry point, None for what has none."""
    return [
        (record.service, http.protocol, http.method, http.route)
        if type_ == "request" and (http := record.http) is not None and http.status != NOT_ALLOWED
        else (record.service, task.kind, task.name)
        if type_ == "task" and (task := record.task) is not None
        else (record.service, record.action, record.resource.type)
        if type_ == "event" and record.action in DATA_ACTIONS
        else None
        for _, type_, record in records
    ]


def _defects(keys: Sequence[Hashable | None], records: Sequence[_Seen]) -> dict[Hashable | None, dict[str, str]]:
    found: dict[Hashable | None, dict[str, str]] = {}
    for key, (moment, _, record) in zip(keys, records, strict=True):
        if record.defects:
            found.setdefault(key, {}).update(dict.fromkeys(record.defects, moment))
    return found
