"""Connections to PostgreSQL, and its errors in our words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import psycopg
from psycopg.conninfo import conninfo_to_dict

from audit_middleware.errors import ConfigurationError, StorageError, StoreUnavailable

CONNECT_SECONDS: Final = 5
LOCK_SECONDS: Final = 20
"""As long a commit waits for streams that another collector moves; longer than a commit of its takes."""
FROZEN_SECONDS: Final = 120
"""After that long without a word PostgreSQL takes back what a collector holds; longer than a store may take."""
_SESSION: Final = (
    "SET search_path = audit_ready",
    f"SET lock_timeout = '{LOCK_SECONDS}s'",
    f"SET idle_in_transaction_session_timeout = '{FROZEN_SECONDS}s'",
    "SET client_connection_check_interval = '2s'",
    "SET tcp_keepalives_idle = 10",
    "SET tcp_keepalives_interval = 5",
    "SET tcp_keepalives_count = 3",
)


class Link:
    """Where the index is, and how to get there."""

    def __init__(self, dsn: str, collector: str) -> None:
        self._dsn = dsn
        self._application = f"audit-ready {collector}"[:63]
        try:
            parts = conninfo_to_dict(dsn)
        except psycopg.ProgrammingError as error:
            raise ConfigurationError("the DSN of the index is no PostgreSQL connection string") from error
        where = f"{parts.get('host') or 'localhost'}:{parts.get('port') or 5432}"
        self.label = f"postgresql://{where}/{parts.get('dbname') or ''}"

    def connect(self) -> psycopg.Connection:
        """Open a connection; transactions are begun by hand. Raises `psycopg.Error`."""
        connection = psycopg.connect(
            self._dsn,
            autocommit=True,
            connect_timeout=CONNECT_SECONDS,
            application_name=self._application,
            keepalives_idle=10,
            keepalives_interval=5,
            keepalives_count=3,
        )
        try:
            connection.execute("; ".join(_SESSION))
        except BaseException:
            connection.close()
            raise
        return connection

    def unusable(self, why: str) -> StorageError:
        """Return the error that asks for a rebuild, which loses nothing."""
        return StorageError(
            f"the index {self.label} cannot be used ({why}): make it anew with `audit-ready index migrate --anew` "
            "and start the collectors again"
        )

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn what PostgreSQL raises into `StoreUnavailable` or `StorageError`."""
        try:
            yield
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            raise StoreUnavailable(f"the index {self.label} is away: {_first_line(error)}") from error
        except psycopg.errors.InsufficientPrivilege as error:
            raise StorageError(
                f"the index {self.label} refuses ({_first_line(error)}): is the user a member of audit_writer?"
            ) from error
        except psycopg.Error as error:
            raise self.unusable(_first_line(error)) from error


def _first_line(error: psycopg.Error) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
