"""What a component declares, as ``coverage`` records: every one fits into a line, all together are bounded. Pure."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from hashlib import sha256
from itertools import islice
from typing import Final, get_args

import msgspec

from audit_middleware._version import __version__
from audit_middleware.capture.coverage import EntryPoint
from audit_middleware.inventory_record import DeclaredPoint, EntryKind, Inventory
from audit_middleware.plain import Plainer
from audit_middleware.record import MAX_INTEGER
from audit_middleware.sealing.seal import MAX_REC

MAX_PARTS: Final = 64  # two megabytes at the most
MAX_POINTS: Final = 100_000  # entry points that are looked at: some router may never come to an end
MAX_ROUTE: Final = 1024
"""Characters of a route; more than that is cut on record too, where a line has no room (see `encode_rec`)."""
MAX_REASON: Final = 512
MAX_NAME: Final = 128
MAX_PACKAGES: Final = 16
MAX_SETTING: Final = 256
_MAX_METHOD: Final = 32
_KINDS: Final = frozenset(get_args(EntryKind))

_encoder: Final = msgspec.json.Encoder()


def declared_point(point: EntryPoint) -> DeclaredPoint:
    """Return an entry point as it is declared: text cut where it is very long, and without lone surrogates.

    Raises ``ValueError`` for a kind that is none: a record with one would be refused.
    """
    if point.kind not in _KINDS:
        raise ValueError(f"an entry point is one of {', '.join(sorted(_KINDS))}, and not {point.kind!r}")
    exemption = point.exemption
    return DeclaredPoint(
        kind=point.kind,
        method=_plain(point.method, _MAX_METHOD),
        route=_plain(point.route, MAX_ROUTE),
        name=_plain(point.name, MAX_NAME) or None,
        exempt=_plain(exemption.reason, MAX_REASON) if exemption is not None else None,
        until=exemption.until.isoformat() if exemption is not None and exemption.until is not None else None,
    )


def in_parts(head: Inventory, points: Iterable[EntryPoint]) -> list[Inventory]:
    """Return ``head`` with all entry points, in as many parts as they need; none when there is nothing to declare.

    Their order is that of their bytes, so that every process says the same. What has no room in `MAX_PARTS` is in the
    digest, and counted in ``beyond``.
    """
    known = {_encoder.encode(each): each for each in map(declared_point, islice(points, MAX_POINTS))}
    if not known:
        return []
    rows = sorted(known)
    head = msgspec.structs.replace(head, digest=sha256(b"\n".join(rows)).hexdigest())
    groups = _grouped(rows, MAX_REC - _size_of(head))
    said = groups[:MAX_PARTS]
    beyond = len(rows) - sum(map(len, said))
    return [
        msgspec.structs.replace(
            head,
            part=number,
            parts=len(said),
            entry_points=[known[row] for row in group],
            beyond=beyond or None,
        )
        for number, group in enumerate(said, 1)
    ]


def inventory_head(
    *,
    service: str,
    component: str,
    version: str,
    policy: str,
    rules: str | None,
    packages: Iterable[str],
    settings: Mapping[str, object] | None = None,
) -> Inventory:
    """Return what every part of an inventory says.

    ``packages`` are distributions whose versions matter; ``settings`` is what ``policy`` is the digest of.
    """
    return Inventory(
        service=_plain(service, MAX_ROUTE),
        component=_plain(component, MAX_NAME),
        digest="",
        part=1,
        parts=1,
        version=_plain(version, MAX_NAME),
        policy=policy,
        versions={
            "python": platform.python_version(),
            "audit-ready": __version__,
            **installed(islice(packages, MAX_PACKAGES)),
        },
        entry_points=[],
        rules=rules,
        settings={name: spelled(value) for name, value in settings.items()} if settings is not None else None,
    )


def spelled(value: object) -> str:
    """Return a setting as text; of one that is very long its beginning and its digest, so that a change still shows."""
    text = Plainer().text(", ".join(map(str, value)) if isinstance(value, tuple) else value or "", "")
    if len(text) <= MAX_SETTING:
        return text
    return f"{text[: MAX_SETTING - 24]}… {sha256(text.encode()).hexdigest()[:16]}"


def installed(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of those distributions that are installed; none of them is imported."""
    from importlib.metadata import (
        PackageNotFoundError,
        version,
    )  # 30 modules, not needed to import ours

    found = {}
    for package in packages:
        try:
            found[_plain(package, MAX_NAME)] = _plain(version(package), MAX_NAME)
        except (PackageNotFoundError, ValueError):  # ValueError: what is no name at all
            continue
    return found


def _grouped(rows: list[bytes], room: int) -> list[list[bytes]]:
    groups: list[list[bytes]] = []
    left = 0
    for row in rows:
        needed = len(row) + 1  # the comma
        if needed > left or not groups:
            groups.append([])
            left = room
        groups[-1].append(row)
        left -= needed
    return groups


def _size_of(head: Inventory) -> int:
    """Return the bytes of a part without entry points, with the longest numbers it could have."""
    return len(_encoder.encode(msgspec.structs.replace(head, part=MAX_PARTS, parts=MAX_PARTS, beyond=MAX_INTEGER)))


def _plain(text: object, limit: int) -> str:
    return Plainer().text(text, "")[:limit]
