"""Segments: the files of one stream, numbered in the order they were begun, holding whole sealed lines.

A newline ends a line and the seal proves it; there is no other framing and no second checksum.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

SEGMENT_BYTES: Final = 8 * 1024 * 1024
LONGEST_LINE: Final = 64 * 1024  # no line of ours is over 32 KiB; more than this without LF is damage
_NAME: Final = re.compile(r"seg-([0-9]{10})\.ndjson")
_SEQ: Final = re.compile(rb'{"v":1,"kid":"[^"]{1,32}","stream":"([A-Za-z0-9_-]{22})","seq":([0-9]{1,16}),')


class Line(NamedTuple):
    """A whole line (LF left out) and the offset behind its LF; ``damage`` marks bytes that are no line of ours."""

    data: bytes
    end: int
    damage: bool = False


def segment_name(ordinal: int) -> str:
    """Return the file name of the segment begun as number ``ordinal``."""
    return f"seg-{ordinal:010d}.ndjson"


def segment_ordinals(names: list[str]) -> list[int]:
    """Return the ordinals of the segments among ``names``, ascending; other names are not ours."""
    return sorted(int(match[1]) for name in names if (match := _NAME.fullmatch(name)))


def peek(line: bytes) -> tuple[str, int] | None:
    """Read (stream, seq) off the start of a line without judging it; None when it has none."""
    match = _SEQ.match(line)
    return (match[1].decode(), int(match[2])) if match else None


def split_lines(chunk: bytes, start: int) -> list[Line]:
    """Split what was read at offset ``start`` into whole lines; bytes behind the last LF are left.

    A run longer than `LONGEST_LINE` without LF is damage: it is handed on as such, so that no file can block.
    """
    lines, at = [], 0
    while (end := chunk.find(b"\n", at)) >= 0:
        data = chunk[at:end]
        lines.append(Line(data, start + end + 1, damage=len(data) > LONGEST_LINE))
        at = end + 1
    if len(chunk) - at > LONGEST_LINE:
        lines.append(Line(chunk[at:], start + len(chunk), damage=True))
    return lines
