"""The payloads of a collector's own records (wire format, section 3), in the stream that it seals itself."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from audit_middleware.record import Count, LeafHash, Payload, StreamId


class Delivery(Payload, frozen=True):
    """One stream's part of a delivery that the collector accepted."""

    stream: StreamId
    first: Count
    last: Count
    count: Count


class Ingested(Payload, frozen=True):
    """``rec`` of ``ingest``: who delivered what to this collector, and when it was received."""

    service: str
    deliverer: str
    received: str
    deliveries: list[Delivery]


class GapFound(Payload, frozen=True):
    """``rec`` of ``gap``: lines ``first`` to ``last`` of a stream are missing, or have arrived late."""

    service: str
    stream: StreamId
    first: Count
    last: Count
    state: Literal["open", "filled"]


class ConflictFound(Payload, frozen=True):
    """``rec`` of ``conflict``: two different lines carry one (stream, seq)."""

    service: str
    stream: StreamId
    seq: Count
    kept: LeafHash
    other: LeafHash


class Quarantined(Payload, frozen=True):
    """``rec`` of ``quarantine``: a line was kept aside; ``leaf`` is the hash of its bytes."""

    service: str
    leaf: LeafHash
    reason: str
    deliverer: str
    state: Literal["kept", "admitted"] = "kept"
    stream: str | None = None
    seq: Count | None = None


class Retained(Payload, frozen=True):
    """``rec`` of ``retention``: the entries of a log have expired, and go; what remains of it still verifies.

    ``manifest`` is the SHA-256 (hex) of the log's ``expired`` file, which says of each stream what was there.
    """

    service: str
    origin: str
    size: Count
    root: str
    keep: str
    expires: str
    streams: Count
    manifest: str
    plan: str
    by: str


class Held(Payload, frozen=True):
    """``rec`` of ``hold``: what a case needs may not go; empty lists and None are everything, days are included.

    A hold counts from ``placed`` to ``released``, and a release takes two people.
    """

    service: str
    case: str
    state: Literal["placed", "confirmed", "release_asked", "released"]
    reason: str
    by: str
    services: list[str] = msgspec.field(default_factory=list)
    principals: list[str] = msgspec.field(default_factory=list)
    since: str | None = None
    until: str | None = None


class Reviewed(Payload, frozen=True):
    """``rec`` of ``review``: a finding of the collector's monitor entered a state, by itself or by somebody.

    ``about`` and ``kind`` make the ``finding``'s id; ``of_service`` and ``stream`` are whom it concerns, where known.
    """

    service: str
    finding: str
    kind: str
    about: str
    severity: str
    state: Literal["open", "acknowledged", "resolved"]
    occurrence: Count
    first_seen: str
    last_seen: str
    by: str
    evidence: dict[str, Any]
    note: str | None = None
    of_service: str | None = None
    stream: str | None = None


AccessKind = Literal["search", "export", "read", "verify", "findings", "coverage", "status", "retention", "denied"]
"""``export`` is a search that gives lines or proofs away, ``verify`` a log read to verify it, as its reader says."""


class Accessed(Payload, frozen=True):
    """``rec`` of ``access``: somebody read what the collector keeps, or was not let in.

    ``by`` is a token's name, ``what`` the search, log or refused path, ``count`` how often from ``first`` to ``last``.
    """

    service: str
    by: str
    kind: AccessKind
    what: str
    source: str
    count: Count
    first: str
    last: str
