"""What a collector is configured with: explicit values, then the TOML file, then the environment."""

from __future__ import annotations

import ipaddress
import os
import socket
import ssl
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import msgspec

from audit_middleware.collector.alerts.settings import AlertSettings, convert, require, require_secrets
from audit_middleware.collector.auth import Tokens, TokenSetting, parse_tokens
from audit_middleware.collector.index_settings import IndexSettings, SqliteSettings
from audit_middleware.collector.limits import Limits
from audit_middleware.collector.mistakes import in_words, with_line
from audit_middleware.collector.monitor.settings import MonitorSettings
from audit_middleware.collector.retention.policy import Policy, RetentionSetting
from audit_middleware.collector.storage.settings import FilesSettings, StoreSettings
from audit_middleware.errors import ConfigurationError
from audit_middleware.sealing.keys import Keyring, development_keyring, parse_keys, read_key_file
from audit_middleware.tlog.note import is_log_name

DEFAULT_LISTEN: Final = "127.0.0.1:8600"
ENVIRONMENT: Final = {
    "data": "AUDIT_COLLECTOR_DATA",
    "listen": "AUDIT_COLLECTOR_LISTEN",
    "name": "AUDIT_COLLECTOR_NAME",
    "guard": "AUDIT_COLLECTOR_GUARD",
    "keys": "AUDIT_KEYS",
    "key_file": "AUDIT_KEY_FILE",
}
KEYS: Final = frozenset({"keys", "key_file"})
MAX_PORT: Final = 65535


class TLSSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """PEM files of the collector's certificate and key; ``client_ca`` signs the certificates of clients."""

    certificate: str
    key: str
    client_ca: str | None = None

    def require_files(self) -> None:
        """Raise `ConfigurationError` for a file that is not there, or is not what it should be."""
        for name in ("certificate", "key", "client_ca"):
            file = getattr(self, name)
            if file is not None and not Path(file).is_file():
                raise ConfigurationError(f"tls.{name}: {file} is not there")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self.certificate, self.key, lambda: "")
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"tls.certificate and tls.key: {self.certificate} and {self.key} are no pair of PEM files without a "
                f"password: {error}"
            ) from error
        try:
            context.load_verify_locations(self.client_ca) if self.client_ca else None
        except OSError as error:
            raise ConfigurationError(f"tls.client_ca: {self.client_ca} holds no PEM certificate: {error}") from error


class _Declared(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The members of the TOML file; each is named the same as an explicit value."""

    data: Annotated[str, msgspec.Meta(min_length=1)] = "audit-data"
    listen: str = DEFAULT_LISTEN
    name: str | None = None
    guard: str | None = None
    keys: str | None = None
    key_file: str | None = None
    public_log: bool = False
    tokens: list[TokenSetting] = []
    limits: Limits = Limits()
    tls: TLSSettings | None = None
    retention: list[RetentionSetting] = []
    retention_sweep: bool = True
    store: StoreSettings = FilesSettings()
    monitor: MonitorSettings = MonitorSettings()
    alerts: list[AlertSettings] = []
    index: IndexSettings = SqliteSettings()


class CollectorSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a collector needs to know before it opens; ``guard`` None means the XDG state folder."""

    data: Path
    keyring: Keyring
    host: str = "127.0.0.1"
    port: int = 8600
    name: str | None = None
    guard: Path | None = None
    public_log: bool = False
    tokens: list[TokenSetting] = []
    limits: Limits = Limits()
    tls: TLSSettings | None = None
    retention: list[RetentionSetting] = []
    retention_sweep: bool = True
    store: StoreSettings = FilesSettings()
    monitor: MonitorSettings = MonitorSettings()
    alerts: list[AlertSettings] = []
    index: IndexSettings = SqliteSettings()

    def __post_init__(self) -> None:
        Policy(self.retention)
        if self.tls is not None:
            self.tls.require_files()
        if any(each.certificate for each in self.tokens) and (self.tls is None or self.tls.client_ca is None):
            raise ConfigurationError("a token names a client certificate: set tls.client_ca to the CA that signs them")
        require(self.alerts)
        if self.alerts and not self.monitor.enabled:
            raise ConfigurationError("[[alerts]] tell what the monitor finds, and [monitor] enabled = false")
        if not self.tokens and not is_loopback(self.host):
            raise ConfigurationError(
                f"listening on {self.host} without tokens would let everybody deliver and read: "
                "set AUDIT_TOKENS or [[tokens]], or listen on 127.0.0.1"
            )
        if self.name is not None and not is_log_name(self.name):
            raise ConfigurationError(f"name {self.name!r}: a log's name is printable ASCII, no spaces, plus or comma")

    @property
    def policy(self) -> Policy:
        """How long which services' records are kept."""
        return Policy(self.retention)

    @property
    def guard_folder(self) -> Path:
        """Where the last signed sizes and roots are remembered a second time."""
        return self.guard or state_folder(os.environ) / "guard"


def read_settings(
    file: Path | None = None, environ: Mapping[str, str] = os.environ, **explicit: object
) -> CollectorSettings:
    """Return the settings of ``explicit`` values, the TOML ``file`` and the environment, in this order.

    Raises `ConfigurationError` naming the source, the key and what is expected.
    """
    given, in_file = _from_environment(environ), _from_file(file, environ)
    if KEYS & in_file.keys():  # the keyring comes from one place, and the file is the nearer one
        given = {key: value for key, value in given.items() if key not in KEYS}
    given |= in_file | {k: v for k, v in explicit.items() if v is not None}
    declared = _convert(given, "settings")
    host, port = parse_listen(declared.listen)
    return CollectorSettings(
        data=Path(declared.data),
        keyring=_keyring(declared, environ),
        host=host,
        port=port,
        name=declared.name,
        guard=Path(declared.guard) if declared.guard else None,
        public_log=declared.public_log,
        tokens=declared.tokens,
        limits=declared.limits,
        tls=declared.tls,
        retention=declared.retention,
        retention_sweep=declared.retention_sweep,
        store=declared.store,
        monitor=declared.monitor,
        alerts=declared.alerts,
        index=declared.index,
    )


def read_alerts(file: Path, environ: Mapping[str, str] = os.environ) -> tuple[list[AlertSettings], str]:
    """Return the sinks of a TOML file and the name of the collector, which need no keys; raise `ConfigurationError`."""
    declared = _convert(_from_file(file, environ), str(file))
    return declared.alerts, declared.name or environ.get(ENVIRONMENT["name"]) or default_name()


class Keeping(NamedTuple):
    """What a TOML file says of where records are kept and how long, which needs no keys; ``name`` None: the host's."""

    data: Path
    name: str | None
    store: StoreSettings
    policy: Policy


def read_keeping(file: Path, environ: Mapping[str, str] = os.environ) -> Keeping:
    """Return what a collector's TOML file says of its store and its retention; raise `ConfigurationError` with line."""
    members, text = _parse(file)
    given = {key: environ[ENVIRONMENT[key]] for key in ("data", "name") if environ.get(ENVIRONMENT[key])}
    given |= {key: members[key] for key in ("data", "name", "store", "retention") if key in members}
    try:
        declared = _convert(given, str(file))
        return Keeping(Path(declared.data), declared.name, declared.store, Policy(declared.retention))
    except ConfigurationError as error:
        raise ConfigurationError(with_line(str(error), text, str(file))) from error


def parse_listen(listen: str) -> tuple[str, int]:
    """Split ``HOST:PORT`` (``[::1]:8600`` for IPv6); raise `ConfigurationError`."""
    host, _, port = listen.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > MAX_PORT:
        raise ConfigurationError(f"listen {listen!r}: expected HOST:PORT, such as {DEFAULT_LISTEN}")
    return host.removeprefix("[").removesuffix("]"), int(port)


def is_loopback(host: str) -> bool:
    """Say whether only this machine can reach ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def state_folder(environ: Mapping[str, str]) -> Path:
    """Return this package's folder for state that must outlive the data it speaks of (XDG)."""
    home = environ.get("HOME") or os.path.expanduser("~")
    return Path(environ.get("XDG_STATE_HOME") or os.path.join(home, ".local/state"), "audit-ready")


def default_name() -> str:
    """Return the name of a log nobody named: this host's."""
    name = socket.gethostname()
    return name if is_log_name(name) else "audit-collector"


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    given: dict[str, Any] = {key: environ[variable] for key, variable in ENVIRONMENT.items() if environ.get(variable)}
    if environ.get("AUDIT_TOKENS"):
        given["tokens"] = parse_tokens(environ["AUDIT_TOKENS"])
    return given


def _from_file(file: Path | None, environ: Mapping[str, str]) -> dict[str, Any]:
    if file is None:
        return {}
    members, text = _parse(file)
    try:
        _require_alerts(members.get("alerts"), environ)
        declared = _convert(members, str(file))
        Policy(declared.retention)
        _require_tokens(declared.tokens)
    except ConfigurationError as error:
        raise ConfigurationError(with_line(str(error), text, str(file))) from error
    return members


def _parse(file: Path) -> tuple[dict[str, Any], str]:
    try:
        text = file.read_text(encoding="utf-8")
        return tomllib.loads(text), text
    except OSError as error:
        raise ConfigurationError(f"{file}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{file} is not TOML: {error}") from error


def _require_alerts(tables: object, environ: Mapping[str, str]) -> None:
    """Find out table by table, so that the wrong one is named; another shape is left to `_convert`."""
    if isinstance(tables, list):
        require_secrets(convert(tables), environ)


def _require_tokens(tokens: Sequence[TokenSetting]) -> None:
    """Find out token by token, so that the wrong one is named."""
    for number in range(len(tokens)):
        try:
            Tokens(tokens[: number + 1])
        except ConfigurationError as error:
            raise ConfigurationError(f"tokens[{number}]: {error}") from error


def _convert(members: dict[str, Any], origin: str) -> _Declared:
    try:
        return msgspec.convert(members, _Declared)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{origin}: {in_words(error, _Declared)}") from error


def _keyring(declared: _Declared, environ: Mapping[str, str]) -> Keyring:
    if declared.keys and declared.key_file:
        raise ConfigurationError("keys and key_file are both set; the keyring comes from one place")
    if declared.keys:
        return parse_keys(declared.keys, origin="keys")
    if declared.key_file:
        return read_key_file(Path(declared.key_file))
    return development_keyring(environ)
