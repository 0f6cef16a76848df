"""Who is told: the tables ``[[alerts]]`` of the collector's TOML file. Secrets are never in it, only where they are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

import msgspec

from audit_middleware.collector.alerts.rules import Rules
from audit_middleware.collector.monitor.kinds import KINDS, Severity
from audit_middleware.errors import ConfigurationError

Seconds = Annotated[float, msgspec.Meta(gt=0, le=31_536_000)]
Timeout = Annotated[float, msgspec.Meta(gt=0, le=60)]
Text = Annotated[str, msgspec.Meta(min_length=1)]

LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})
PAGERDUTY: Final = "https://events.pagerduty.com/v2/enqueue"
"""PagerDuty Events API v2; accounts in the EU have events.eu.pagerduty.com."""

MIN_SECRET: Final = 16
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")


class _Common(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """What every sink has."""

    name: Text
    timeout_seconds: Timeout = 10.0
    ca_file: str | None = None


class _Telling(_Common, frozen=True, kw_only=True):
    """What every sink has that tells of findings."""

    severity: Severity = "warning"
    kinds: list[str] = []
    repeat_seconds: Seconds = 14_400.0
    interval_seconds: Seconds = 30.0
    named: Annotated[int, msgspec.Meta(ge=1, le=500)] = 20
    acknowledged: bool = True
    resolved: bool = True

    @property
    def rules(self) -> Rules:
        """The same for the `Announcer`."""
        return Rules(
            self.severity,
            frozenset(self.kinds),
            self.repeat_seconds,
            self.interval_seconds,
            self.named,
            self.acknowledged,
            self.resolved,
        )


class WebhookAlerts(_Telling, frozen=True, kw_only=True, tag="webhook"):
    """JSON by POST, signed with a secret that the receiver has too."""

    url: Text
    secret_file: str | None = None
    secret_env: str | None = None


class SlackAlerts(_Telling, frozen=True, kw_only=True, tag="slack"):
    """An incoming webhook of Slack, whose URL is the secret."""

    url_file: str | None = None
    url_env: str | None = None
    acknowledged: bool = False


class PagerDutyAlerts(_Telling, frozen=True, kw_only=True, tag="pagerduty"):
    """PagerDuty's Events API v2; the routing key is the secret."""

    url: Text = PAGERDUTY
    routing_key_file: str | None = None
    routing_key_env: str | None = None
    severity: Severity = "critical"


class AlertmanagerAlerts(_Telling, frozen=True, kw_only=True, tag="alertmanager"):
    """Alertmanager's API v2, which repeats and groups itself; what is open is sent again as long as it is.

    ``repeat_seconds`` is how often; an alert that was not sent three times that long has ended, for Alertmanager.
    """

    url: Text
    token_file: str | None = None
    token_env: str | None = None
    repeat_seconds: Seconds = 60.0
    interval_seconds: Seconds = 5.0
    named: Annotated[int, msgspec.Meta(ge=1, le=500)] = 200
    heartbeat: bool = False


class EmailAlerts(_Telling, frozen=True, kw_only=True, tag="email"):
    """Mail by SMTP; without encryption only to this machine."""

    host: Text
    sender: Text
    to: Annotated[list[Text], msgspec.Meta(min_length=1)]
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 587
    security: Literal["starttls", "tls", "none"] = "starttls"
    user: str | None = None
    password_file: str | None = None
    password_env: str | None = None
    interval_seconds: Seconds = 300.0
    acknowledged: bool = False


class HeartbeatAlerts(_Common, frozen=True, kw_only=True, tag="heartbeat"):
    """A request every so many seconds while the collector works; others notice when none comes."""

    url: str | None = None
    url_file: str | None = None
    url_env: str | None = None
    method: Literal["GET", "POST"] = "GET"
    every_seconds: Annotated[float, msgspec.Meta(ge=1, le=86_400)] = 60.0


TellingSettings = WebhookAlerts | SlackAlerts | PagerDutyAlerts | AlertmanagerAlerts | EmailAlerts
AlertSettings = TellingSettings | HeartbeatAlerts

SECRETS: Final[dict[type, tuple[str, bool]]] = {
    WebhookAlerts: ("secret", True),
    SlackAlerts: ("url", True),
    PagerDutyAlerts: ("routing_key", True),
    AlertmanagerAlerts: ("token", False),
    EmailAlerts: ("password", False),
    HeartbeatAlerts: ("url", False),
}
"""What the secret of each kind is called, and whether it is needed."""


def convert(tables: Sequence[object]) -> list[AlertSettings]:
    """Return the tables as settings; raise `ConfigurationError` that names the one that is wrong."""
    found = [_convert(table, number) for number, table in enumerate(tables)]
    require(found)
    return found


def require(alerts: Sequence[AlertSettings]) -> None:
    """Raise `ConfigurationError` for what contradicts itself, without reading any secret."""
    names = [alert.name for alert in alerts]
    for number, alert in enumerate(alerts):
        try:
            _require(alert, is_alone=names.index(alert.name) == number)
        except ConfigurationError as error:
            raise ConfigurationError(f"alerts[{number}] ({alert.name!r}): {error}; see docs/alerts.md") from error


def require_secrets(alerts: Sequence[AlertSettings], environ: Mapping[str, str]) -> None:
    """Read every secret once, so that a start finds out; raise `ConfigurationError` that names the table."""
    for number, alert in enumerate(alerts):
        try:
            secret_of(alert, environ)
        except ConfigurationError as error:
            raise ConfigurationError(f"alerts[{number}] ({alert.name!r}): {error}") from error


def secret_of(alert: AlertSettings, environ: Mapping[str, str]) -> str | None:
    """Return the secret of a sink, None when it has none; raise `ConfigurationError`."""
    what, is_needed = SECRETS[type(alert)]
    file, variable = getattr(alert, f"{what}_file"), getattr(alert, f"{what}_env")
    if file is None and variable is None:
        if is_needed:
            raise ConfigurationError(f"{what}_file or {what}_env is missing: it names where the secret is")
        return None
    secret = _read(Path(file)) if file is not None else environ.get(variable, "").strip()
    if not secret or not secret.isprintable() or not secret.isascii():
        where = file if file is not None else f"the environment variable {variable}"
        raise ConfigurationError(f"{what}: nothing usable is in {where}: one line of printable ASCII is expected")
    if isinstance(alert, WebhookAlerts) and len(secret) < MIN_SECRET:
        raise ConfigurationError(f"{what}: too short, {MIN_SECRET} letters or more: openssl rand -hex 32")
    if what == "url":
        _require_url(secret, f"what {what}_file or {what}_env names", is_secret=True)
    return secret


def _convert(table: object, number: int) -> AlertSettings:
    name = table.get("name") if isinstance(table, dict) else None
    try:
        found: AlertSettings = msgspec.convert(table, AlertSettings)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        key = path.rstrip("`").removeprefix(".")
        about = f"{key}: {message}" if key else message
        raise ConfigurationError(f"alerts[{number}] ({name!r}): {about}; see docs/alerts.md") from error
    return found


def _require(alert: AlertSettings, *, is_alone: bool) -> None:
    if not is_alone:
        raise ConfigurationError("this name is there twice")
    if not _NAME.fullmatch(alert.name):
        raise ConfigurationError("name: a-z, 0-9 and -, at most 32 letters")
    what, _ = SECRETS[type(alert)]
    if getattr(alert, f"{what}_file") is not None and getattr(alert, f"{what}_env") is not None:
        raise ConfigurationError(f"{what}_file and {what}_env are both set; a secret comes from one place")
    url = getattr(alert, "url", None)
    if url is not None:
        has_secret = (
            isinstance(alert, PagerDutyAlerts)
            or getattr(alert, "token_file", None)
            or getattr(alert, "token_env", None)
        )
        _require_url(url, "url", is_secret=bool(has_secret))
    if isinstance(alert, HeartbeatAlerts):
        _require_one_url(alert)
    else:
        _require_kinds(alert.kinds)
    if isinstance(alert, EmailAlerts):
        _require_mail(alert)


def _require_one_url(alert: HeartbeatAlerts) -> None:
    if [alert.url, alert.url_file, alert.url_env].count(None) != 2:  # noqa: PLR2004 - one of three
        raise ConfigurationError("name one of url, url_file and url_env")


def _require_kinds(kinds: Iterable[str]) -> None:
    unknown = sorted(set(kinds) - KINDS.keys())
    if unknown:
        raise ConfigurationError(f"kinds: {unknown[0]!r} is no kind of finding: {', '.join(KINDS)}")


def _require_mail(alert: EmailAlerts) -> None:
    if alert.security == "none" and alert.host not in LOOPBACK:
        raise ConfigurationError('security: "none" is for a mail server on this machine; use "starttls" or "tls"')
    has_password = alert.password_file is not None or alert.password_env is not None
    if has_password != (alert.user is not None):
        raise ConfigurationError("user and password_file (or password_env) belong together")
    if has_password and alert.security == "none":
        raise ConfigurationError('security: a password is not sent without encryption; use "starttls" or "tls"')
    for address in [alert.sender, *alert.to]:
        if "@" not in address or not address.isprintable() or " " in address:
            raise ConfigurationError(f"{address!r} is no mail address, such as audit@example.com")


def _require_url(url: str, what: str, *, is_secret: bool) -> None:
    """The URL itself is not shown where it is a secret."""
    try:
        parts = urlsplit(url)
        is_url = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_url = False
    if not is_url or not url.isprintable() or " " in url:
        raise ConfigurationError(f"{what}: an http(s) URL is expected, such as https://alerts.example.com/audit")
    if parts.username or parts.password:
        raise ConfigurationError(f"{what}: a URL with a password in it ends up in logs")
    if what == "url" and parts.query:
        raise ConfigurationError("url: a query often carries a secret; leave it out, or use url_file if there is one")
    if is_secret and parts.scheme != "https" and parts.hostname not in LOOPBACK:
        raise ConfigurationError(f"{what}: a secret is only sent by https")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        return ""
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
