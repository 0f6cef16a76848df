"""What of a request may be recorded: nothing but what an allow-list names."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final
from urllib.parse import parse_qsl

_MAX_QUERY_BYTES: Final = 16 * 1024
_MAX_FIELDS: Final = 100


def allowed_parameters(query: bytes, names: Collection[str]) -> dict[str, list[str]] | None:
    """Return the query parameters named in ``names``, each with its values; None when none is there.

    Raises ``ValueError`` for a query too long or with too many fields to read safely: nobody knows what is in it.
    """
    if not query:
        return None
    if len(query) > _MAX_QUERY_BYTES:
        raise ValueError(f"a query of {len(query)} bytes")
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=_MAX_FIELDS)
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        if name in names:
            found.setdefault(name, []).append(value)
    return found or None
