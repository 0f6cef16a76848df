"""A `Store` in an S3 bucket with Object Lock: every file is created once, and locked before `put` returns.

What the bucket promises is not believed but probed (`s3_probe`), and what it gives is checked by the tree. The
write-ahead, the checkpoint and the guard stay on the collector's own disk.

**Partial tiles.** Every commit stores the last, partial bundle and the partial tile of level 0; the next one stores
wider ones that hold the same bytes and more, so that all but the widest are superfluous. Locked for years they would
cost a hundred times what the log does. These two are locked for ``retain_partial`` (two days), which protects as much:

* as long as the collector runs, a wider one follows: its own beat is appended at least every five minutes, each wider
  one has a lock of its own, and after 256 entries (21 hours of beats) the full one has the whole retention
* where nothing may follow, which is when a ledger is closed, opened, or ended by the next half-year, the last
  partial tiles get the whole retention (`keep`)
* what is left is a collector that was killed and not started again for two days; ``retain_partial`` may be longer

Partial tiles of higher levels stay for long and are rarely written: they are locked like everything else.

`discard` deletes nothing, it tags: a partial tile ``audit-ready=passing``, a full one, which goes with its log only,
``audit-ready=expired``. It goes when its lock has passed and a rule of the bucket's takes it (`lifecycle`). The
collector needs no right to delete, and no rule takes what is needed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import UTC, datetime, timedelta
from typing import Final

from audit_middleware.collector.storage.keys import is_partial, is_superseded_soon, require_key
from audit_middleware.collector.storage.s3_client import EXPIRED, PASSING, Bucket, Found, Lock, Refused, Tag, Version
from audit_middleware.collector.storage.settings import LONGEST, Mode
from audit_middleware.errors import AlreadyStored, StorageError, StoreUnavailable

TAKEN: Final = frozenset({409, 412})
"""Status of a create-only put that came second: the key is there, or another writer is about to finish."""
READ_COST: Final = 1024 * 1024
"""A listing and a get take about 3 ms of the collector's processor, in which a disk gives as much and more."""

_ROUNDS: Final = 5  # of a put that races with others, or is told of an object that nobody has
_PAUSE: Final = 0.05
_NEAR: Final = 1000
_VERSIONS: Final = 10_000
_STRANGE: Final = 1000
_log: Final = logging.getLogger(__name__)


class Retention:
    """How long a file is locked, from the moment it is put; what has to stay never less than until ``expires``."""

    def __init__(
        self,
        mode: Mode,
        whole: timedelta,
        partial: timedelta,
        clock: Callable[[], float] = time.time,
        *,
        expires: datetime | None = None,
    ) -> None:
        self.mode = mode
        self._whole = whole
        self._partial = partial
        self._clock = clock
        self._expires = min(expires, datetime.fromtimestamp(clock(), UTC) + LONGEST) if expires else None

    def lock(self, key: str) -> Lock:
        """Return the lock of a new file."""
        return self._until(self._partial) if is_superseded_soon(key) else self.whole()

    def whole(self) -> Lock:
        """Return the lock of what has to stay."""
        lock = self._until(self._whole)
        return lock if self._expires is None else Lock(lock.mode, max(lock.until, self._expires))

    def _until(self, span: timedelta) -> Lock:
        return Lock(self.mode, datetime.fromtimestamp(self._clock(), UTC) + span)


class S3Store:
    """Keys are object names below ``prefix``. ``retention`` None is a bucket that keeps nothing from deletion.

    Nothing about the bucket is remembered, so there is nothing here to forge. With retention the oldest version of a
    key is the one that counts, because that is the one that `put` created: a delete marker or a newer version over it
    changes nothing, is named in ``strange`` and logged as critical.
    """

    read_cost = READ_COST

    def __init__(
        self,
        bucket: Bucket,
        prefix: str,
        retention: Retention | None,
        pool: ThreadPoolExecutor,
        ask_again: Callable[[], str | None] = lambda: None,
    ) -> None:
        self.strange: dict[str, str] = {}
        self._ask_again = ask_again
        self._is_held = False
        self._bucket = bucket
        self._prefix = prefix
        self._retention = retention
        self._pool = pool

    def put(self, key: str, data: bytes) -> None:
        """Create the object, locked; equal bytes under the same key are fine.

        Raises:
            AlreadyStored: the key holds other bytes.
            StoreUnavailable: not known to be stored; the message says why and what to do.
        """
        name = self._name(key)
        lock = self._retention.lock(key) if self._retention else None
        if self._retention is None and self._is_there(key, data):
            return  # such a bucket may ignore the precondition; this is no help against a race, but one writes
        for _ in range(_ROUNDS):
            try:
                self._bucket.put(name, data, lock=lock, is_held=self._is_held)
            except Refused as error:
                if error.status not in TAKEN:
                    raise
            else:
                return
            if self._is_there(key, data):
                return
            time.sleep(_PAUSE)
        raise StoreUnavailable(f"cannot put {name}: the bucket says that it is there, and then that it is not")

    def put_all(self, files: Sequence[tuple[str, bytes]]) -> None:
        """Store every (key, data) as `put` does, all of them at once.

        No order among them is needed: the write-ahead has all entries until the checkpoint that covers these files is
        published, and a replay gives the same bytes. Every request has ended when this returns or raises.
        """
        _finish([self._pool.submit(self.put, key, data) for key, data in files])

    def get(self, key: str) -> bytes | None:
        """Return the bytes under ``key``, None when there are none.

        Raises:
            StoreUnavailable: no answer, or a refusal.
            StorageError: the bucket lists a version and does not give it, or gives other bytes than its checksum.
        """
        found = self._find(key)[1]
        return None if found is None else found.data

    def keys(self, prefix: str) -> Iterator[str]:
        """Yield the keys that begin with ``prefix``, in order; also those under a delete marker."""
        start = len(self._prefix)
        names = self._prefix + prefix
        if self._retention is None:
            found = set(self._bucket.keys(names))
        else:
            found = {version.key for version in self._bucket.versions(names) if not version.is_marker}
        yield from (name[start:] for name in sorted(found))  # not every server has S3's order

    def discard(self, key: str) -> None:
        """Tag what may go, or delete it where nothing is locked; that is not waited for, and may fail."""
        self._pool.submit(self._let_go, self._name(key), PASSING if is_partial(key) else EXPIRED)

    def keep(self, keys: Iterable[str]) -> None:
        """Lock these partial tiles for as long as everything else, because nothing may follow them."""
        if self._retention is not None:
            _finish([self._pool.submit(self._keep, key, self._retention.whole()) for key in keys])

    def hold(self, *, is_held: bool) -> None:
        """Place S3's own legal hold on every version, and on what is put from now on; or lift it."""
        if self._retention is None:
            return  # a bucket without locks has no holds
        self._is_held = is_held
        versions = [version for version in self._bucket.versions(self._prefix) if not version.is_marker]
        _finish([self._pool.submit(self._hold, version, is_held) for version in versions])

    def _hold(self, version: Version, is_held: bool) -> None:  # noqa: FBT001 - an argument of a pool's
        self._bucket.hold(version.key, version.id, is_held=is_held)

    def worm_failure(self) -> str | None:
        """Return what shows that the bucket does not keep what it is told to keep; None while nothing does."""
        key, what = next(iter(self.strange.items()), ("", ""))
        if key:
            return f"{self._prefix}{key} {what}; {len(self.strange)} files in all"
        return self._ask_again()

    def _keep(self, key: str, lock: Lock) -> None:
        version, _ = self._find(key)
        if version is not None:
            self._bucket.retain(self._name(key), version.id, lock)

    def _is_there(self, key: str, data: bytes) -> bool:
        """Say whether the key holds these bytes, and lock what is not locked; raise if it holds others."""
        version, found = self._find(key)
        if found is None:
            return False
        if found.data != data:
            raise AlreadyStored(f"s3://{self._bucket.name}/{self._name(key)} holds other bytes, and is never replaced")
        if self._retention is not None and version is not None and found.mode is None:
            self._bucket.retain(self._name(key), version.id, self._retention.lock(key))
        return True

    def _find(self, key: str) -> tuple[Version | None, Found | None]:
        name = self._name(key)
        if self._retention is None:
            return None, self._bucket.get(name)
        versions = self._versions(name)
        first = next((version for version in reversed(versions) if not version.is_marker), None)
        if first is None:
            if versions:
                self._report(key, "was deleted, and no version of it is left")
            return None, None
        found = self._bucket.get(name, first.id)
        if found is None:
            raise StorageError(f"s3://{self._bucket.name}/{name} is listed as version {first.id}, and is not there")
        self._judge(key, versions, found)
        return first, found

    def _versions(self, name: str) -> list[Version]:
        """Return the versions of one key, which S3 lists before longer ones, and others at least near them."""
        found: list[Version] = []
        for number, version in enumerate(self._bucket.versions(name)):
            if version.key == name:
                found.append(version)
            elif found or number >= _NEAR:
                break
            if len(found) > _VERSIONS:
                raise StorageError(f"s3://{self._bucket.name}/{name} has over {_VERSIONS} versions: who puts them?")
        return found

    def _judge(self, key: str, versions: Sequence[Version], found: Found) -> None:
        """Report what neither this store nor the lifecycle rule does."""
        if sum(not version.is_marker for version in versions) > 1:
            self._report(key, "has a newer version over it; the oldest one is used")
        elif len(versions) > 1 and not is_partial(key):
            self._report(key, "was deleted: a delete marker lies over it; the version below is used")
        elif found.mode is None:
            self._report(key, "is not locked")

    def _report(self, key: str, what: str) -> None:
        if self.strange.get(key) != what and len(self.strange) < _STRANGE:
            self.strange[key] = what
            _log.critical("s3://%s/%s %s", self._bucket.name, self._prefix + key, what)

    def _let_go(self, name: str, tag: Tag) -> None:
        try:
            if self._retention is None:
                self._bucket.delete(name)
            elif tag == PASSING:
                self._bucket.tag(name, tag)  # of every commit, so for one request; a version over it passes instead
            else:
                first = next((each for each in reversed(self._versions(name)) if not each.is_marker), None)
                if first is not None:
                    self._bucket.tag(name, tag, first.id)
        except StorageError as error:
            _log.info("what may go stays: %s", error)

    def _name(self, key: str) -> str:
        return self._prefix + require_key(key)


def _finish(futures: Sequence[Future[None]]) -> None:
    """Wait for all, then raise what one of them raised: other bytes before no answer."""
    wait(futures)
    errors = [error for future in futures if (error := future.exception()) is not None]
    errors.sort(key=lambda error: not isinstance(error, AlreadyStored))
    if errors:
        raise errors[0]
