"""Encode ``rec`` so that it always fits into a line: the fast way first, the careful way when that fails."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from audit_middleware.plain import Plainer, cut
from audit_middleware.record import Payload, Truncation
from audit_middleware.sealing.seal import MAX_REC

_encoder: Final = msgspec.json.Encoder()
_KEPT_CHARACTERS: Final = (1024, 128)  # tried in this order on the longest strings first


def encode_rec(rec: Payload) -> bytes:
    """Return ``rec`` as JSON of at most `MAX_REC` bytes; never raises for what an application put in.

    Lone surrogates are replaced and named in ``defects``; values too long are cut and named in ``truncated``
    with the SHA-256 of the original (wire format, section 1).
    """
    try:
        encoded = _encoder.encode(rec)
    except (UnicodeEncodeError, OverflowError, TypeError, ValueError, RecursionError):
        return _encode_carefully(rec)
    return encoded if len(encoded) <= MAX_REC else _encode_carefully(rec)


def _encode_carefully(rec: Payload) -> bytes:
    plainer = Plainer()
    members = {name: plainer.value(_tree(value), name) for name, value in msgspec.structs.asdict(rec).items()}
    members = {name: value for name, value in members.items() if value is not None}
    if plainer.defects:
        members["defects"] = [*members.get("defects", ()), *plainer.defects]
    for keep in _KEPT_CHARACTERS:
        encoded = _encoder.encode(members)
        if len(encoded) <= MAX_REC:
            return encoded
        _cut_strings(members, keep)
    return _without_details(members)


def _tree(value: object) -> object:
    """Structs as dicts, all the way down, without touching strings."""
    if isinstance(value, msgspec.Struct):
        return {k: _tree(v) for k, v in msgspec.structs.asdict(value).items() if v is not None}
    if isinstance(value, list | tuple):
        return [_tree(item) for item in value]
    return value


def _cut_strings(members: dict[str, Any], keep: int) -> None:
    """Cut every string longer than ``keep`` characters and name it."""
    truncated = members.pop("truncated", [])

    def walk(value: object, where: str) -> object:
        if isinstance(value, str) and len(value) > keep:
            kept, digest, size = cut(value, keep)
            truncated.append(msgspec.to_builtins(Truncation(where[:128], digest, size)))
            return kept
        if isinstance(value, dict):
            return {k if len(k) <= keep else name(k, where): walk(v, f"{where}.{k}") for k, v in value.items()}
        if isinstance(value, list):
            return [walk(v, f"{where}[{n}]") for n, v in enumerate(value)]
        return value

    def name(key: str, where: str) -> str:
        """Cut a name; its digest keeps it apart from others that begin alike."""
        kept, digest, size = cut(key, keep)
        truncated.append(msgspec.to_builtins(Truncation(f"{where}.{kept}"[:128], digest, size)))
        return f"{kept[: keep - 16]}~{digest[:15]}"

    for member, value in list(members.items()):
        members[member] = walk(value, member)
    if truncated:
        members["truncated"] = _named_once(truncated)


def _named_once(truncated: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first naming of a field carries the hash of the original; later cuts of the same field do not count."""
    first: dict[str, dict[str, Any]] = {}
    for item in truncated:
        first.setdefault(item["field"], item)
    return list(first.values())[:64]


def _without_details(members: dict[str, Any]) -> bytes:
    """Many small values are too many: details go as a whole, named with the hash of what they were."""
    details = members.pop("details", None)
    original = _encoder.encode(details)
    _, digest, size = cut(original.decode(), 0)
    members["truncated"] = [msgspec.to_builtins(Truncation("details", digest, size)), *members.get("truncated", ())][
        :64
    ]
    members["defects"] = [str(defect)[:128] for defect in members.get("defects", ())][:32]
    encoded = _encoder.encode(members)
    if len(encoded) <= MAX_REC:
        return encoded
    members["truncated"] = members["truncated"][:1]
    return _encoder.encode(members)
