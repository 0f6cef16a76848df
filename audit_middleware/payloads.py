"""Every payload by its type, and the JSON Schema of all of them (wire format, section 3)."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from audit_middleware.collector_record import (
    Accessed,
    ConflictFound,
    GapFound,
    Held,
    Ingested,
    Quarantined,
    Retained,
    Reviewed,
)
from audit_middleware.inventory_record import Inventory
from audit_middleware.record import APPLICATION_TYPES, AuditRecord, Counters, Dropped, Opened, Payload

PAYLOADS: Final[dict[str, type[Payload]]] = {
    **dict.fromkeys(sorted(APPLICATION_TYPES), AuditRecord),
    "open": Opened,
    "beat": Counters,
    "close": Counters,
    "drop": Dropped,
    "coverage": Inventory,
    "ingest": Ingested,
    "gap": GapFound,
    "conflict": ConflictFound,
    "quarantine": Quarantined,
    "retention": Retained,
    "hold": Held,
    "review": Reviewed,
    "access": Accessed,
}


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of every payload, by name under ``$defs``."""
    types = list(dict.fromkeys(PAYLOADS.values()))
    _, definitions = msgspec.json.schema_components(types, ref_template="#/$defs/{name}")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$defs": definitions}
