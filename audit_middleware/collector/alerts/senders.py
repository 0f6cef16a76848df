"""From settings to what they set up."""

from __future__ import annotations

from collections.abc import Mapping

from audit_middleware.collector.alerts.alertmanager import Alertmanager
from audit_middleware.collector.alerts.door import Door, Sender
from audit_middleware.collector.alerts.mail import Mail
from audit_middleware.collector.alerts.message import Message
from audit_middleware.collector.alerts.pagerduty import PagerDuty
from audit_middleware.collector.alerts.renewing import Renewing
from audit_middleware.collector.alerts.settings import (
    AlertmanagerAlerts,
    AlertSettings,
    EmailAlerts,
    HeartbeatAlerts,
    PagerDutyAlerts,
    SlackAlerts,
    WebhookAlerts,
)
from audit_middleware.collector.alerts.slack import Slack
from audit_middleware.collector.alerts.webhook import Webhook


class Beater:
    """Asks for the URL of a dead man's switch. A `Sender` too, for the test of it: a test is a beat."""

    def __init__(self, door: Door, method: str) -> None:
        self._door = door
        self._method = method

    def beat(self) -> str:
        """Send one; any 2xx confirms."""
        reply = self._door.request(self._method)
        return f"{reply.status} {reply.text}".strip()

    def send(self, message: Message) -> str:  # noqa: ARG002 - a beat says nothing
        """Send one beat."""
        return self.beat()

    def close(self) -> None:
        """Close the connections."""
        self._door.close()


def make_sender(settings: AlertSettings, environ: Mapping[str, str]) -> Sender:
    """Return the sender of a table; raises `ConfigurationError` for a secret that is not there."""
    if isinstance(settings, HeartbeatAlerts):
        return make_beater(settings, environ)
    if isinstance(settings, AlertmanagerAlerts):
        return make_alertmanager(settings, environ)
    return Renewing(lambda secret: _sender(settings, secret), settings, environ)


def _sender(settings: EmailAlerts | SlackAlerts | WebhookAlerts | PagerDutyAlerts, secret: str | None) -> Sender:
    if isinstance(settings, EmailAlerts):
        return Mail(settings, secret)
    if isinstance(settings, SlackAlerts):
        return Slack(_door(settings, secret or "", secret))
    door = _door(settings, settings.url, secret)
    return Webhook(door, secret or "") if isinstance(settings, WebhookAlerts) else PagerDuty(door, secret or "")


def make_alertmanager(settings: AlertmanagerAlerts, environ: Mapping[str, str]) -> Renewing[Alertmanager]:
    """Return the sender of an Alertmanager."""

    def make(secret: str | None) -> Alertmanager:
        door = _door(settings, settings.url.rstrip("/") + "/api/v2/alerts", secret)
        return Alertmanager(door, refresh=settings.repeat_seconds, token=secret)

    return Renewing(make, settings, environ)


def make_beater(settings: HeartbeatAlerts, environ: Mapping[str, str]) -> Renewing[Beater]:
    """Return what beats."""

    def make(secret: str | None) -> Beater:
        return Beater(_door(settings, settings.url or secret or "", secret), settings.method)

    return Renewing(make, settings, environ)


def _door(settings: AlertSettings, url: str, secret: str | None) -> Door:
    return Door(url, timeout=settings.timeout_seconds, ca_file=settings.ca_file, secrets=(secret,) if secret else ())
