"""What the monitor goes by: ``[monitor]`` in the collector's TOML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from audit_middleware.errors import ConfigurationError
from audit_middleware.record import COLLECTOR_SERVICE
from audit_middleware.record_rules import RecordRules, read_record_rules

Seconds = Annotated[float, msgspec.Meta(gt=0)]
Bytes = Annotated[int, msgspec.Meta(ge=1)]
Service = Annotated[str, msgspec.Meta(min_length=1)]


class MonitorSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Objectives and rates; times in seconds, sizes in bytes."""

    enabled: bool = True
    expected_services: list[Service] = []
    silence_seconds: Seconds = 30.0
    """Three beats: a process beats every 10 s (wire format, section 2)."""

    silence_by_service: dict[Service, Seconds] = {}
    unclosed_seconds: Seconds = 300.0
    settle_seconds: Seconds = 45.0
    """After a start: longer than a shipper's longest pause between two attempts, 30 s."""

    call_seconds: Seconds = 60.0
    """For the record of whoever was called to arrive: longer than a shipper's longest pause, 30 s."""

    lag_seconds: Seconds = 60.0
    skew_seconds: Seconds = 5.0
    spool_bytes: Bytes = 858_993_459
    """Four fifths of the default bound of a spool, 1 GiB."""

    volume_percent: Annotated[int, msgspec.Meta(ge=0, le=100)] = 20
    patrol_bytes: Bytes = 4 * 1024 * 1024
    """Read again every second, at most."""

    rules_file: Service | None = None
    """The organisation's own rules for records, the same file that applications have."""

    def record_rules(self) -> RecordRules | None:
        """Return these rules, None if there are none; raise `ConfigurationError` for a bad file."""
        return read_record_rules(Path(self.rules_file)) if self.rules_file is not None else None

    def silence_of(self, service: str | None) -> float:
        """Return after how many seconds a stream of ``service`` is silent."""
        return self.silence_by_service.get(service or "", self.silence_seconds)

    def __post_init__(self) -> None:
        try:
            self.record_rules()
        except ConfigurationError as error:
            raise ValueError(str(error)) from error
        if COLLECTOR_SERVICE in self.expected_services:
            raise ValueError(f"expected_services names {COLLECTOR_SERVICE}, which is the collector itself")
