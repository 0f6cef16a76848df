"""Which store a collector keeps its tiles in: the table ``[store]``."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

import msgspec

from audit_middleware.collector.storage.keys import require_key
from audit_middleware.errors import StorageError

Mode = Literal["COMPLIANCE", "GOVERNANCE"]
"""Of S3 Object Lock: nobody shortens the first, an administrator with a right of its own the second."""

_DURATION: Final = re.compile(r"([1-9][0-9]{0,5})([smhdwy])")
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400, "y": 366 * 86_400}
LONGEST: Final = timedelta(days=36_500)
"""S3 Object Lock takes no longer retention."""


def parse_duration(text: str) -> timedelta:
    """Return ``90s``, ``36h``, ``400d``, ``7y`` as a time; a year is 366 days, never less than a calendar's.

    Raises `ValueError`.
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no length of time: a number and s, m, h, d, w or y, such as 400d")
    return timedelta(seconds=int(match[1]) * _UNITS[match[2]])


class FilesSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="files"
):
    """Tiles lie in the data folder, read-only. ``immutable`` sets the file system's own flag as well."""

    immutable: bool = False


class S3Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="s3"):
    """Tiles lie in a bucket; who may write there is boto3's own configuration, never this one's.

    ``worm`` False says that the bucket need not keep anything from being deleted; it is labelled so.
    """

    bucket: Annotated[str, msgspec.Meta(min_length=1)]
    prefix: str = ""
    endpoint: str | None = None
    region: str | None = None
    path_style: bool = False
    worm: bool = True
    mode: Mode = "COMPLIANCE"
    retain: str | None = None
    retain_partial: str = "2d"
    timeout_seconds: Annotated[float, msgspec.Meta(gt=0, le=300)] = 10.0
    attempts: Annotated[int, msgspec.Meta(ge=1, le=20)] = 4
    parallel: Annotated[int, msgspec.Meta(ge=1, le=128)] = 16

    def __post_init__(self) -> None:
        if self.worm == (self.retain is None):
            raise ValueError('a WORM bucket needs `retain`, such as "400d"; without retention say `worm = false`')
        for text in (self.retain, self.retain_partial):
            if text is not None and parse_duration(text) > LONGEST:
                raise ValueError(f"{text!r} is longer than Object Lock takes (36500d)")
        if parse_duration(self.retain_partial) < timedelta(hours=1):
            raise ValueError("retain_partial must be 1h or more: until then a wider tile has to follow")
        _require_endpoint(self.endpoint)
        _require_prefix(self.prefix)

    @property
    def retention(self) -> timedelta | None:
        """How long a file is locked from when it is put; None when nothing is locked."""
        return parse_duration(self.retain) if self.retain else None

    @property
    def partial_retention(self) -> timedelta | None:
        """The same for a partial tile; never longer."""
        return min(self.retention, parse_duration(self.retain_partial)) if self.retention else None


StoreSettings = FilesSettings | S3Settings


def _require_endpoint(endpoint: str | None) -> None:
    if endpoint is None:
        return
    parts = urlsplit(endpoint)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("endpoint must be an http(s) URL, such as https://s3.example.com")
    if parts.username or parts.password or parts.query:
        raise ValueError("endpoint must hold no credentials: they come from boto3's own chain")


def _require_prefix(prefix: str) -> None:
    try:
        require_key(prefix or "none")
    except StorageError as error:
        raise ValueError(f"prefix: {error}") from error
