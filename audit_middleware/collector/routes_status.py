"""``GET /v1/status``: how the collector and its monitor are doing, for people who watch."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from audit_middleware.collector.auth import Caller
from audit_middleware.collector.collector import Collector
from audit_middleware.collector.monitoring import Monitoring
from audit_middleware.collector.routes import caller_of, collector_of, note_read


async def status(request: Request) -> Response:
    """Answer with state, sizes of the logs, the patrol, the services, and how many findings there are."""
    caller, collector = caller_of(request, "reader"), collector_of(request)
    note_read(request, caller, "status", "")
    collector.require_ready()
    body: dict[str, Any] = {"state": collector.state}
    body["logs"] = [{"origin": log.origin, "size": log.ledger.size} for log in collector.logs]
    if collector.monitoring is not None:
        body["monitor"] = _monitor(collector.monitoring)
        body["services"] = _services(collector.monitoring, caller)
        body["findings"] = _tally(collector, caller)
        body["alerts"] = msgspec.to_builtins(collector.monitoring.alerts.statuses())
    headers = {"Cache-Control": "no-store"}
    return Response(msgspec.json.encode(body), headers=headers, media_type="application/json")


def _monitor(monitoring: Monitoring) -> dict[str, Any]:
    watcher = monitoring.watcher
    return {"is_ready": watcher.is_ready, "since": watcher.since, "patrol": monitoring.patroller.progress()}


def _services(monitoring: Monitoring, caller: Caller) -> list[dict[str, Any]]:
    return [msgspec.to_builtins(each) for each in monitoring.watcher.services if caller.may_see(each.service)]


def _tally(collector: Collector, caller: Caller) -> dict[str, int]:
    """Return how many findings of each severity are open."""
    monitoring = collector.monitoring
    findings = monitoring.watcher.findings if monitoring is not None else ()
    return dict(Counter(each.severity for each in findings if each.state == "open" and caller.may_see(each.service)))
