"""A mistake in a collector's TOML file, in words: which key, what is expected, and in which line it stands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any, Final

import msgspec
from msgspec import inspect

_PLACE: Final = re.compile(r"([a-z_]+)(?:\[(\d+)\])?(?:\.([a-z0-9_]+))?")
_TABLES: Final = frozenset({"alerts", "retention", "tokens", "store"})
"""Of these the line of the table is said: what is wrong may be that a key is missing."""


def in_words(error: msgspec.ValidationError, known: type[msgspec.Struct]) -> str:
    """Say msgspec's message with the key in front: ``limits.body_bytes: Expected int, got str``.

    ``known`` is what the file was read as: it knows which keys and choices there are.
    """
    message, _, path = str(error).partition(" - at `$")
    path = path.rstrip("`").removeprefix(".")
    if "unknown field" in message:
        name = message.rpartition("unknown field ")[2].strip("`")
        return f"{path + '.' if path else ''}{name}: not a setting{_hint(name, _names(known, path))}"
    choices = _choices(known, path) if message.startswith("Invalid enum value") else []
    return f"{path or 'value'}: {message}" + (f"; expected one of {', '.join(choices)}" if choices else "")


def with_line(message: str, text: str, file: str) -> str:
    """Say in which line of ``text`` the table or key stands that a message of ``file`` is about."""
    said = message.removeprefix(f"{file}: ")
    place = _PLACE.match(said)
    line = _line_of(place[1], int(place[2] or 0), place[3], text.splitlines()) if place is not None else None
    return f"{file}, line {line}: {said}" if line is not None else f"{file}: {said}"


def _line_of(table: str, index: int, key: str | None, lines: list[str]) -> int | None:
    heads = [number for number, line in enumerate(lines, 1) if re.match(rf"\s*\[{{1,2}}\s*{table}\s*[\].]", line)]
    if index < len(heads):
        found = _key_line(key, lines, heads[index]) if table not in _TABLES and key else None
        return found or heads[index]
    return _key_line(table, lines, 0)


def _key_line(key: str, lines: list[str], start: int) -> int | None:
    for number, line in enumerate(lines[start:], start + 1):
        if line.lstrip().startswith("["):
            return number if re.match(rf"\s*\[.*\b{key}\s*\]", line) else None
        if re.match(rf"\s*{key}\s*(=|\.)", line):
            return number
    return None


def _hint(name: str, known: list[str]) -> str:
    close = get_close_matches(name, known, 1)
    if close:
        return f"; is it {close[0]}?"
    return f"; expected one of {', '.join(sorted(known))}" if known else "; see the list of settings"


def _names(struct: type[msgspec.Struct], path: str) -> list[str]:
    return sorted({field.encode_name for type_ in _at(struct, path) for field in _fields(type_)})


def _choices(struct: type[msgspec.Struct], path: str) -> list[str]:
    return [
        str(value) for type_ in _at(struct, path) if isinstance(type_, inspect.LiteralType) for value in type_.values
    ]


def _at(struct: type[msgspec.Struct], path: str) -> list[Any]:
    """Return the types that may stand at a path such as ``retention[...].profile``."""
    types: list[Any] = [inspect.type_info(struct)]
    for name in re.findall(r"[a-z0-9_]+", re.sub(r"\[[^]]*\]", "", path)):
        types = [
            each
            for type_ in types
            for field in _fields(type_)
            if field.encode_name == name
            for each in _spread(field.type)
        ]
    return types


def _fields(type_: inspect.Type) -> tuple[inspect.Field, ...]:
    return type_.fields if isinstance(type_, inspect.StructType) else ()


def _spread(type_: inspect.Type) -> Iterator[inspect.Type]:
    """Yield what a type may be: each side of a union, the items of a list."""
    if isinstance(type_, inspect.UnionType):
        for each in type_.types:
            yield from _spread(each)
    elif isinstance(type_, inspect.ListType):
        yield from _spread(type_.item_type)
    else:
        yield type_
