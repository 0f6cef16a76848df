"""What the ``audit_log`` fixture gives a test."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final

from audit_middleware import AuditRecord, Resource
from audit_middleware.record_rules import PREFIX
from audit_middleware.testing.recording import Recording
from audit_middleware.verify import Severity

SHOWN: Final = 20


class AuditLog:
    """The records of one test."""

    def __init__(self, taken: Recording) -> None:
        self._taken = taken

    @property
    def records(self) -> list[AuditRecord]:
        """The ``request``, ``event``, ``task`` and ``call`` records so far, every seal and chain of them verified."""
        __tracebackhide__ = True
        self._verify()
        return self._taken.records

    @property
    def attempts(self) -> list[AuditRecord]:
        """The ``attempt`` records so far: what stands before an unsafe request ran."""
        __tracebackhide__ = True
        self._verify()
        return self._taken.attempts

    def assert_recorded(
        self,
        *,
        action: str | None = None,
        principal: str | None = None,
        outcome: str | None = None,
        resource: Resource | tuple[str, object] | str | None = None,
        status: int | None = None,
        times: int | None = None,
    ) -> list[AuditRecord]:
        """Assert that a record says all of this, exactly ``times`` of them if given; return those that do.

        ``principal`` is its id, ``resource`` a `Resource`, ``(type, id)`` or ``"type:id"``.
        """
        __tracebackhide__ = True
        wanted = {
            "action": action,
            "principal": principal,
            "outcome": outcome,
            "resource": _resource(resource),
            "status": status,
        }
        wanted = {name: value for name, value in wanted.items() if value is not None}
        records = self.records
        found = [record for record in records if _said(record, wanted) == wanted]
        if not found and times != 0:
            raise AssertionError(_not_found(wanted, records))
        if times is not None and len(found) != times:
            raise AssertionError(f"{len(found)} records say {_shown(wanted)}, expected {times}\n{_listed(records)}")
        return found

    def assert_nothing_recorded(self) -> None:
        """Assert that there is no record at all, no attempt either."""
        __tracebackhide__ = True
        records = [*self.attempts, *self.records]
        if records:
            raise AssertionError(f"expected nothing on record\n{_listed(records)}")

    def assert_no_defects(self) -> None:
        """Assert that every field of every record is known.

        An event outside of any request, such as the sign-in that Django's ``client.force_login()`` makes, came from
        nowhere: that its source is unknown is no defect of what is tested.
        """
        __tracebackhide__ = True
        records = self.records
        requests = {record.trace.request_id for record in [*records, *self.attempts] if record.http is not None}
        found = [(record, _defects(record, requests)) for record in records]
        lines = [f"  {_row(record)}: {', '.join(defects)}" for record, defects in found if defects]
        if lines:
            raise AssertionError("\n".join(["expected no defects, these fields are unknown or were replaced:", *lines]))

    def assert_rules_kept(self) -> None:
        """Assert that no record breaks the organisation's own rules; the fixture does so at the end of every test."""
        __tracebackhide__ = True
        found = [(each, [name for name in each.defects or [] if name.startswith(PREFIX)]) for each in self.records]
        lines = [f"  {_row(each)}: {', '.join(broken)}" for each, broken in found if broken]
        if lines:
            raise AssertionError("\n".join(["records of this test break the rules file:", *lines]))

    def _verify(self) -> None:
        __tracebackhide__ = True
        bad = [finding for finding in self._taken.verify().findings if finding.severity is not Severity.NOTE]
        if bad:
            lines = [f"  {finding.rule} at {finding.where}: {finding.message}" for finding in bad]
            raise AssertionError("\n".join(["the records of this test do not verify:", *lines]))


def _defects(record: AuditRecord, requests: AbstractSet[str]) -> list[str]:
    is_outside = record.http is None and record.trace.request_id not in requests
    return [name for name in record.defects or [] if not (is_outside and name == "source")]


def _resource(said: Resource | tuple[str, object] | str | None) -> str | None:
    if isinstance(said, Resource):
        return f"{said.type}:{said.id}"
    return f"{said[0]}:{said[1]}" if isinstance(said, tuple) else said


def _said(record: AuditRecord, names: Sequence[str] | dict[str, Any]) -> dict[str, Any]:
    everything = {
        "action": record.action,
        "principal": record.principal.id,
        "outcome": record.outcome,
        "resource": f"{record.resource.type}:{record.resource.id}",
        "status": record.http.status if record.http is not None else None,
    }
    return {name: everything[name] for name in names}


def _not_found(wanted: dict[str, Any], records: list[AuditRecord]) -> str:
    """Show the record that comes closest, field by field, and all the others."""
    if not records:
        return f"no record says {_shown(wanted)}: nothing is on record at all"

    def agreement(record: AuditRecord) -> int:
        return sum(wanted[name] == value for name, value in _said(record, wanted).items())

    closest = max(reversed(records), key=agreement)
    said = _said(closest, wanted)
    lines = [f"no record says {_shown(wanted)}", "the closest one:"]
    for name, value in wanted.items():
        is_same = said[name] == value
        lines.append(f"    {name}: {value!r}" if is_same else f"  - {name}: {value!r}")
        if not is_same:
            lines.append(f"  + {name}: {said[name]!r}")
    if closest.defects:
        lines.append(f"    defects: {', '.join(closest.defects)}")
    return "\n".join([*lines, _listed(records)])


def _listed(records: list[AuditRecord]) -> str:
    lines = [f"  {_row(record)}" for record in records[-SHOWN:]]
    more = len(records) - len(lines)
    return "\n".join([f"on record ({len(records)}):", *([f"  ... {more} before"] if more else []), *lines])


def _row(record: AuditRecord) -> str:
    status = record.http.status if record.http is not None else "-"
    resource = f"{record.resource.type}:{record.resource.id}"
    return f"{record.action} by {record.principal.id} on {resource}: {record.outcome} ({status})"


def _shown(wanted: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in wanted.items()) or "anything"
