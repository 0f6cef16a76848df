"""What a stream says about itself: ``open``, ``beat``, ``close``, and events of the audit trail itself."""

from __future__ import annotations

import os
import socket
import time
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from audit_middleware._version import __version__
from audit_middleware.config import Settings
from audit_middleware.record import (
    UNKNOWN,
    AuditRecord,
    Counters,
    Opened,
    Principal,
    Resource,
    Source,
    StreamHead,
    Trace,
)
from audit_middleware.sealing.text import timestamp


class Announcer:
    """Builds the life-cycle payloads of one process (wire format, section 2)."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @cached_property
    def host(self) -> str:
        """The name of this host."""
        return socket.gethostname()

    @cached_property
    def policy(self) -> str:
        """The SHA-256 (hex) of the settings that decide what is recorded and how."""
        return sha256(msgspec.json.encode(self._settings.digest_source(), order="sorted")).hexdigest()

    def meta(self, service: str, kid: str) -> dict[str, Any]:
        """Return the unsigned hints for people that lie beside a stream."""
        return {"service": service, "pid": os.getpid(), "host": self.host, "kid": kid, "library": __version__}

    def opened(self, service: str, previous: StreamHead | None) -> Opened:
        """Return the payload of the first line of a stream."""
        return Opened(
            service=service,
            version=self._settings.version,
            instance=self._settings.instance or self.host,
            env=self._settings.env,
            host=self.host,
            boot_id=_boot_id(),
            pid=os.getpid(),
            started=timestamp(time.time_ns()).decode(),
            library=__version__,
            policy=self.policy,
            durability=self._settings.durability,
            previous=previous,
        )

    def counters(self, service: str, tally: tuple[int, int, int], spool_bytes: int, checkpoint: int | None) -> Counters:
        """Return the payload of ``beat`` and ``close``; ``tally`` is (seen, recorded, dropped)."""
        return Counters(service, time.monotonic_ns() // 1000, *tally, spool_bytes, checkpoint)

    def event(self, service: str, action: str, reason: str, details: dict[str, Any] | None = None) -> AuditRecord:
        """Return an event of the audit trail itself, done by the system."""
        return AuditRecord(
            service=service,
            principal=Principal("audit-ready", "system", "none"),
            source=Source(ip=UNKNOWN, verdict="unknown", peer=UNKNOWN),
            action=action,
            outcome="success",
            resource=Resource("audit", service),
            trace=Trace(request_id="none"),
            details=details,
            reason=reason[:500],
        )


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return UNKNOWN
