"""Who calls: bearer tokens, the services each may deliver for, and its roles."""

from __future__ import annotations

import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, Literal, NamedTuple

import msgspec

from audit_middleware.collector.problems import Problem
from audit_middleware.errors import ConfigurationError

Role = Literal["ingest", "reader", "auditor", "admin"]

EVERY: Final = "*"
ANONYMOUS: Final = "anonymous"
MIN_TOKEN: Final = 16  # characters; a shorter one can be guessed over the network
_HEX: Final = re.compile(r"[0-9a-f]{64}")
_PARTS: Final = (3, 4)  # name:token:services[:roles]


class TokenSetting(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One token as configured: its SHA-256 in hex, or the token itself; or the name in a client's certificate, or both.

    ``certificate`` is a DNS name or URI of the certificate's subjectAltName, or its common name.
    """

    name: str
    services: list[str]
    roles: list[Role] = msgspec.field(default_factory=lambda: ["ingest"])
    sha256: str | None = None
    token: str | None = None
    certificate: str | None = None

    def __repr__(self) -> str:
        return f"TokenSetting(name={self.name!r}, services={self.services!r}, roles={self.roles!r})"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who delivers or reads, as far as the collector trusts it."""

    name: str
    services: frozenset[str]
    roles: frozenset[str]

    def may_deliver_for(self, service: str) -> bool:
        """Say whether a line of ``service`` may come from this caller."""
        return EVERY in self.services or service in self.services

    def may_see(self, service: str | None) -> bool:
        """Say whether what concerns ``service`` is for this caller; None is everybody's, and for those who see all."""
        return EVERY in self.services or (service is not None and service in self.services)

    def require_every_service(self) -> None:
        """Raise `Problem` 403 unless the caller may see every service."""
        if EVERY not in self.services:
            detail = f"token {self.name!r} is for some services only, a log holds those of all: search instead"
            raise Problem(403, "service-missing", detail)

    def require(self, role: Role) -> None:
        """Raise `Problem` 403 unless the caller has ``role``; an auditor may read all that a reader may."""
        if role not in self.roles and not (role == "reader" and "auditor" in self.roles):
            raise Problem(403, "role-missing", f"token {self.name!r} has not the role {role!r}")


OPEN_DOOR: Final = Caller(ANONYMOUS, frozenset({EVERY}), frozenset({"ingest", "reader", "admin"}))


class _Known(NamedTuple):
    digest: bytes | None
    certificate: str | None
    caller: Caller

    @property
    def proof(self) -> bytes | str | None:
        """What tells callers apart."""
        return self.digest or self.certificate


class Tokens:
    """All tokens of a collector; without any, everybody is `OPEN_DOOR`."""

    def __init__(self, settings: Sequence[TokenSetting]) -> None:
        self._callers: list[_Known] = []
        for setting in settings:
            digest, certificate = _digest(setting), setting.certificate
            proof = digest or certificate
            if any(known.proof == proof or known.caller.name == setting.name for known in self._callers):
                raise ConfigurationError(f"token {setting.name!r} is there twice; a name belongs to one token")
            caller = Caller(setting.name, frozenset(setting.services), frozenset(setting.roles))
            self._callers.append(_Known(digest, certificate, caller))

    def __bool__(self) -> bool:
        return bool(self._callers)

    def authenticate(self, authorization: str | None, certificate: frozenset[str] = frozenset()) -> Caller:
        """Return the caller that an ``Authorization`` header proves, or the names in a verified ``certificate``.

        Raises `Problem` 401. Every token is compared, so that time tells nothing about which one came close.
        """
        if not self._callers:
            return OPEN_DOOR
        if authorization is None:
            shown = [
                known.caller for known in self._callers if known.digest is None and known.certificate in certificate
            ]
            if shown:
                return shown[0]
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise _unauthorized("send Authorization: Bearer <token>")
        given = sha256(token.strip().encode("utf-8", "surrogateescape")).digest()
        found = [known for known in self._callers if hmac.compare_digest(known.digest or b"", given)]
        if not found:
            raise _unauthorized("this token is not known here")
        if found[0].certificate is not None and found[0].certificate not in certificate:
            raise _unauthorized("this token comes with a client certificate, which was not shown")
        return found[0].caller


def parse_tokens(text: str, *, origin: str = "AUDIT_TOKENS") -> list[TokenSetting]:
    """Read ``name:token:svc1|svc2[:role|role]``, comma-separated; raise `ConfigurationError`, never with a token."""
    settings = []
    for number, item in enumerate((item.strip() for item in text.split(",") if item.strip()), 1):
        parts = item.split(":")
        if len(parts) not in _PARTS:
            raise ConfigurationError(f"{origin}, token {number}: expected name:token:svc1|svc2[:role|role]")
        roles = parts[3].split("|") if len(parts) == _PARTS[1] else ["ingest"]
        entry = {"name": parts[0], "token": parts[1], "services": parts[2].split("|"), "roles": roles}
        try:
            settings.append(msgspec.convert(entry, TokenSetting))
        except msgspec.ValidationError as error:
            raise ConfigurationError(f"{origin}, token {number}: a role is ingest, reader, auditor or admin") from error
    return settings


def _digest(setting: TokenSetting) -> bytes | None:
    where = f"token {setting.name!r}"
    if not setting.name or not all(setting.services) or not setting.services:
        raise ConfigurationError(f"{where}: needs a name and at least one service, or '*'")
    if setting.certificate is not None and setting.token is None and setting.sha256 is None:
        if not setting.certificate:
            raise ConfigurationError(f"{where}: certificate is a name in the client's certificate")
        return None
    if (setting.token is None) == (setting.sha256 is None):
        raise ConfigurationError(f"{where}: give either token or sha256, or certificate")
    if setting.token is not None:
        if len(setting.token) < MIN_TOKEN:
            raise ConfigurationError(f"{where}: a token has at least {MIN_TOKEN} characters")
        return sha256(setting.token.encode()).digest()
    if not _HEX.fullmatch(setting.sha256 or ""):
        raise ConfigurationError(f"{where}: sha256 is 64 lower-case hex digits")
    return bytes.fromhex(setting.sha256 or "")


def _unauthorized(detail: str) -> Problem:
    return Problem(401, "unauthorized", detail, headers={"WWW-Authenticate": 'Bearer realm="audit-ready"'})
