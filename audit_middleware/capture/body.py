"""What of a request's body may be recorded: the fields that a view names, of a body small enough to be read twice.

Bodies are looked at only in processes in which a view names fields (`ask`); everywhere else they pass untouched.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from typing import Any, Final, Protocol
from urllib.parse import parse_qsl

import msgspec

MAX_BODY: Final = 64 * 1024
"""Bytes of a body that are kept until the record is made; twice what a sealed line can hold."""
_MAX_FIELDS: Final = 1000
_JSON: Final = msgspec.json.Decoder(float_hook=str)  # a record knows no floats (wire format, section 1): as spelled

_is_asked = False


def ask() -> None:
    """Say that a view of this process names fields: bodies are kept from now on, `MAX_BODY` bytes of each."""
    global _is_asked  # noqa: PLW0603 - decorators run before there is an application to tell it to
    _is_asked = True


def is_asked() -> bool:
    """Whether any view of this process names fields of its body."""
    return _is_asked


def allowed_fields(content_type: str, body: bytes, names: Collection[str]) -> dict[str, Any] | None:
    """Return the fields of ``body`` that are in ``names``; None when none is there.

    JSON (a name may be a path, ``customer.id``), URL-encoded forms and multipart forms without their files; fields of
    forms are lists of their values. Raises ``ValueError`` for what cannot be read.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "application/json" or kind.endswith("+json"):
        return _of_json(body, names)
    if kind == "application/x-www-form-urlencoded":
        pairs: Iterator[tuple[str, str]] = iter(
            parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=_MAX_FIELDS)
        )
    elif kind == "multipart/form-data":
        pairs = _parts(content_type, body)
    else:
        raise ValueError(f"a body of type {kind!r}")
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in names:
            found.setdefault(name, []).append(value)
    return found or None


def _of_json(body: bytes, names: Collection[str]) -> dict[str, Any] | None:
    try:
        document = _JSON.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError("not JSON") from error
    values = ((name, _at(document, name)) for name in names)
    return {name: value for name, value in values if value is not _ABSENT} or None


_ABSENT: Final = object()


def _at(document: object, name: str) -> object:
    """Return the member ``name`` of an object, or what the path ``a.b`` leads to."""
    if not isinstance(document, Mapping):
        return _ABSENT
    if name in document:
        return document[name]
    first, _, rest = name.partition(".")
    return _at(document[first], rest) if rest and first in document else _ABSENT


def _parts(content_type: str, body: bytes) -> Iterator[tuple[str, str]]:
    """Yield the fields of a multipart form (RFC 7578) that are no files."""
    from email.message import Message
    from email.parser import BytesParser

    head = b"Content-Type: " + content_type.encode("latin-1", "replace") + b"\r\n\r\n"
    form = BytesParser().parsebytes(head + body)
    parts = form.get_payload()
    if not isinstance(parts, list) or len(parts) > _MAX_FIELDS:
        raise ValueError("not a multipart form")
    for part in parts:
        if not isinstance(part, Message):
            continue
        name = part.get_param("name", header="content-disposition")
        if isinstance(name, str) and part.get_filename() is None:
            payload = part.get_payload(decode=True)
            yield name, payload.decode("utf-8", "replace") if isinstance(payload, bytes) else ""


class KeptBody:
    """A body as far as it was read; one over `MAX_BODY` is not kept at all."""

    __slots__ = ("_content", "_is_over")

    def __init__(self) -> None:
        self._content = bytearray()
        self._is_over = False

    def add(self, chunk: bytes) -> None:
        """Keep one more chunk."""
        self._is_over = self._is_over or len(self._content) + len(chunk) > MAX_BODY
        if self._is_over:
            self._content.clear()
        else:
            self._content += chunk

    def fields(self, content_type: str, names: Collection[str]) -> dict[str, Any] | None:
        """Return the `allowed_fields`; raise ``ValueError`` for a body that was too large, or cannot be read."""
        if self._is_over:
            raise ValueError(f"a body of more than {MAX_BODY} bytes")
        return allowed_fields(content_type, bytes(self._content), names) if self._content else None


class Keeper(Protocol):
    """Who keeps what is read: an exchange."""

    def keep_body(self, chunk: bytes) -> None:
        """Keep a chunk of the body."""


_INTO: Final = frozenset({"readinto", "readinto1"})


class Tee:
    """``wsgi.input`` (PEP 3333), whose bytes are kept as the application reads them."""

    __slots__ = ("_keeper", "_stream")

    def __init__(self, stream: Any, keeper: Keeper) -> None:  # noqa: ANN401 - the server's own object
        self._stream = stream
        self._keeper = keeper

    def read(self, *size: int) -> bytes:
        """Read, and keep it."""
        return self._kept(self._stream.read(*size))

    def readline(self, *size: int) -> bytes:
        """Read a line, and keep it."""
        return self._kept(self._stream.readline(*size))

    def readlines(self, *hint: int) -> list[bytes]:
        """Read lines, and keep them."""
        return [self._kept(line) for line in self._stream.readlines(*hint)]

    def __iter__(self) -> Iterator[bytes]:
        return (self._kept(line) for line in self._stream)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever more the server's object can do
        found = getattr(self._stream, name)
        if name in _INTO:
            return partial(self._read_into, found)
        return (lambda *size: self._kept(found(*size))) if name == "read1" else found

    def _read_into(self, read: Callable[[Any], int | None], buffer: Any) -> int | None:  # noqa: ANN401 - any buffer
        size = read(buffer)
        self._kept(bytes(memoryview(buffer)[: size or 0]))
        return size

    def _kept(self, chunk: bytes) -> bytes:
        if chunk:
            self._keeper.keep_body(chunk)
        return chunk
