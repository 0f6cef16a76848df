"""Values a sealed line can carry: what an application hands over, made plain without ever raising.

The wire format (section 1) knows no floats, no NaN, no lone surrogates, no integers beyond 2^53-1 and a depth of
at most 8. Whatever differs is replaced, and the place is named in ``defects``; nothing is lost silently.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from hashlib import sha256
from typing import Any, Final
from uuid import UUID

from audit_middleware.record import MAX_INTEGER, UNKNOWN, Truncation

MAX_DEPTH: Final = 8  # wire format, section 1; the line itself is level 1
DETAILS_DEPTH: Final = 3  # line, rec, details
MAX_ITEMS: Final = 2_000  # values in one details object; more than a line of 32 KiB can hold anyway
MAX_DEFECTS: Final = 32
_TEXTUAL: Final = date | datetime | time | timedelta | Decimal | UUID
_SPELLED_BITS: Final = 4096


class Plainer:
    """Makes values plain; collects the places that had to be changed in ``defects``, those cut in ``truncated``."""

    __slots__ = ("_items", "defects", "truncated")

    def __init__(self) -> None:
        self.defects: list[str] = []
        self.truncated: list[Truncation] | None = None
        self._items = 0

    def cut(self, text: str, limit: int, where: str) -> str:
        """Return at most ``limit`` characters of ``text``; what is cut is named with the hash of the original."""
        if len(text) <= limit:
            return text
        kept, digest, size = cut(text, limit)
        self.truncated = [*(self.truncated or ()), Truncation(where, digest, size)]
        return kept

    def value(self, value: object, where: str, depth: int = DETAILS_DEPTH) -> Any:  # noqa: ANN401 - JSON value
        """Return ``value`` as None, bool, int, str, list or dict; never raises."""
        self._items += 1
        try:
            return self._value(value, where, depth)
        except Exception:  # noqa: BLE001 - an application's own __str__, __iter__ or keys() may raise anything
            return self._replace(where, UNKNOWN)

    def text(self, value: object, where: str) -> str:
        """Return ``value`` as a string without lone surrogates; never raises."""
        try:
            text = value if type(value) is str else str(value)
        except Exception:  # noqa: BLE001 - an application's own __str__
            return str(self._replace(where, UNKNOWN))
        if text.isascii():
            return text
        return self._without_surrogates(text, where)

    def _value(self, value: object, where: str, depth: int) -> object:
        if isinstance(value, enum.Enum):
            return self._value(value.value, where, depth)
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int):
            return int(value) if -MAX_INTEGER <= value <= MAX_INTEGER else self._replace(where, _huge(value))
        if isinstance(value, str | _TEXTUAL):
            return self.text(str(value), where)
        if isinstance(value, Mapping | Sequence | AbstractSet) and not isinstance(
            value, bytes | bytearray | memoryview
        ):
            return self._container(value, where, depth)
        return self._replace(where, self.text(value, where))

    def _container(self, value: Mapping[Any, Any] | Sequence[Any] | AbstractSet[Any], where: str, depth: int) -> object:
        if depth > MAX_DEPTH or self._items > MAX_ITEMS:
            return self._replace(where, UNKNOWN)
        if isinstance(value, Mapping):
            return dict(self._members(value, where, depth))
        return [self.value(item, f"{where}[{n}]", depth + 1) for n, item in enumerate(self._bounded(value, where))]

    def _members(self, value: Mapping[Any, Any], where: str, depth: int) -> Iterator[tuple[str, object]]:
        for key in self._bounded(value, where):
            name = self.text(key, where)
            if not isinstance(key, str):
                self._replace(f"{where}.{name}", name)
            yield name, self.value(value[key], f"{where}.{name}", depth + 1)

    def _bounded(self, items: Mapping[Any, Any] | Sequence[Any] | AbstractSet[Any], where: str) -> Iterator[Any]:
        for item in items:
            if self._items > MAX_ITEMS:
                self._replace(where, UNKNOWN)
                return
            yield item

    def _without_surrogates(self, text: str, where: str) -> str:
        try:
            text.encode()
        except UnicodeEncodeError:
            return str(self._replace(where, text.encode("utf-8", "replace").decode()))
        return text

    def _replace(self, where: str, replacement: object) -> object:
        """Name the place (shortened, without surrogates) and hand back what stands there now."""
        if len(self.defects) < MAX_DEFECTS:
            self.defects.append(where[:128].encode("utf-8", "replace").decode())
        return replacement


def _huge(value: int) -> str:
    """Spell an integer no JSON reader holds; Python refuses to spell those over 4,300 digits."""
    return str(value) if value.bit_length() < _SPELLED_BITS else f"integer of {value.bit_length()} bits"


def cut(text: str, limit: int) -> tuple[str, str, int]:
    """Return ``text`` cut to ``limit`` characters, and the SHA-256 (hex) and size of its UTF-8 original."""
    original = text.encode("utf-8", "replace")
    return text[:limit], sha256(original).hexdigest(), len(original)
