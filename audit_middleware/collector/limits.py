"""How much the collector takes before it says no; every length that comes from outside has its limit here."""

from __future__ import annotations

from typing import Annotated

import msgspec

Bytes = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sizes in bytes, times in seconds. The first two are the wire format's (section 5)."""

    body_bytes: Bytes = 1024 * 1024
    body_lines: Bytes = 1000
    read_seconds: Seconds = 30.0
    head_seconds: Seconds = 10.0
    connections: Bytes = 1000
    queue_bytes: Bytes = 64 * 1024 * 1024
    group_bytes: Bytes = 4 * 1024 * 1024
    quarantine_bytes: Bytes = 1024 * 1024 * 1024
    streams_in_memory: Bytes = 10_000
    beat_seconds: Seconds = 10.0
    idle_beat_seconds: Seconds = 300.0
    reads_per_second: Seconds = 1000.0
    records_per_second: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """What one token delivers; 0 is no limit."""
