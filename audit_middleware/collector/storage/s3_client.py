"""The calls to S3 that the store is made of, one method each; boto3 is imported when the first bucket is made."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from audit_middleware.collector.storage.settings import Mode, S3Settings
from audit_middleware.errors import ConfigurationError, StorageError, StoreUnavailable

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

Tag = tuple[str, str]
"""Key and value, for a lifecycle rule to name."""
PASSING: Final[Tag] = ("audit-ready", "passing")
"""Of what is superseded."""
EXPIRED: Final[Tag] = ("audit-ready", "expired")
"""Of what was in a log that has expired."""
_MESSAGE: Final = 200
_CHECK_KEY: Final = "check the access key that boto3 finds (AWS_ACCESS_KEY_ID, a profile, the instance's role)"
_HINTS: Final = {
    "NoSuchBucket": "make the bucket, with Object Lock, or correct [store] bucket",
    "AccessDenied": "the rights it needs are listed in docs/operating.md, under S3",
    "InvalidAccessKeyId": _CHECK_KEY,
    "SignatureDoesNotMatch": _CHECK_KEY,
    "ExpiredToken": _CHECK_KEY,
    "NoCredentialsError": _CHECK_KEY,
    "PartialCredentialsError": _CHECK_KEY,
    "NoRegionError": "set [store] region",
    "RequestTimeTooSkewed": "set this host's clock",
    "InvalidRequest": "was the bucket made with Object Lock?",
    "SlowDown": "it asks for fewer requests: lower [store] parallel",
    "EndpointConnectionError": "is it up, and [store] endpoint right?",
    "ConnectTimeoutError": "is it up, and [store] endpoint right?",
    "ReadTimeoutError": "it is slow: see [store] timeout_seconds",
}


class Refused(StoreUnavailable):
    """The server answered a request with an error; ``status`` is HTTP's, ``code`` is S3's."""

    def __init__(self, message: str, *, status: int, code: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class Lock(NamedTuple):
    """Until when a version can be neither deleted nor overwritten."""

    mode: Mode
    until: datetime


class Version(NamedTuple):
    """One version of a key, or a delete marker on it; ``stored`` is the server's clock."""

    key: str
    id: str
    is_marker: bool
    stored: datetime | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """What a version holds, and how it is locked."""

    data: bytes
    mode: str | None
    until: datetime | None


class Bucket:
    """One bucket; safe in several threads. What fails is a `StoreUnavailable`, of which `Refused` is one.

    A request is tried again by botocore (standard mode) while the network or the server fails.
    """

    def __init__(self, settings: S3Settings) -> None:
        self.name = settings.bucket
        self._client = _connect(settings)

    def put(
        self,
        key: str,
        data: bytes,
        *,
        lock: Lock | None = None,
        is_passing: bool = False,
        is_held: bool = False,
        checksum: str | None = None,
    ) -> str | None:
        """Create an object and return its version. Raises `Refused` 412 or 409 when the key is taken."""
        more: dict[str, Any] = {"Tagging": "=".join(PASSING)} if is_passing else {}
        if lock is not None:
            more |= {"ObjectLockMode": lock.mode, "ObjectLockRetainUntilDate": lock.until}
        if is_held:
            more |= {"ObjectLockLegalHoldStatus": "ON"}
        with self._errors("put", key):
            answer = self._client.put_object(
                Bucket=self.name,
                Key=key,
                Body=data,
                ContentType="application/octet-stream",
                ChecksumSHA256=checksum or sha256_of(data),
                IfNoneMatch="*",
                **more,
            )
        return answer.get("VersionId")

    def get(self, key: str, version: str | None = None) -> Found | None:
        """Return what a version, or the latest one, holds; None when there is none.

        Raises `StorageError` when the bytes are not those of the checksum that came with them.
        """
        more: dict[str, Any] = {} if version is None else {"VersionId": version}
        try:
            with self._errors("get", key):
                answer = self._client.get_object(Bucket=self.name, Key=key, ChecksumMode="ENABLED", **more)
                data = answer["Body"].read()
        except Refused as error:
            if error.code in {"NoSuchKey", "NoSuchVersion"}:
                return None
            raise
        return Found(data, answer.get("ObjectLockMode"), answer.get("ObjectLockRetainUntilDate"))

    def versions(self, prefix: str) -> Iterator[Version]:
        """Yield versions and delete markers by key; those of one key newest first."""
        with self._errors("list the versions of", prefix):
            for page in self._client.get_paginator("list_object_versions").paginate(Bucket=self.name, Prefix=prefix):
                found = [
                    Version(each["Key"], each["VersionId"], False, each.get("LastModified"))
                    for each in page.get("Versions", [])
                ]
                found += [Version(each["Key"], each["VersionId"], True) for each in page.get("DeleteMarkers", [])]
                # a page holds them in two lists, each in order; among versions alone that order is kept
                yield from sorted(found, key=lambda each: each.key)

    def keys(self, prefix: str) -> Iterator[str]:
        """Yield the keys that have a latest version, in order."""
        with self._errors("list", prefix):
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix):
                yield from (each["Key"] for each in page.get("Contents", []))

    def delete(self, key: str, version: str | None = None, *, is_forced: bool = False) -> None:
        """Delete a version, or put a delete marker on the key; ``is_forced`` tries to pass over GOVERNANCE."""
        more: dict[str, Any] = {} if version is None else {"VersionId": version}
        more |= {"BypassGovernanceRetention": True} if is_forced else {}
        with self._errors("delete", key):
            self._client.delete_object(Bucket=self.name, Key=key, **more)

    def tag(self, key: str, tag: Tag, version: str | None = None) -> None:
        """Say of a version, or of the latest one, why it may go."""
        name, value = tag
        more: dict[str, Any] = {} if version is None else {"VersionId": version}
        with self._errors("tag", key):
            self._client.put_object_tagging(
                Bucket=self.name, Key=key, Tagging={"TagSet": [{"Key": name, "Value": value}]}, **more
            )

    def retain(self, key: str, version: str, lock: Lock, *, is_forced: bool = False) -> None:
        """Replace the lock of a version."""
        more: dict[str, Any] = {"BypassGovernanceRetention": True} if is_forced else {}
        with self._errors("lock", key):
            self._client.put_object_retention(
                Bucket=self.name,
                Key=key,
                VersionId=version,
                Retention={"Mode": lock.mode, "RetainUntilDate": lock.until},
                **more,
            )

    def hold(self, key: str, version: str, *, is_held: bool) -> None:
        """Place or lift the legal hold of a version, which keeps it from deletion without an end."""
        with self._errors("hold" if is_held else "release", key):
            self._client.put_object_legal_hold(
                Bucket=self.name, Key=key, VersionId=version, LegalHold={"Status": "ON" if is_held else "OFF"}
            )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _place(self, key: str) -> str:
        return f"s3://{self.name}/{key}"

    @contextmanager
    def _errors(self, what: str, key: str) -> Iterator[None]:
        """Say what botocore raises in words of ours; its own name no credentials, and are cut."""
        from botocore.exceptions import BotoCoreError, ClientError, FlexibleChecksumError, HTTPClientError

        try:
            yield
        except ClientError as error:
            status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            code = str(error.response.get("Error", {}).get("Code", "unknown"))
            text = f"{status} {code}: {str(error.response.get('Error', {}).get('Message', ''))[:_MESSAGE]}"
            raise Refused(self._say(what, key, text, code), status=status, code=code) from error
        except FlexibleChecksumError as error:  # what `ChecksumMode` asks botocore to look at
            raise StorageError(f"{self._place(key)} came with other bytes than its checksum says") from error
        except (BotoCoreError, HTTPClientError, OSError) as error:
            name = type(error).__name__
            raise StoreUnavailable(self._say(what, key, f"{name}: {str(error)[:_MESSAGE]}", name)) from error

    def _say(self, what: str, key: str, text: str, code: str) -> str:
        hint = _HINTS.get(code)
        return f"cannot {what} {self._place(key)}: {text}" + (f" ({hint})" if hint else "")


def sha256_of(data: bytes) -> str:
    """Return the SHA-256 as S3 spells it."""
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


def _connect(settings: S3Settings) -> S3Client:
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"{error.name} is missing: pip install 'audit-ready[s3]'") from error
    config = Config(
        connect_timeout=settings.timeout_seconds,
        read_timeout=settings.timeout_seconds,
        retries={"mode": "standard", "total_max_attempts": settings.attempts},
        max_pool_connections=settings.parallel + 8,  # reading takes connections of its own
        s3={"addressing_style": "path" if settings.path_style else "auto"},
    )
    try:
        return boto3.session.Session().client(
            "s3", endpoint_url=settings.endpoint, region_name=settings.region, config=config
        )
    except (BotoCoreError, ValueError) as error:
        raise ConfigurationError(f"[store]: boto3 cannot be set up for this bucket: {error}") from error
