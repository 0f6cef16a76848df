"""From settings to what they set up."""

from __future__ import annotations

from collections.abc import Mapping

from audit_middleware.collector.alerts.alertmanager import Alertmanager
from audit_middleware.collector.alerts.door import Door, Sender
from audit_middleware.collector.alerts.mail import Mail
from audit_middleware.collector.alerts.message import Message
from audit_middleware.collector.alerts.pagerduty import PagerDuty
from audit_middleware.collector.alerts.settings import (
    AlertmanagerAlerts,
    AlertSettings,
    EmailAlerts,
    HeartbeatAlerts,
    SlackAlerts,
    WebhookAlerts,
    secret_of,
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
    secret = secret_of(settings, environ)
    if isinstance(settings, EmailAlerts):
        return Mail(settings, secret)
    if isinstance(settings, HeartbeatAlerts):
        return make_beater(settings, environ)
    if isinstance(settings, SlackAlerts):
        return Slack(_door(settings, secret or "", secret))
    if isinstance(settings, AlertmanagerAlerts):
        return make_alertmanager(settings, environ)
    door = _door(settings, settings.url, secret)
    return Webhook(door, secret or "") if isinstance(settings, WebhookAlerts) else PagerDuty(door, secret or "")


def make_alertmanager(settings: AlertmanagerAlerts, environ: Mapping[str, str]) -> Alertmanager:
    """Return the sender of an Alertmanager."""
    secret = secret_of(settings, environ)
    door = _door(settings, settings.url.rstrip("/") + "/api/v2/alerts", secret)
    return Alertmanager(door, refresh=settings.repeat_seconds, token=secret)


def make_beater(settings: HeartbeatAlerts, environ: Mapping[str, str]) -> Beater:
    """Return what beats."""
    secret = secret_of(settings, environ)
    return Beater(_door(settings, settings.url or secret or "", secret), settings.method)


def _door(settings: AlertSettings, url: str, secret: str | None) -> Door:
    return Door(url, timeout=settings.timeout_seconds, ca_file=settings.ca_file, secrets=(secret,) if secret else ())
