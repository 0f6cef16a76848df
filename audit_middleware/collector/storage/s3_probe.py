"""Does the bucket keep what it is told to keep? Many gateways ignore the headers silently, so every start asks.

An object is put with a short lock, and then everything is tried that must fail.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from audit_middleware.collector.storage.s3 import TAKEN
from audit_middleware.collector.storage.s3_client import Bucket, Lock, Refused, sha256_of
from audit_middleware.collector.storage.settings import Mode
from audit_middleware.errors import StorageError

SPAN: Final = timedelta(minutes=15)
"""Lock of the object that is left behind; longer than a clock may be off before S3 refuses every request."""
_DATA: Final = b"audit-ready asks whether this can be changed\n"
_NO_LOCK: Final = frozenset({400, 409, 501})  # of a put with a lock: the bucket, or the server, has none
_LOCKED: Final = frozenset({400, 403, 405, 409})  # of an attempt on a locked version; S3 says 403, others 400


@dataclass(frozen=True, slots=True)
class Guarantee:
    """One thing that a WORM store has to do, whether this one does, and what the server answered."""

    name: str
    holds: bool
    answer: str


@dataclass(frozen=True, slots=True)
class Probe:
    """What was found."""

    place: str
    guarantees: tuple[Guarantee, ...]

    @property
    def is_worm(self) -> bool:
        """Whether all of them hold."""
        return all(guarantee.holds for guarantee in self.guarantees)

    def require_worm(self) -> None:
        """Raise `StorageError` that names what the server did."""
        failed = [f"{each.name}: the server {each.answer}" for each in self.guarantees if not each.holds]
        if failed:
            raise StorageError(
                f"{self.place} is no WORM store: {'; '.join(failed)}. Use a bucket made with Object Lock, on a server "
                "that enforces it; or say [store] worm = false, and it is labelled as what it is"
            )


def probe(bucket: Bucket, prefix: str, mode: Mode, clock: Callable[[], float] = time.time) -> Probe:
    """Try everything; the object stays below ``prefix`` until its lock has passed and the lifecycle rule takes it.

    Raises `StoreUnavailable` when the server does not answer, or does not let these credentials in.
    """
    key = f"{prefix}probe/{secrets.token_hex(8)}"
    lock = Lock(mode, datetime.fromtimestamp(int(clock()), UTC) + SPAN)
    return Probe(f"s3://{bucket.name}/{prefix}", tuple(_ask(bucket, key, lock)))


def _ask(bucket: Bucket, key: str, lock: Lock) -> Iterator[Guarantee]:
    try:
        version = bucket.put(key, _DATA, lock=lock, is_passing=True)
    except Refused as error:
        if error.status not in _NO_LOCK:
            raise
        yield Guarantee("an object can be locked", False, f"refused to lock it with {error.status} {error.code}")
        return
    yield _refuses(TAKEN, "a key is given once", lambda: bucket.put(key, b"other", lock=lock, is_passing=True))
    wrong = sha256_of(b"other")
    yield _refuses({400}, "a wrong SHA-256 is noticed", lambda: bucket.put(f"{key}-wrong", _DATA, checksum=wrong))
    if version is None:
        yield Guarantee("every put makes a version", False, "named no version")
        return
    yield _lists(bucket, key, version)
    yield _reads_back(bucket, key, version, lock)
    yield from _attack(bucket, key, version, lock)


def _attack(bucket: Bucket, key: str, version: str, lock: Lock) -> Iterator[Guarantee]:
    """Try to get rid of a locked version, the harmless way last: it has to work, so that partial tiles can be kept."""
    forced = lock.mode == "COMPLIANCE"  # who may pass over GOVERNANCE is the bucket's owner's to say
    shorter, longer = Lock(lock.mode, lock.until - SPAN / 2), Lock(lock.mode, lock.until + SPAN / 2)
    name = "a lock cannot be shortened"
    yield _refuses(_LOCKED, name, lambda: bucket.retain(key, version, shorter, is_forced=forced))
    if forced:
        name, weaker = "COMPLIANCE cannot become GOVERNANCE", Lock("GOVERNANCE", lock.until)
        yield _refuses(_LOCKED, name, lambda: bucket.retain(key, version, weaker, is_forced=True))
    name = "a locked version cannot be deleted"
    yield _refuses(_LOCKED, name, lambda: bucket.delete(key, version, is_forced=forced))
    name = "what was refused did not happen"
    yield _reads_back(bucket, key, version, lock, name=name)
    yield _extends(bucket, key, version, longer)


def _refuses(statuses: set[int] | frozenset[int], name: str, attempt: Callable[[], object]) -> Guarantee:
    try:
        attempt()
    except Refused as error:
        return Guarantee(name, error.status in statuses, f"answered {error.status} {error.code}")
    return Guarantee(name, False, "did it all the same")


def _lists(bucket: Bucket, key: str, version: str) -> Guarantee:
    name = "versions are listed"
    try:
        listed = [each.id for each in bucket.versions(key) if each.key == key]
    except Refused as error:
        return Guarantee(name, False, f"answered {error.status} {error.code}")
    return Guarantee(name, listed == [version], f"named {listed}, not [{version!r}]")


def _reads_back(bucket: Bucket, key: str, version: str, lock: Lock, name: str = "a lock is kept") -> Guarantee:
    found = bucket.get(key, version)
    if found is None or found.data != _DATA:
        return Guarantee(name, False, "does not have the version" if found is None else "gave other bytes")
    if found.mode is None or found.until is None:
        return Guarantee(name, False, "forgot the lock")
    holds = (found.mode, found.until) == lock
    return Guarantee(name, holds, f"has it as {found.mode} until {found.until:%Y-%m-%dT%H:%M:%SZ}")


def _extends(bucket: Bucket, key: str, version: str, longer: Lock) -> Guarantee:
    name = "a lock can be prolonged"
    try:
        bucket.retain(key, version, longer)
    except Refused as error:
        return Guarantee(name, False, f"answered {error.status} {error.code}")
    return _reads_back(bucket, key, version, longer, name)
