"""Which index a collector keeps: the table ``[index]``. Passwords are in a file or the environment, never in it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

import msgspec

from audit_middleware.errors import ConfigurationError
from audit_middleware.sealing.keys import read_key_file, read_private

DSN_VARIABLE: Final = "AUDIT_INDEX_DSN"
_Text = Annotated[str, msgspec.Meta(min_length=1)]


class SqliteSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="sqlite"
):
    """The index is a file in the data folder."""


class PostgresSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="postgres"
):
    """The index is in PostgreSQL, where several collectors may share it.

    ``key_file`` holds the key that seals its rows, the same for every collector; ``dsn_file`` how to reach it, else the
    environment does.
    """

    key_file: _Text
    dsn_file: _Text | None = None

    def dsn(self, environ: Mapping[str, str] = os.environ) -> str:
        """Return how to reach it; raise `ConfigurationError`."""
        return read_dsn(Path(self.dsn_file) if self.dsn_file else None, environ)

    def key(self) -> bytes:
        """Return the key that seals rows; raise `ConfigurationError`."""
        keyring = read_key_file(Path(self.key_file))
        return keyring.keys[keyring.newest]


IndexSettings = SqliteSettings | PostgresSettings


def read_dsn(file: Path | None, environ: Mapping[str, str] = os.environ) -> str:
    """Return the DSN in ``file`` (0600), else that in the environment; raise `ConfigurationError`."""
    if file is None:
        if not environ.get(DSN_VARIABLE):
            raise ConfigurationError(f"where is the index? Set {DSN_VARIABLE}, or dsn_file in the table [index]")
        return environ[DSN_VARIABLE]
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigurationError(f"dsn_file {file}: {error.strerror}") from error
    try:
        return read_private(descriptor, file).strip()
    finally:
        os.close(descriptor)
