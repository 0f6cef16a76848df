"""Makes the stores of a collector's logs, one for each, all of one kind."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import quote

from audit_middleware.collector.storage import Store
from audit_middleware.collector.storage.durable import Durable, make_folders, replace, storage_errors
from audit_middleware.collector.storage.files import FileStore
from audit_middleware.collector.storage.s3 import Retention, S3Store
from audit_middleware.collector.storage.s3_client import Bucket
from audit_middleware.collector.storage.s3_probe import Probe, probe
from audit_middleware.collector.storage.settings import FilesSettings, S3Settings, StoreSettings
from audit_middleware.errors import ConfigurationError, StorageError, StoreUnavailable

ASK_SECONDS: Final = 900.0
PLACE: Final = "store"
"""File in a log's folder that says where its tiles are, if they are not there. A signpost, not to be believed."""


class Stores(Protocol):
    """Opens the store of each log. ``label`` says for people what kind it is, ``is_worm`` whether it was probed."""

    label: str
    is_worm: bool

    def check(self) -> None:
        """Raise `StorageError` unless the store does what its configuration promises."""

    def open(self, folder: Path, origin: str, expires: datetime | None) -> Store:
        """Return the store of a log that is kept until ``expires``; None says nothing, or for ever.

        Raises `ConfigurationError` when its tiles are elsewhere.
        """

    @property
    def strange(self) -> int:
        """How many keys were found deleted, overwritten or unlocked by somebody else."""

    def close(self) -> None:
        """Let go of connections and threads."""


def make_stores(settings: StoreSettings) -> Stores:
    """Return what the settings describe; nothing is opened yet."""
    return FileStores(settings) if isinstance(settings, FilesSettings) else S3Stores(settings)


class FileStores:
    """Stores in the folders of the logs."""

    def __init__(self, settings: FilesSettings) -> None:
        self._settings = settings
        self.is_worm = False
        flag = ", set immutable where the file system can (best effort)" if settings.immutable else ""
        self.label = f"files, read-only{flag}; not WORM"

    def check(self) -> None:
        """Find nothing: a folder promises nothing."""

    def open(self, folder: Path, origin: str, expires: datetime | None) -> FileStore:  # noqa: ARG002 - the protocol's
        """Return the store in a log's folder."""
        _require_place(folder, None)
        return FileStore(folder, immutable=self._settings.immutable)

    @property
    def strange(self) -> int:
        """None: changes of a folder show when the tree is verified."""
        return 0

    def close(self) -> None:
        """Let go of nothing."""


class S3Stores:
    """Stores in one bucket, below ``prefix`` and the origin of each log. `check` probes and makes it WORM."""

    def __init__(self, settings: S3Settings) -> None:
        self._settings = settings
        self._prefix = f"{settings.prefix}/" if settings.prefix else ""
        self._stores: list[S3Store] = []
        self.is_worm = False
        self._asked_at = time.monotonic()
        self._failure: str | None = None
        kept = f"WORM, {settings.mode} for {settings.retain}" if settings.worm else "not WORM"
        self.label = f"s3://{settings.bucket}/{settings.prefix}, {kept}"

    def check(self) -> None:
        """Probe the bucket, unless it is configured as one that keeps nothing from deletion."""
        if self._settings.worm:
            self.probe().require_worm()
            self.is_worm = True

    def worm_failure(self) -> str | None:
        """Return which guarantee was gone when the bucket was probed last; every quarter of an hour it is again.

        A bucket that does not answer has not stopped keeping what it has.
        """
        if self._settings.worm and time.monotonic() - self._asked_at >= ASK_SECONDS:
            try:
                self.probe().require_worm()
                self._failure = None
            except StoreUnavailable:
                return self._failure
            except StorageError as error:
                self._failure = str(error)
            self._asked_at = time.monotonic()
        return self._failure

    def probe(self) -> Probe:
        """Return which guarantees hold now; `StoreUnavailable` if nobody answers."""
        return probe(self._bucket, self._prefix, self._settings.mode)

    def open(self, folder: Path, origin: str, expires: datetime | None) -> S3Store:
        """Return the store of a log, and leave a signpost in its folder."""
        prefix = f"{self._prefix}{quote(origin, safe='/')}/"
        _require_place(folder, f"s3://{self._settings.bucket}/{prefix}")
        store = S3Store(self._bucket, prefix, self._retention(expires), self._pool, self.worm_failure)
        self._stores.append(store)
        return store

    @property
    def strange(self) -> int:
        """How many keys were found deleted, overwritten or unlocked by somebody else."""
        return sum(len(store.strange) for store in self._stores)

    def close(self) -> None:
        """End the threads, then the connections."""
        if "_pool" in self.__dict__:
            self._pool.shutdown()
        if "_bucket" in self.__dict__:
            self._bucket.close()

    @cached_property
    def _bucket(self) -> Bucket:
        return Bucket(self._settings)

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._settings.parallel, thread_name_prefix="audit-s3")

    def _retention(self, expires: datetime | None) -> Retention | None:
        whole, partial = self._settings.retention, self._settings.partial_retention
        return Retention(self._settings.mode, whole, partial, expires=expires) if whole and partial else None


def place_of(folder: Path) -> str | None:
    """Return where the tiles of a log's folder are said to be, None when they are in it."""
    with storage_errors(f"cannot read {folder / PLACE}"):
        try:
            return (folder / PLACE).read_text(encoding="utf-8", errors="replace").strip()
        except FileNotFoundError:
            return None


def _require_place(folder: Path, place: str | None) -> None:
    """Find the tiles where they were put first: a log does not move."""
    known = place_of(folder)
    begun = known is not None or (folder / "checkpoint").exists()
    if begun and known != place:
        raise ConfigurationError(
            f"the tiles of {folder} are in {known or 'that folder'}, [store] names {place or 'that folder'}: put the "
            "setting back, or begin a new data folder with another name"
        )
    if not begun and place is not None:
        with storage_errors(f"cannot write {folder / PLACE}"):
            make_folders(Durable(), folder)
            replace(Durable(), folder / PLACE, f"{place}\n".encode())
