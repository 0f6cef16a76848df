"""Where a ledger keeps the files that are written once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, runtime_checkable


@runtime_checkable
class Store(Protocol):
    """Create-only files by key, such as a folder or a bucket with Object Lock.

    Not trusted: whoever controls it can deny service, and can change nothing that a checkpoint
    covers without being found out. A write is durable when `put` returns and is never replaced.
    Methods may be called from several threads at once. Keys are ``/``-separated segments of
    ``[A-Za-z0-9._-]``, none of which begins with a dot. Every failure is a `StorageError`.
    """

    def put(self, key: str, data: bytes) -> None:
        """Store ``data``; equal bytes under the same key are fine.

        Raises:
            AlreadyStored: the key holds other bytes.
            StorageError: not known to be stored; the caller does not retry.
        """

    def get(self, key: str) -> bytes | None:
        """Return the bytes under ``key``, None when there are none."""

    def keys(self, prefix: str) -> Iterator[str]:
        """Yield the keys that begin with ``prefix``, in order."""

    def discard(self, key: str) -> None:
        """Allow a superseded partial tile to go; a store that keeps everything ignores this."""


@runtime_checkable
class BatchStore(Store, Protocol):
    """A store that stores several files for less than one after the other would cost."""

    def put_all(self, files: Sequence[tuple[str, bytes]]) -> None:
        """Store every (key, data) as `put` does; all are durable when this returns, in any order before."""


@runtime_checkable
class RemoteStore(Store, Protocol):
    """A store for which every read is a request over a network."""

    read_cost: int
    """What one costs besides what it reads, as bytes of a local file."""


@runtime_checkable
class RetainingStore(Store, Protocol):
    """A store that guards partial tiles for a short time only, because wider ones usually follow."""

    def keep(self, keys: Iterable[str]) -> None:
        """Guard these for as long as everything else; one that is not there needs no guard."""


@runtime_checkable
class HoldingStore(Store, Protocol):
    """A store that can keep files from deletion for as long as a case needs them, whatever their retention."""

    def hold(self, *, is_held: bool) -> None:
        """Hold everything that is there and that comes, or nothing any more. May be repeated."""


def put_all(store: Store, files: Sequence[tuple[str, bytes]]) -> None:
    """Store every (key, data); all are durable when this returns.

    Raises:
        AlreadyStored: a key holds other bytes.
        StorageError: not known which ones are stored; the caller does not retry.
    """
    if isinstance(store, BatchStore):
        store.put_all(files)
        return
    for key, data in files:
        store.put(key, data)


def keep(store: Store, keys: Iterable[str]) -> None:
    """Tell a store that nothing may follow these partial tiles."""
    if isinstance(store, RetainingStore):
        store.keep(keys)


def read_cost(store: Store) -> int:
    """Return what a read costs besides its bytes, in bytes: nothing in a local store."""
    return store.read_cost if isinstance(store, RemoteStore) else 0
