"""Stores as the collector makes them, on whatever speaks S3."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from audit_middleware.collector.storage.s3 import Retention, S3Store
from audit_middleware.collector.storage.s3_client import Bucket
from audit_middleware.collector.storage.settings import S3Settings


def s3_settings(endpoint, bucket="audit", **changes):
    given = {"bucket": bucket, "endpoint": endpoint, "region": "us-east-1", "path_style": True, "timeout_seconds": 5.0}
    given |= {"attempts": 2, "prefix": "ledgers"}
    if changes.get("worm", True):
        given["retain"] = "400d"
    return S3Settings(**(given | changes))


class OpenStore:
    """One S3 store with its bucket and threads, to be closed."""

    def __init__(self, settings, prefix="ledgers/log.example/default/2026h2/"):
        self.bucket = Bucket(settings)
        self.pool = ThreadPoolExecutor(settings.parallel)
        whole, partial = settings.retention, settings.partial_retention
        self.retention = Retention(settings.mode, whole, partial) if whole else None
        self.store = S3Store(self.bucket, prefix, self.retention, self.pool)

    def __enter__(self):
        return self.store

    def __exit__(self, *_):
        self.pool.shutdown()
        self.bucket.close()
