"""How the values of settings are spelled; each of these raises ``ValueError`` that says what is expected."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Final

_SIZE: Final = re.compile(r"([0-9]+)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_HOST: Final = re.compile(r"(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*|[0-9a-fA-F:]*:[0-9a-fA-F:]+")
_TOKEN: Final = re.compile(r"[A-Za-z0-9-]{1,64}")


def size(text: str) -> int:
    """Return bytes."""
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise ValueError("expected a size such as 512M or 1GiB")
    return int(match[1]) * _UNITS[match[2].upper()]


def seconds(text: str) -> float:
    """Return seconds, more than none."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError("expected a number of seconds above 0")
    return value


def items(text: str) -> tuple[str, ...]:
    """Return the parts of a comma-separated list."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def networks(text: str) -> tuple[str, ...]:
    """Return networks as they were written."""
    for part in items(text):
        try:
            ipaddress.ip_network(part)
        except ValueError as error:
            meant = str(ipaddress.ip_network(part, strict=False))  # raises as well, unless only host bits are set
            raise ValueError(f"{error}: write {meant}") from error
    return items(text)


def hosts(text: str) -> tuple[str, ...]:
    """Return host names in lower case; ``*.`` in front stands for every name below."""
    for part in items(text):
        if not _HOST.fullmatch(part):
            raise ValueError(f"expected host names such as billing.internal or *.internal, not {part!r}")
    return tuple(part.lower() for part in items(text))


def choice(*choices: str) -> Callable[[str], str]:
    """Return what takes one of ``choices``."""

    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"expected one of {', '.join(choices)}")
        return text

    return parse


def header(text: str) -> str:
    """Return the name of a header, or nothing."""
    if text and not _TOKEN.fullmatch(text):
        raise ValueError("expected the name of a header")
    return text
