"""What the probe finds in gateways that do less than they say."""

import pytest

from audit_middleware.collector.storage.s3_client import Bucket
from audit_middleware.collector.storage.s3_probe import probe
from audit_middleware.errors import StorageError, StoreUnavailable
from tests.stores import gateway as simulated
from tests.stores.gateway import Gateway
from tests.stores.kit import s3_settings


def probed(gateway, mode="COMPLIANCE", **changes):
    bucket = Bucket(s3_settings(gateway.endpoint, mode=mode, **changes))
    try:
        return probe(bucket, "ledgers/", mode)
    finally:
        bucket.close()


@pytest.mark.parametrize("mode", ["COMPLIANCE", "GOVERNANCE"])
def test_a_bucket_that_keeps_its_word_is_worm(gateway, mode):
    found = probed(gateway, mode)
    found.require_worm()
    assert found.is_worm
    assert len(found.guarantees) == (9 if mode == "COMPLIANCE" else 8)


def test_what_the_probe_leaves_behind_is_one_locked_object_that_a_lifecycle_rule_can_name(gateway):
    probed(gateway)
    ((key, versions),) = gateway.objects.items()
    assert key.startswith("ledgers/probe/")
    assert [(version.mode, version.tags) for version in versions] == [("COMPLIANCE", "audit-ready=passing")]


@pytest.mark.parametrize(
    ("ignored", "named"),
    [
        (simulated.PRECONDITION, "a key is given once: the server did it all the same"),
        (simulated.CHECKSUM, "a wrong SHA-256 is noticed: the server did it all the same"),
        (simulated.LOCK, "a lock is kept: the server forgot the lock"),
        (simulated.VERSIONS, "every put makes a version: the server named no version"),
        (simulated.DELETION, "a locked version cannot be deleted: the server did it all the same"),
        (simulated.SHORTENING, "a lock cannot be shortened: the server did it all the same"),
        (simulated.DOWNGRADE, "COMPLIANCE cannot become GOVERNANCE: the server did it all the same"),
        (simulated.PROLONGING, "a lock can be prolonged: the server has it as COMPLIANCE until"),
    ],
)
def test_a_gateway_that_ignores_one_thing_silently_is_no_worm_store_and_it_is_named(gateway, ignored, named):
    gateway.ignores = frozenset({ignored})
    found = probed(gateway)
    assert not found.is_worm
    with pytest.raises(StorageError) as refused:
        found.require_worm()
    assert named in str(refused.value)
    assert "worm = false" in str(refused.value)


def test_a_gateway_that_accepts_everything_is_refused_with_everything_it_did(gateway):
    gateway.ignores = simulated.EVERYTHING
    failed = [each.name for each in probed(gateway).guarantees if not each.holds]
    assert failed == ["a key is given once", "a wrong SHA-256 is noticed", "every put makes a version"]


def test_a_bucket_without_object_lock_is_refused(gateway):
    gateway.has_lock = False
    with pytest.raises(StorageError, match="refused to lock it with 400 InvalidRequest"):
        probed(gateway).require_worm()


@pytest.mark.parametrize("fault", ["500", "503", "lost", "slow"])
def test_a_server_that_does_not_answer_is_unavailable_which_is_not_the_same_as_no_worm(gateway, fault):
    gateway.fault = fault
    with pytest.raises(StoreUnavailable):
        probed(gateway, timeout_seconds=0.3)


def test_nobody_there_is_unavailable_with_what_to_do():
    gone = Gateway()
    gone.close()
    with pytest.raises(StoreUnavailable, match=r"is it up, and \[store\] endpoint right"):
        probed(gone)
