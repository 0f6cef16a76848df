"""What an S3 store does when the network, the server or an insider does what it should not."""

import logging
from datetime import UTC, datetime, timedelta

import pytest

from audit_middleware.collector.storage import put_all
from audit_middleware.collector.storage.s3_client import Refused
from audit_middleware.errors import AlreadyStored, ConfigurationError, StorageError, StoreUnavailable
from tests.stores.kit import OpenStore, s3_settings

PREFIX = "ledgers/log.example/default/2026h2/"


def versions(gateway, key):
    return gateway.objects[PREFIX + key]


@pytest.mark.parametrize("fault", ["500", "503", "lost", "answer lost"])
@pytest.mark.parametrize("times", [1, 2])
def test_a_request_that_failed_is_sent_again_and_stores_one_version_whatever_became_of_it(gateway, store, fault, times):
    """Two attempts a call: the second fault is more than a call bears, and the caller comes again."""
    gateway.faults.extend([fault] * times)
    try:
        store.put("tile/0/000", b"data")
    except StoreUnavailable:
        assert times == 2
        store.put("tile/0/000", b"data")
    assert [version.data for version in versions(gateway, "tile/0/000")] == [b"data"]
    assert store.get("tile/0/000") == b"data"


def test_a_server_that_is_too_slow_is_given_up_within_its_time_and_had_stored_it_all_the_same(gateway):
    gateway.fault = "slow"
    with OpenStore(s3_settings(gateway.endpoint, timeout_seconds=0.3)) as store:
        with pytest.raises(StoreUnavailable, match=r"slow: see \[store\] timeout_seconds"):
            store.put("tile/0/000", b"data")
        gateway.fault = None
        store.put("tile/0/000", b"data")
        assert store.get("tile/0/000") == b"data"


def test_slow_down_says_what_to_do(gateway, store):
    gateway.fault = "503"
    with pytest.raises(StoreUnavailable, match=r"503 SlowDown.*lower \[store\] parallel"):
        store.put("a", b"1")
    with pytest.raises(StoreUnavailable):
        store.get("a")
    with pytest.raises(StoreUnavailable):
        list(store.keys(""))


def test_one_failure_among_many_is_said_after_all_of_them_have_ended(gateway, store):
    files = [(f"many/{number}", b"%d" % number) for number in range(40)]
    gateway.faults.extend(["lost"] * 50)
    with pytest.raises(StoreUnavailable):
        put_all(store, files)
    count = len(gateway.requests)
    gateway.faults.clear()
    assert len(gateway.requests) == count
    put_all(store, files)
    assert sorted(store.keys("")) == sorted(key for key, _ in files)


def test_other_bytes_are_said_before_no_answer(gateway, store):
    store.put("a", b"1")
    gateway.faults.extend(["500"] * 4)
    with pytest.raises(AlreadyStored):
        put_all(store, [("b", b"1"), ("c", b"1"), *[("a", b"2")] * 10])


def test_files_are_sent_at_the_same_time(gateway, store):
    gateway.slowness = 0.1
    began = datetime.now(UTC)
    put_all(store, [(f"many/{number}", b"") for number in range(32)])
    assert datetime.now(UTC) - began < timedelta(seconds=1.6)  # one after the other would take 3.2 s


def test_what_every_commit_supersedes_is_locked_for_two_days_and_everything_else_for_the_whole_retention(
    gateway, store
):
    soon, late = ["tile/0/001.p/7", "tile/entries/001.p/7"], ["tile/0/000", "tile/1/000.p/1", "checkpoints/7"]
    put_all(store, [(key, b"1") for key in soon + late])
    days = {key: _days(versions(gateway, key)[0]) for key in soon + late}
    assert days == dict.fromkeys(soon, 2) | dict.fromkeys(late, 400)
    assert {each[0].tags for each in gateway.objects.values()} == {""}


def test_a_partial_tile_that_nothing_may_follow_is_kept_like_everything_else(gateway, store):
    store.put("tile/0/001.p/7", b"2")
    store.keep(["tile/0/001.p/7", "tile/1/000.p/1"])
    assert _days(versions(gateway, "tile/0/001.p/7")[0]) == 400


def test_discarding_tags_what_is_superseded_for_the_lifecycle_rule_and_deletes_nothing(gateway):
    with OpenStore(s3_settings(gateway.endpoint)) as store:
        put_all(store, [("tile/0/001.p/7", b"1"), ("tile/0/001.p/8", b"2")])
        store.discard("tile/0/001.p/7")
        store.discard("tile/0/001.p/none")
    tags = {key.rpartition("/")[2]: [each.tags for each in every] for key, every in gateway.objects.items()}
    assert tags == {"7": ["audit-ready=passing"], "8": [""]}
    assert {command for command, _ in gateway.requests} == {"PUT"}


def test_a_discard_that_fails_is_nobodys_failure(gateway):
    with OpenStore(s3_settings(gateway.endpoint, attempts=1)) as store:
        store.put("tile/0/001.p/7", b"1")
        gateway.fault = "500"
        store.discard("tile/0/001.p/7")
    gateway.fault = None
    with OpenStore(s3_settings(gateway.endpoint)) as store:
        assert store.get("tile/0/001.p/7") == b"1"


def test_an_equal_file_that_was_not_locked_is_locked(gateway, store):
    store.put("a", b"1")
    (version,) = versions(gateway, "a")
    version.mode = version.until = None
    store.put("a", b"1")
    assert _days(version) == 400


@pytest.mark.parametrize("deeds", [["delete"], ["put"], ["put", "put", "delete", "put", "delete", "delete"]])
def test_what_lies_over_a_locked_version_changes_nothing_and_is_reported(gateway, store, caplog, deeds):
    store.put("tile/0/000", b"data")
    for deed in deeds:
        if deed == "put":
            gateway.put(PREFIX + "tile/0/000", b"forged", {})
        else:
            gateway.delete(PREFIX + "tile/0/000", None)
    with caplog.at_level(logging.CRITICAL):
        assert store.get("tile/0/000") == b"data"
        assert store.get("tile/0/000") == b"data"
    assert list(store.keys("tile/")) == ["tile/0/000"]
    assert len(caplog.records) == 1
    assert list(store.strange) == ["tile/0/000"]
    assert ("newer version" if "put" in deeds else "deleted") in store.strange["tile/0/000"]


def test_a_delete_marker_of_the_lifecycle_rule_on_a_partial_tile_is_nothing_strange(gateway, store):
    store.put("tile/0/000.p/1", b"data")
    gateway.delete(PREFIX + "tile/0/000.p/1", None)
    assert store.get("tile/0/000.p/1") == b"data"
    assert store.strange == {}


def test_a_key_with_nothing_but_delete_markers_is_absent_and_reported(gateway, store):
    gateway.delete(PREFIX + "tile/0/000", None)
    assert store.get("tile/0/000") is None
    assert list(store.keys("")) == []
    assert "no version of it is left" in store.strange["tile/0/000"]


def test_an_unlocked_file_is_reported(gateway, store):
    gateway.put(PREFIX + "tile/0/000", b"data", {})
    assert store.get("tile/0/000") == b"data"
    assert store.strange == {"tile/0/000": "is not locked"}


def test_a_key_buried_under_versions_is_an_error_that_says_so_and_not_an_endless_read(gateway, store, monkeypatch):
    monkeypatch.setattr("audit_middleware.collector.storage.s3._VERSIONS", 20)
    store.put("a", b"1")
    for _ in range(30):
        gateway.put(PREFIX + "a", b"forged", {})
    with pytest.raises(StorageError, match="over 20 versions"):
        store.get("a")


def test_bytes_that_are_not_those_of_their_checksum_are_an_error(gateway, store):
    store.put("a", b"1")
    versions(gateway, "a")[0].data = b"2"
    with pytest.raises(StorageError, match="other bytes than its checksum says"):
        store.get("a")


def test_a_refusal_says_what_where_and_what_to_do_and_names_no_credentials(store, gateway):
    gateway.has_lock = False
    with pytest.raises(Refused) as refused:
        store.put("a", b"1")
    assert str(refused.value) == (
        f"cannot put s3://audit/{PREFIX}a: 400 InvalidRequest: said the simulator (was the bucket made with Object Lock?)"
    )


def test_without_credentials_nothing_is_sent_and_the_error_says_where_to_look(gateway, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with OpenStore(s3_settings(gateway.endpoint)) as store, pytest.raises(StoreUnavailable, match="AWS_ACCESS_KEY_ID"):
        store.put("a", b"1")
    assert gateway.requests == []


def test_without_boto3_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "boto3", None)
    with pytest.raises(ConfigurationError, match=r"boto3 is missing: pip install 'audit-ready\[s3\]'"):
        OpenStore(s3_settings("http://127.0.0.1:1"))


def _days(version):
    return round((version.until - datetime.now(UTC)) / timedelta(days=1))
