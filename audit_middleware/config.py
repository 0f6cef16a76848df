"""Settings, declared once: this table feeds the dataclass, the environment, the CLI and the docs test.

Order of precedence: keyword arguments, then the framework's own settings, then ``AUDIT_*`` environment variables,
then the default.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, get_args
from urllib.parse import urlsplit

from audit_middleware.config_values import choice, header, hosts, items, networks, seconds, size
from audit_middleware.errors import ConfigurationError
from audit_middleware.record_rules import RecordRules, read_record_rules
from audit_middleware.sealing.keys import Keyring, development_keyring, parse_keys, read_key_file
from audit_middleware.tlog.note import Verifier

Durability = Literal["journal", "fsync", "collector", "memory"]
OnFailure = Literal["deny", "allow", "auto"]
Attempts = Literal["unsafe", "all", "none"]
ForwardedHeader = Literal["auto", "X-Forwarded-For", "Forwarded"]
Shipper = Literal["thread", "external"]
Gzip = Literal["auto", "on", "off"]

_BEARER: Final = re.compile(r"[!-~]+")


class Problem(NamedTuple):
    """A misconfiguration: a stable number, what is wrong, what to do."""

    id: str
    message: str
    hint: str


def _setting(default: Any, help_: str, parse: Callable[[str], Any] = str) -> Any:  # noqa: ANN401 - a field of any type
    return field(default=default, metadata={"help": help_, "parse": parse})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What an application process needs to know; `load` reads it, `problems` checks it."""

    service: str | None = _setting(None, "Name of the service (default: the app's title, else its folder).")
    env: str = _setting("unknown", "Environment the service runs in, such as production.")
    version: str = _setting("unknown", "Version of the service.")
    instance: str | None = _setting(None, "Name of this instance (default: host name).")
    keys: str | None = _setting(
        None, "Application keys kid:base64url, comma-separated, oldest first; the last one seals."
    )
    key_file: Path | None = _setting(None, "File with the same, mode 0600.", Path)
    spool_dir: Path = _setting(Path("audit-spool"), "Folder of the journals, mode 0700.", Path)
    collector_url: tuple[str, ...] = _setting(
        (),
        "Where the shipper delivers, comma-separated: kept to one until it fails; unset: records stay in the spool.",
        items,
    )
    token: str | None = _setting(None, "Ingest token of this service at the collector.")
    log_keys: tuple[str, ...] = _setting(
        (), "Verifier keys (vkey) of the collector's logs, comma-separated; unset: pinned on first use.", items
    )
    durability: Durability = _setting(
        "journal", "What a response waits for: journal, fsync, collector or memory.", choice(*get_args(Durability))
    )
    on_failure: OnFailure = _setting(
        "auto",
        "When the journal cannot take a record: deny, allow, or auto (deny unsafe methods, allow safe ones).",
        choice(*get_args(OnFailure)),
    )
    attempts: Attempts = _setting(
        "unsafe",
        "Which requests get an attempt record before they run: unsafe, all or none.",
        choice(*get_args(Attempts)),
    )
    trusted_proxies: tuple[str, ...] = _setting(
        (), "CIDRs of proxies whose X-Forwarded-For and Forwarded are believed; none by default.", networks
    )
    forwarded_header: ForwardedHeader = _setting(
        "auto",
        "The header that trusted proxies write: X-Forwarded-For, Forwarded, or auto (both must agree).",
        choice(*get_args(ForwardedHeader)),
    )
    request_id_header: str = _setting(
        "X-Request-ID", "Response header that carries the request id; empty: none.", header
    )
    query_parameters: tuple[str, ...] = _setting(
        (), "Names of query parameters that may be recorded, comma-separated; none by default.", items
    )
    internal_hosts: tuple[str, ...] = _setting(
        (),
        "Hosts of our own, comma-separated, such as billing.internal or *.internal: calls to them say who acts.",
        hosts,
    )
    rules_file: Path | None = _setting(None, "TOML file with the organisation's own rules for records.", Path)
    wait_timeout: float = _setting(
        5.0, "Seconds a response waits in the modes fsync and collector before on_failure decides.", seconds
    )
    spool_max: int = _setting(1 << 30, "Bytes the spool may take on this host, such as 1GiB.", size)
    spool_min_free: int = _setting(256 << 20, "Bytes that stay free on the spool's file system.", size)
    shipper: Shipper = _setting(
        "thread",
        "thread ships from this process; external leaves it to `audit-ready ship`.",
        choice(*get_args(Shipper)),
    )
    gzip: Gzip = _setting("auto", "Compress batches: on, off, or auto (not to loopback).", choice(*get_args(Gzip)))
    ca_file: Path | None = _setting(None, "PEM file of the CA that signed the collector's certificate.", Path)
    client_cert: Path | None = _setting(None, "PEM file with the certificate that is shown to the collector.", Path)
    client_key: Path | None = _setting(None, "PEM file with its key, mode 0600; unset: it is in the same file.", Path)

    def keyring(self) -> Keyring:
        """Return the configured keys, else the development key; raise `ConfigurationError` for bad ones."""
        if self.keys is not None:
            return parse_keys(self.keys)
        if self.key_file is not None:
            return read_key_file(self.key_file)
        return development_keyring()

    def record_rules(self) -> RecordRules | None:
        """Return the organisation's rules, None if there are none; raise `ConfigurationError` for a bad file."""
        return read_record_rules(self.rules_file) if self.rules_file is not None else None

    def digest_source(self) -> dict[str, Any]:
        """Return what decides how and what is recorded; ``policy`` of ``open`` and ``coverage`` is its digest."""
        names = (
            "durability",
            "on_failure",
            "attempts",
            "trusted_proxies",
            "forwarded_header",
            "request_id_header",
            "query_parameters",
            "internal_hosts",
        )
        rules = self.record_rules()
        return {name: getattr(self, name) for name in names} | {"rules": rules.digest if rules is not None else None}


SETTINGS: Final = tuple(each.name for each in dataclasses.fields(Settings))
"""The name of every setting."""
COLLECTOR_VARIABLES: Final = frozenset(
    {"AUDIT_TOKENS", "AUDIT_INDEX_DSN", *(f"AUDIT_COLLECTOR_{name}" for name in ("DATA", "LISTEN", "NAME", "GUARD"))}
)
"""What the collector reads from an environment that it may share with applications."""
SECRETS: Final = frozenset({"keys", "token"})
_LISTS: Final = frozenset({"keys"} | {each.name for each in dataclasses.fields(Settings) if each.default == ()})
_ADDRESSES: Final = (ipaddress.IPv4Address, ipaddress.IPv4Network, ipaddress.IPv6Address, ipaddress.IPv6Network)


def variable(name: str) -> str:
    """Return the environment variable of a setting."""
    return f"AUDIT_{name.upper()}"


def load(environ: Mapping[str, str] | None = None, **arguments: Any) -> Settings:  # noqa: ANN401 - settings of any type
    """Return the effective settings; raise `ConfigurationError` naming every one that is wrong."""
    environ = os.environ if environ is None else environ
    known = {each.name: each for each in dataclasses.fields(Settings)}
    unknown = sorted(set(arguments) - set(known))
    if unknown:
        raise ConfigurationError(f"audit.E001: unknown setting {', '.join(unknown)}; known are {', '.join(known)}")
    values = {name: value for name, value in arguments.items() if value is not None}
    wrong = []
    for name, each in known.items():
        source = name if name in values else variable(name)
        try:
            text = _text(values[name], name) if name in values else environ.get(source) or None
            if text is not None:
                text.encode()
                values[name] = each.metadata["parse"](text)
        except UnicodeEncodeError:
            wrong.append(f"audit.E002: {source}: is not UTF-8")
        except TypeError as error:
            wrong.append(f"audit.E002: {source}: {error}")
        except ValueError as error:
            shown = "" if name in SECRETS else f" {text!r}"
            wrong.append(f"audit.E002: {source}{shown}: {error}")
    if wrong:
        raise ConfigurationError("; ".join(wrong))
    return Settings(**values)


def _text(value: object, name: str) -> str:
    """Return a setting that was given as a value as the environment spells it; raise ``TypeError`` if it cannot."""
    if isinstance(value, list | tuple | set | frozenset) and name in _LISTS:
        return ",".join(_text(item, "") for item in value)
    path = os.fspath(value) if isinstance(value, os.PathLike) else value
    if isinstance(path, str):
        return path
    if isinstance(value, (int, float, *_ADDRESSES)) and not isinstance(value, bool):
        return str(value)
    raise TypeError(f"expected text{' or a list of texts' if name in _LISTS else ''}, not {type(value).__name__}")


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """Return ``AUDIT_*`` variables that no setting of the application, collector or tests has."""
    known = {variable(each.name) for each in dataclasses.fields(Settings)} | COLLECTOR_VARIABLES
    return sorted(name for name in environ if name.startswith("AUDIT_") and name not in known)


def _tls_problems(settings: Settings) -> Iterator[Problem]:
    if settings.ca_file is not None and not settings.ca_file.is_file():
        yield Problem("audit.E011", f"the CA file {settings.ca_file} is not there", "set AUDIT_CA_FILE to a PEM file")
    for name, file in (("AUDIT_CLIENT_CERT", settings.client_cert), ("AUDIT_CLIENT_KEY", settings.client_key)):
        if file is not None and not file.is_file():
            yield Problem("audit.E014", f"the file {file} is not there", f"set {name} to a PEM file")
    if settings.client_key is not None and settings.client_cert is None:
        yield Problem("audit.E014", "AUDIT_CLIENT_KEY is the key of no certificate", "set AUDIT_CLIENT_CERT too")


def problems(settings: Settings) -> Iterator[Problem]:
    """Yield what contradicts itself or will not work; ``E`` stops at start-up, ``W`` is announced."""
    if settings.keys is not None and settings.key_file is not None:
        yield Problem("audit.E003", "both AUDIT_KEYS and AUDIT_KEY_FILE are set", "keep one of them")
    yield from _key_problems(settings)
    if settings.durability == "collector" and not settings.collector_url:
        yield Problem("audit.E005", "durability is collector, but no collector is named", "set AUDIT_COLLECTOR_URL")
    if settings.durability == "collector" and settings.shipper == "external":
        yield Problem("audit.E006", "durability is collector, but shipping is external", "set AUDIT_SHIPPER=thread")
    yield from _log_key_problems(settings)
    for url in settings.collector_url:
        if not _is_http_url(url):
            yield Problem("audit.E007", f"collector {url!r} is no http(s) URL", "write http://HOST:PORT")
    if settings.token is not None and not _BEARER.fullmatch(settings.token):
        yield Problem("audit.E010", "the token holds characters no header can carry", "copy AUDIT_TOKEN again")
    yield from _tls_problems(settings)
    try:
        settings.record_rules()
    except ConfigurationError as error:
        yield Problem("audit.E015", str(error), "repair the file that AUDIT_RULES_FILE names")
    if settings.durability == "memory" and not settings.collector_url:
        yield Problem("audit.E009", "durability is memory, but no collector is named", "set AUDIT_COLLECTOR_URL")
    elif settings.durability == "memory":
        yield Problem(
            "audit.W002", "durability is memory: records die with the process", "use it on read-only hosts only"
        )


def _is_http_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


def _key_problems(settings: Settings) -> Iterator[Problem]:
    try:
        keyring = settings.keyring()
    except ConfigurationError as error:
        is_named = settings.keys is not None or settings.key_file is not None
        hint = "repair what is configured" if is_named else "make one with `audit-ready keys new`"
        yield Problem("audit.E004", str(error), hint)
        return
    if keyring.is_development:
        hint = "make one with `audit-ready keys new` and set AUDIT_KEYS"
        yield Problem("audit.W001", "sealing with the development key: these records are no evidence", hint)


def _log_key_problems(settings: Settings) -> Iterator[Problem]:
    for vkey in settings.log_keys:
        try:
            Verifier.parse(vkey)
        except ConfigurationError as error:
            yield Problem("audit.E008", f"a log key cannot be read: {error}", "copy it from the collector's log.vkey")


def check(settings: Settings) -> list[Problem]:
    """Return the warnings; raise `ConfigurationError` with every error."""
    found = list(problems(settings))
    errors = [problem for problem in found if ".E" in problem.id]
    if errors:
        raise ConfigurationError("; ".join(f"{p.id}: {p.message}: {p.hint}" for p in errors))
    return found
