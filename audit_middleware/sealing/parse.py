"""Parse the ``rec`` of a line whose seal was checked: strict JSON, then its schema (wire format, section 1).

Search, index and coverage read only what this parse gave.
"""

from __future__ import annotations

import json
from typing import Any, Final, NoReturn

import msgspec

from audit_middleware.errors import MalformedLine
from audit_middleware.payloads import PAYLOADS
from audit_middleware.plain import MAX_DEPTH
from audit_middleware.record import MAX_INTEGER, AuditRecord, Payload
from audit_middleware.sealing.seal import Frame


class _Rejected(ValueError):
    pass


class Unlisted(Payload, frozen=True):
    """A ``type`` that this version does not know: strict JSON was checked, its schema cannot be."""

    members: dict[str, Any]


def _reject_float(text: str) -> NoReturn:
    raise _Rejected(f"{text} is a float")


_encoder: Final = msgspec.json.Encoder()
_DECODERS: Final = {name: msgspec.json.Decoder(payload, float_hook=_reject_float) for name, payload in PAYLOADS.items()}


def parse_rec(line: bytes, frame: Frame) -> Payload:
    """Return the typed payload of ``frame``.

    Raises `MalformedLine` with rule ``json`` (duplicate member, float, integer beyond 2^53-1, depth over 8, lone
    surrogate, no JSON at all) or ``schema`` (a required member is missing or of another type).
    """
    decoder = _DECODERS.get(frame.type)
    if decoder is not None:
        payload = _canonical(decoder, frame.rec)
        if payload is not None:
            return payload
    members = _strict(line, frame.rec)
    if decoder is None:
        return Unlisted(members)
    try:
        return msgspec.convert(members, PAYLOADS[frame.type])
    except msgspec.ValidationError as error:
        raise MalformedLine(f"{frame.type}: {error}", line=line, rule="schema") from error


def _canonical(decoder: msgspec.json.Decoder[Payload], rec: bytes) -> Payload | None:
    """Decode what our own encoder wrote: if encoding it again gives the same bytes, nothing was there twice.

    None means only that the careful way has to look.
    """
    try:
        payload = decoder.decode(rec)
        if _encoder.encode(payload) != rec:
            return None
        if type(payload) is AuditRecord and payload.details is not None:
            _check_details(payload.details)
    except (ValueError, RecursionError, OverflowError):
        return None
    return payload


def _check_details(details: dict[str, Any]) -> None:
    """Check what the typed decoder leaves open: most details are flat, with short texts and small numbers."""
    for value in details.values():
        kind = type(value)
        if kind is int:
            if not -MAX_INTEGER <= value <= MAX_INTEGER:
                raise _Rejected(f"integer {value} is beyond 2^53-1")
        elif kind is dict or kind is list:
            _check_values(value, 4)


def _strict(line: bytes, rec: bytes) -> dict[str, Any]:
    try:
        members = json.loads(
            rec, object_pairs_hook=_no_duplicates, parse_float=_reject_float, parse_constant=_reject_float
        )
        if type(members) is not dict:
            raise _Rejected("rec is not an object")
        _check_values(members, 2)
    except (ValueError, RecursionError) as error:
        raise MalformedLine(f"rec: {error}", line=line, rule="json") from error
    return members


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        names = [name for name, _ in pairs]
        raise _Rejected(f"member {next(n for n in names if names.count(n) > 1)!r} is there twice")
    return members


def _check_values(value: object, depth: int) -> None:
    if isinstance(value, str):
        value.encode()  # a lone surrogate raises UnicodeEncodeError, a ValueError
    elif isinstance(value, int):
        if not -MAX_INTEGER <= value <= MAX_INTEGER:
            raise _Rejected(f"integer {value} is beyond 2^53-1")
    elif isinstance(value, dict | list):
        if depth > MAX_DEPTH:
            raise _Rejected(f"deeper than {MAX_DEPTH} levels")
        for item in value:
            _check_values(item, depth + 1)
        if isinstance(value, dict):
            for item in value.values():
                _check_values(item, depth + 1)
