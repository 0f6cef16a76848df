"""Ledgers in an S3 bucket, read as an auditor would: without the collector, and without a right to write.

As for the collector, the oldest version of a key is the one that counts: it is the one that was put when the file was
made. The bucket is listed once, and what was put since then is not looked at.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

import msgspec

from audit_middleware.cli.ledgers import Target, Trust, read_vkeys, verifier_for
from audit_middleware.collector.settings import Keeping, read_keeping
from audit_middleware.collector.storage.keys import is_partial, is_superseded_soon
from audit_middleware.collector.storage.s3_client import Bucket
from audit_middleware.collector.storage.settings import LONGEST, S3Settings
from audit_middleware.errors import BadLedger, ConfigurationError, StorageError, StoreUnavailable, VerificationError
from audit_middleware.tlog.checkpoint import open_checkpoint
from audit_middleware.tlog.reader import LogReader
from audit_middleware.tlog.tiles import ENTRIES, WIDTH, decode_bundle, encode_bundle, parse_path
from audit_middleware.verify.expired import FILE as EXPIRED
from audit_middleware.verify.expired import order_of
from audit_middleware.verify.ledger import Log, Scope
from audit_middleware.verify.report import Finding, Severity
from audit_middleware.verify.rollback import KeptCheckpoint, archived_sizes

if TYPE_CHECKING:
    from audit_middleware.collector.storage.s3_client import Found
    from audit_middleware.tlog.note import Verifier

_LOG: Final = re.compile(r"(?:(.*)/)?([a-z0-9][a-z0-9-]{0,31}/[0-9]{4}h[12])/((?:tile|checkpoints)/.+|expired)")
_ENDPOINTS: Final = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_HASH: Final = 32
_NEWEST: Final = 16  # archived checkpoints that are tried for one with a good signature
ARCHIVED_WITHIN: Final = timedelta(minutes=15)
"""A collector archives its checkpoint once a minute; what is older and not covered is more than one that runs."""
CLOCK: Final = timedelta(minutes=15)
"""How far the clock of a collector may be off before S3 refuses every request."""


@dataclass(slots=True)
class _Object:
    """The oldest version of a key, and what lies over it."""

    version: str
    stored: datetime | None
    over: int = 0
    is_deleted: bool = False


class Required:
    """How long the files of one log have to be locked; None where nothing has to be."""

    def __init__(self, keeping: Keeping | None, class_: str, period: str) -> None:
        store = keeping.store if keeping is not None else None
        self.store = store if isinstance(store, S3Settings) and store.worm else None
        self._expires = keeping.policy.expires(class_, period) if keeping is not None else None

    def judge(self, key: str, stored: datetime | None, found: Found) -> tuple[Severity, str] | None:
        """Say what is wrong with the lock of a file."""
        store = self.store
        if store is None or stored is None or store.retention is None or store.partial_retention is None:
            return None
        if found.mode is None or found.until is None:
            return Severity.TAMPERING, "is not locked at all: put by somebody else, or unlocked below S3"
        until = stored + (store.partial_retention if is_superseded_soon(key) else store.retention)
        why = "[store]"
        if self._expires is not None and not is_superseded_soon(key) and key != EXPIRED and self._expires > until:
            until, why = min(self._expires, stored + LONGEST), "[[retention]]"
        if found.until < until - CLOCK:
            return Severity.UNCHECKED, f"is locked until {found.until:%Y-%m-%d %H:%M}, by {why} until {until:%Y-%m-%d}"
        if store.mode == "COMPLIANCE" and found.mode != store.mode:
            return Severity.UNCHECKED, f"is locked as {found.mode}, by [store] as {store.mode}"
        return None


@dataclass(slots=True)
class BucketLog:
    """The files of one log in a bucket; ``note`` is the checkpoint to verify it by."""

    bucket: Bucket
    root: str
    name: str
    required: Required
    objects: dict[str, _Object] = field(default_factory=dict)
    note: bytes = b""
    found: list[Finding] = field(default_factory=list)

    def get(self, key: str) -> bytes | None:
        """Return the oldest version of a file, cut from a wider one if it is a partial tile that passed.

        Raises `BadLedger` for one that the bucket lists and does not give as it was put, `StoreUnavailable`.
        """
        if key == "checkpoint":
            return self.note or None
        known = self.objects.get(key)
        if known is None:
            return self._narrowed(key)
        try:
            found = self.bucket.get(f"{self.root}/{key}", known.version)
        except StoreUnavailable:
            raise
        except StorageError as error:
            raise BadLedger(f"is not as it was put: {error}", where=key) from error
        if found is None:
            return None
        wrong = self.required.judge(key, known.stored, found)
        if wrong is not None:
            self.found.append(Finding(wrong[0], "lock", f"{self.name}/{key}", wrong[1]))
        return found.data

    def read(self, key: str, limit: int) -> bytes | None:
        """Return the bytes of a file, None when it is not there or damaged."""
        try:
            data = self.get(key)
        except BadLedger:
            return None
        return None if data is None else data[:limit]

    def expired(self) -> bytes | None:
        """Return the file ``expired``, None when the log has its entries; a damaged one says nothing."""
        try:
            return self.get(EXPIRED)
        except BadLedger:
            return b""

    def keys(self, prefix: str) -> Iterator[str]:
        """Yield the names of the files below a prefix."""
        return (key for key in self.objects if key.startswith(prefix))

    def unsigned(self, key: str) -> Severity:
        """The checkpoint itself is at the collector; the newest one that was archived may be a minute older."""
        stored = self.objects[key].stored
        is_young = stored is not None and datetime.now(UTC) - stored < ARCHIVED_WITHIN
        return Severity.NOTE if is_young else Severity.UNCHECKED

    def choose(self, trusted: Sequence[Verifier], kept: Sequence[KeptCheckpoint]) -> Verifier:
        """Take the newest checkpoint with a good signature, archived or kept by the auditor; return its key."""
        archived = (
            self.read(f"checkpoints/{size}", 1 << 20) or b"" for size in archived_sizes(self)[: -_NEWEST - 1 : -1]
        )
        notes = [note for note in archived if note]
        notes += [each.note for each in kept if unquote(self.root).endswith(each.origin)]
        verifiers = [verifier_for(note, trusted, self.name) for note in notes]
        signed = [
            (size, note, verifier)
            for note, verifier in zip(notes, verifiers, strict=True)
            if (size := _size(note, verifier)) is not None
        ]
        if signed:
            _, self.note, verifier = max(signed, key=lambda each: each[0])
            return verifier
        self.note = notes[0] if notes else b""
        return verifier_for(self.note, trusted, self.name)

    def overlaid(self) -> Iterator[Finding]:
        """Yield what was overwritten or deleted; a lifecycle rule deletes what passes and what has expired."""
        is_expired = EXPIRED in self.objects
        for key, known in self.objects.items():
            where = f"{self.name}/{key}"
            may_go = is_partial(key) or (is_expired and key.startswith(("tile/entries/", "tile/0/")))
            if known.over:
                yield Finding(Severity.TAMPERING, "overlaid", where, f"has {known.over} newer versions over it")
            elif known.is_deleted and not may_go:
                yield Finding(Severity.TAMPERING, "overlaid", where, "was deleted: a delete marker lies over it")

    def _narrowed(self, key: str) -> bytes | None:
        if not is_partial(key):
            return None
        tile, folder = parse_path(key), key.rpartition("/")[0]
        widths = [
            int(other.rpartition("/")[2]) for other in self.keys(f"{folder}/") if other[len(folder) + 1 :].isdigit()
        ]
        wider = min((width for width in widths if tile.width < width < WIDTH), default=None)
        data = None if wider is None else self.get(f"{folder}/{wider}")
        if data is None or wider is None:
            return None
        if tile.level != ENTRIES:
            return data[: tile.width * _HASH]
        return encode_bundle(decode_bundle(data, wider)[: tile.width])


def bucket_target(url: str, trust: Trust, kept: Sequence[KeptCheckpoint], config: Path | None) -> Target:
    """Return the logs below ``s3://BUCKET/PREFIX``, of one collector or one log; raise `ConfigurationError`."""
    keeping = read_keeping(config) if config is not None else None
    offered = _keys_of(keeping)
    trusted = trust.keys(offered)
    if not trusted:
        raise ConfigurationError(
            f"a bucket names no key to trust: give that of {url} with --vkey, or set AUDIT_LOG_KEYS"
        )
    settings = _settings(url, keeping, os.environ)
    logs = _listed(Bucket(settings), settings.prefix, keeping)
    if not logs:
        raise ConfigurationError(f"{url} holds no ledger: below it, CLASS/PERIOD/tile/ is expected")
    if len({log.root.removesuffix(log.name) for log in logs}) > 1:
        names = ", ".join(sorted({f"s3://{settings.bucket}/{log.root.removesuffix(f'/{log.name}')}" for log in logs}))
        raise ConfigurationError(f"{url} holds the logs of several collectors; name one of {names}")
    is_one = logs[0].root == settings.prefix
    origins = [verifier.name for verifier in [*trust.explicit, *offered]]
    scope = Scope(origins, kept, misses_earlier=is_one, misses_later=is_one)
    verified = [
        Log(log.name, LogReader(log.get, log.choose(trusted, kept)), log, expired=log.expired()) for log in logs
    ]
    return Target(
        verified, scope, lambda: [finding for log in logs for finding in [*log.overlaid(), *_once(log.found)]]
    )


def _settings(url: str, keeping: Keeping | None, environ: Mapping[str, str]) -> S3Settings:
    """Return where to read: what the collector's file says of the way, and the URL of the place."""
    parts = urlsplit(url)
    prefix = parts.path.strip("/")
    if not parts.netloc:
        raise ConfigurationError(f"{url}: s3://BUCKET/PREFIX is expected")
    store = keeping.store if keeping is not None else None
    if store is not None and not isinstance(store, S3Settings):
        raise ConfigurationError("--config: that collector keeps its tiles in files")
    try:
        if store is not None:
            return msgspec.structs.replace(store, bucket=parts.netloc, prefix=prefix)
        has_endpoint = any(environ.get(name) for name in _ENDPOINTS)
        return S3Settings(bucket=parts.netloc, prefix=prefix, worm=False, path_style=has_endpoint)
    except ValueError as error:
        raise ConfigurationError(f"{url}: {error}") from error


def _listed(bucket: Bucket, prefix: str, keeping: Keeping | None) -> list[BucketLog]:
    """List every version once; of one key the newest comes first."""
    logs: dict[str, BucketLog] = {}
    markers: set[str] = set()
    for version in bucket.versions(f"{prefix}/" if prefix else ""):
        match = _LOG.fullmatch(version.key)
        if match is None:
            continue
        root = version.key.removesuffix(f"/{match[3]}")
        if root not in logs:
            class_, _, period = match[2].partition("/")
            logs[root] = BucketLog(bucket, root, match[2], Required(keeping, class_, period))
        objects = logs[root].objects
        if version.is_marker:
            markers.add(version.key)
            continue
        known = objects.get(match[3])
        over = 0 if known is None else known.over + 1
        objects[match[3]] = _Object(version.id, version.stored, over)
    for log in logs.values():
        for key, known in log.objects.items():
            known.is_deleted = f"{log.root}/{key}" in markers
    return sorted((log for log in logs.values() if log.objects), key=lambda log: order_of(log.name))


def _keys_of(keeping: Keeping | None) -> list[Verifier]:
    file = keeping.data / "log.vkey" if keeping is not None else None
    return read_vkeys(file.read_bytes(), str(file)) if file is not None and file.is_file() else []


def _size(note: bytes, verifier: Verifier) -> int | None:
    try:
        return open_checkpoint(note, verifier).size
    except VerificationError:
        return None


def _once(findings: Sequence[Finding]) -> list[Finding]:
    """Each once: a file may be read several times."""
    return list(dict.fromkeys(findings))
