"""How far a stream has been delivered: two slots of 512 bytes, overwritten in place.

A sector is written whole or not at all, so one of the two is always good; in place works on a full disk, where
writing a new file and renaming it does not. The cursor is an optimisation, never the truth: one that is lost or
stale only makes the shipper send again what the collector already has.
"""

from __future__ import annotations

import struct
import zlib
from typing import Final, NamedTuple

SLOT_BYTES: Final = 512
FILE_BYTES: Final = 2 * SLOT_BYTES
_MAGIC: Final = b"AJC1"
_FIELDS: Final = struct.Struct(">4sQQQQ")
_CHECKSUM: Final = struct.Struct(">I")


class Position(NamedTuple):
    """Where delivery goes on: lines below ``seq`` are acknowledged; byte ``offset`` of segment ``ordinal`` is next."""

    seq: int = 0
    ordinal: int = 0
    offset: int = 0


class Slot(NamedTuple):
    """A position and how often the cursor had been written before it."""

    generation: int
    position: Position


def encode_slot(slot: Slot) -> bytes:
    """Return the 512 bytes of a slot."""
    fields = _FIELDS.pack(_MAGIC, slot.generation, *slot.position)
    return (fields + _CHECKSUM.pack(zlib.crc32(fields))).ljust(SLOT_BYTES, b"\0")


def decode_cursor(data: bytes) -> Slot:
    """Return the newest valid slot of a cursor file, the very beginning when there is none."""
    slots = (_decode(data[at : at + SLOT_BYTES]) for at in (0, SLOT_BYTES))
    return max((slot for slot in slots if slot is not None), default=Slot(0, Position()))


def slot_offset(generation: int) -> int:
    """Return where the slot of ``generation`` stands: the one not written last is overwritten."""
    return (generation & 1) * SLOT_BYTES


def _decode(data: bytes) -> Slot | None:
    if len(data) != SLOT_BYTES:
        return None
    fields = data[: _FIELDS.size]
    magic, generation, *position = _FIELDS.unpack(fields)
    (checksum,) = _CHECKSUM.unpack_from(data, _FIELDS.size)
    if magic != _MAGIC or checksum != zlib.crc32(fields):
        return None
    return Slot(generation, Position(*position))
