"""What S3 may remove by itself: the lifecycle configuration of a collector's bucket, from its retention policy. Pure.

A rule goes by a prefix and a tag, and by the age of an object. Only the collector knows of records and holds, so
nothing goes without a tag; the prefix says for which class it counts, the age that not even then too early.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final
from urllib.parse import quote

from audit_middleware.collector.retention.policy import OWN_CLASS, Policy
from audit_middleware.collector.storage.s3_client import EXPIRED, PASSING, Tag
from audit_middleware.collector.storage.settings import S3Settings

MAX_RULES: Final = 1000
"""A bucket takes no more (S3, PutBucketLifecycleConfiguration)."""
_DAY: Final = timedelta(days=1)
_YEAR_DAYS: Final = 366

Rule = dict[str, Any]
"""As `PutBucketLifecycleConfiguration` spells it."""


def lifecycle_rules(store: S3Settings, policy: Policy, name: str) -> list[Rule]:
    """Return the rules of one collector, whose logs are called ``name``; those of several may stand in one bucket.

    * superseded partial tiles and what the probe left, by their tag, once their lock has passed
    * entries and leaf hashes that the collector tagged when their log had expired, below each class that is not kept
      for ever, and never before the time to keep has passed since they were put
    * delete markers with nothing below, and uploads in parts, which the collector never begins

    Without Object Lock the collector deletes by itself, and only the last of them is left.
    """
    top = f"{store.prefix}/" if store.prefix else ""
    rules = [_leftovers(top)]
    partial = store.partial_retention
    if partial is None:
        return rules
    rules.append(_removal(f"passing {top}", top, PASSING, -(-partial // _DAY) + 1))
    for class_ in policy.classes:
        number, unit = policy.keep(class_)
        if class_ == OWN_CLASS or number is None:
            continue
        below = f"{top}{quote(name, safe='/')}/{class_}/"
        rules.append(_removal(f"expired {below}", below, EXPIRED, number * (_YEAR_DAYS if unit == "y" else 1)))
    return rules


def _leftovers(top: str) -> Rule:
    return {
        "ID": f"audit-ready leftovers {top}".rstrip(),
        "Status": "Enabled",
        "Filter": {"Prefix": top},
        "Expiration": {"ExpiredObjectDeleteMarker": True},
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
    }


def _removal(what: str, prefix: str, tag: Tag, days: int) -> Rule:
    """Two steps, as in every bucket with versions: a delete marker, and a day later the version below it."""
    named = {"Key": tag[0], "Value": tag[1]}
    return {
        "ID": f"audit-ready {what}".rstrip(),
        "Status": "Enabled",
        "Filter": {"And": {"Prefix": prefix, "Tags": [named]}} if prefix else {"Tag": named},
        "Expiration": {"Days": days},
        "NoncurrentVersionExpiration": {"NoncurrentDays": 1},
    }
