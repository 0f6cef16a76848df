"""Alertmanager's API v2: https://github.com/prometheus/alertmanager/blob/main/api/v2/openapi.yaml, `postAlerts`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec

from audit_middleware.collector.alerts.door import Door
from audit_middleware.collector.alerts.message import (
    Crowd,
    Message,
    News,
    evidence,
    meaning,
    plain,
    remedy,
    say,
    say_crowd,
    who,
)
from audit_middleware.collector.monitor.clock import real_clock, spell

REFRESHES: Final = 3
"""An alert ends by itself, for Alertmanager, when so many of its refreshes did not come."""

HEARTBEAT: Final = "AuditCollectorAlive"


class Alertmanager:
    """A `Sender`. ``refresh`` is every how many seconds what is open is sent again."""

    def __init__(self, door: Door, *, refresh: float, token: str | None) -> None:
        self._door = door
        self._refresh = refresh
        self._headers = {"content-type": "application/json"}
        if token is not None:
            self._headers["authorization"] = f"Bearer {token}"

    def send(self, message: Message) -> str:
        """Deliver; status 200 confirms."""
        return self._post(list(alerts(message, message.now + REFRESHES * self._refresh)))

    def beat(self, collector: str, now: Callable[[], float] = lambda: real_clock().wall) -> str:
        """Send the alert that fires as long as the collector works, and ends when it does not."""
        at = now()
        labels = {"alertname": HEARTBEAT, "collector": plain(collector), "severity": "none"}
        summary = {"summary": f"{plain(collector)} is alive: the end of this alert is the alarm"}
        return self._post([_alert(labels, summary, None, at + REFRESHES * self._refresh)])

    def close(self) -> None:
        """Close the connections."""
        self._door.close()

    def _post(self, found: list[dict[str, Any]]) -> str:
        reply = self._door.request("POST", msgspec.json.encode(found), self._headers)
        if reply.status != 200:  # noqa: PLR2004 - HTTP status
            raise self._door.failed(f"answers {reply.status} where Alertmanager answers 200: {reply.text}")
        return f"{len(found)} alerts accepted"


def alerts(message: Message, until: float) -> Iterator[dict[str, Any]]:
    """Yield the alerts of a message; what is open ends at ``until`` unless it is sent again."""
    if message.is_test:
        labels = {"alertname": "AuditAlertTest", "collector": plain(message.collector), "severity": "none"}
        yield _alert(labels, {"summary": "a test of this alert, nothing was found"}, None, message.now + 60)
    for news in message.news:
        yield _of_news(message, news, until)
    for crowd in message.crowds:
        yield _of_crowd(message, crowd, until)


def _of_news(message: Message, news: News, until: float) -> dict[str, Any]:
    """The labels are what identifies an alert there: only one that became graver is another."""
    finding = news.finding
    labels = {
        "alertname": "AuditFinding",
        "collector": plain(message.collector),
        "finding": finding.id,
        "kind": finding.kind,
        "service": who(finding) if finding.service else "",
        "severity": finding.severity,
    }
    annotations = {
        "summary": say(news),
        "description": meaning(finding.kind),
        "remedy": remedy(finding.kind),
        "about": plain(finding.about),
        "evidence": evidence(finding),
    }
    is_firing = finding.state == "open"
    return _alert(labels, annotations, finding.first_seen, until if is_firing else message.now)


def _of_crowd(message: Message, crowd: Crowd, until: float) -> dict[str, Any]:
    labels = {"alertname": "AuditFindings", "collector": plain(message.collector), "kind": crowd.kind}
    annotations = {"summary": say_crowd(crowd), "description": meaning(crowd.kind), "remedy": remedy(crowd.kind)}
    return _alert(labels, annotations, None, until if crowd.open else message.now)


def _alert(labels: dict[str, str], annotations: dict[str, str], since: str | None, until: float) -> dict[str, Any]:
    """An empty label is the same as none (Prometheus' data model), and is left out."""
    found: dict[str, Any] = {"labels": {name: value for name, value in labels.items() if value}}
    found |= {"annotations": annotations, "endsAt": spell(until)}
    return found | ({"startsAt": since} if since else {})
