"""Opens the index that the settings name."""

from __future__ import annotations

from audit_middleware.collector.folder import DataFolder
from audit_middleware.collector.index import Index
from audit_middleware.collector.index_seal import IndexSeal
from audit_middleware.collector.index_settings import IndexSettings, SqliteSettings
from audit_middleware.collector.index_store import IndexStore
from audit_middleware.errors import ConfigurationError


def open_index(settings: IndexSettings, folder: DataFolder) -> IndexStore:
    """Return the index of a data folder; raise `ConfigurationError`, `StorageError`."""
    if isinstance(settings, SqliteSettings):
        return Index(folder.index, IndexSeal(folder.seed))
    try:
        from audit_middleware.collector.postgres.index import PostgresIndex
    except ImportError as error:
        raise ConfigurationError(
            f"the index in PostgreSQL needs psycopg ({error}): pip install 'audit-ready[postgres]'"
        ) from error
    return PostgresIndex(settings.dsn(), IndexSeal(settings.key()), folder.name)
