"""PagerDuty's Events API v2: https://developer.pagerduty.com/docs/events-api-v2/trigger-events/."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, Literal

import msgspec

from audit_middleware.collector.alerts.door import Door
from audit_middleware.collector.alerts.message import Crowd, Message, News, meaning, plain, say, say_crowd, told, who

Action = Literal["trigger", "acknowledge", "resolve"]
ACTIONS: Final[dict[str, Action]] = {"acknowledged": "acknowledge", "resolved": "resolve"}
SUMMARY: Final = 1024
"""Letters that PagerDuty takes of a summary."""


class PagerDuty:
    """A `Sender`: one incident for each named finding, one for each crowd.

    Its key is that of the finding and not of the occurrence: what comes back before its end was told is the same
    incident.
    """

    def __init__(self, door: Door, routing_key: str) -> None:
        self._door = door
        self._key = routing_key

    def send(self, message: Message) -> str:
        """Send every event; the same again changes nothing there, so that a failure repeats them all."""
        sent = 0
        for event in events(message):
            reply = self._door.request(
                "POST", msgspec.json.encode({"routing_key": self._key} | event), {"content-type": "application/json"}
            )
            if _status(reply.body) != "success":
                raise self._door.failed(f"answers {reply.status} without success: {reply.text}")
            sent += 1
        return f"{sent} events accepted"

    def close(self) -> None:
        """Close the connections."""
        self._door.close()


def events(message: Message) -> Iterator[dict[str, Any]]:
    """Yield the events of a message, without the routing key."""
    if message.is_test:
        key = f"{message.collector}/test"
        yield _trigger(message, key, "a test of this alert, nothing was found", "info", {"class": "test"})
        yield _event(key, "resolve")
    for news in message.news:
        yield from _of_news(message, news)
    for crowd in message.crowds:
        yield _of_crowd(message, crowd)


def _of_news(message: Message, news: News) -> Iterator[dict[str, Any]]:
    finding, key = news.finding, f"{message.collector}/{news.finding.id}"
    action = ACTIONS.get(news.change)
    if action is None or news.is_first:  # what was never triggered can be neither acknowledged nor resolved
        about = {
            "class": finding.kind,
            "component": who(finding),
            "group": finding.kind,
            "timestamp": finding.first_seen,
        }
        yield _trigger(message, key, say(news), finding.severity, about | {"custom_details": told(finding)})
    if action is not None:
        yield _event(key, action)


def _of_crowd(message: Message, crowd: Crowd) -> dict[str, Any]:
    key = f"{message.collector}/many/{crowd.kind}"
    if crowd.open:
        details = {"meaning": meaning(crowd.kind)} | msgspec.to_builtins(crowd)
        return _trigger(
            message, key, say_crowd(crowd), crowd.severity, {"class": crowd.kind, "custom_details": details}
        )
    return _event(key, "acknowledge" if crowd.unresolved else "resolve")


def _trigger(message: Message, key: str, summary: str, severity: str, about: dict[str, Any]) -> dict[str, Any]:
    text = f"{plain(message.collector)}: {summary}"[:SUMMARY]
    payload = {"summary": text, "source": message.collector, "severity": severity} | about
    return _event(key, "trigger") | {"payload": payload, "client": "audit-ready"}


def _event(key: str, action: Action) -> dict[str, Any]:
    return {"event_action": action, "dedup_key": key}


def _status(body: bytes) -> object:
    try:
        answer = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return answer.get("status") if isinstance(answer, dict) else None
