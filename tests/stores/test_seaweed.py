"""The S3 store and the collector on a real server with Object Lock, and whoever is stronger than it."""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from botocore.exceptions import ClientError

from audit_middleware.collector.collector import Collector
from audit_middleware.collector.ledger import Ledger
from audit_middleware.collector.storage import put_all
from audit_middleware.collector.storage.s3_client import Bucket
from audit_middleware.collector.storage.s3_probe import probe
from audit_middleware.errors import AlreadyStored, BadLedger, StorageError, StoreUnavailable
from audit_middleware.sealing.keys import new_key, parse_keys
from audit_middleware.tlog.note import Signer
from audit_middleware.tlog.reader import LogReader
from tests.collector.kit import PERIOD, App, admitted, settings_for
from tests.stores.kit import OpenStore, s3_settings
from tests.stores.weed import Weed

pytestmark = pytest.mark.stores
PREFIX = "ledgers/log.example/default/2026h2/"
SIGNER = Signer("log.example/default/2026h2", bytes(range(32)))


def store_settings(weed, bucket, **changes):
    return s3_settings(weed.endpoint, bucket, **({"timeout_seconds": 20.0} | changes))


@pytest.fixture
def store(weed, bucket):
    with OpenStore(store_settings(weed, bucket)) as opened:
        yield opened


@pytest.fixture
def own(tmp_path):
    """A server that a test may kill."""
    server = Weed(tmp_path / "weed")
    server.start()
    try:
        server.wait()
        yield server
    finally:
        server.remove()


def versions(weed, bucket, prefix=""):
    return weed.client().list_object_versions(Bucket=bucket, Prefix=prefix).get("Versions", [])


def probed(weed, bucket, **changes):
    settings = store_settings(weed, bucket, **changes)
    opened = Bucket(settings)
    try:
        return probe(opened, "ledgers/", settings.mode)
    finally:
        opened.close()


@pytest.mark.parametrize("mode", ["COMPLIANCE", "GOVERNANCE"])
def test_the_server_is_worm_and_the_probe_says_so(weed, bucket, mode):
    found = probed(weed, bucket, mode=mode)
    assert [each for each in found.guarantees if not each.holds] == []


def test_a_bucket_without_lock_is_refused(weed):
    bucket = weed.make_bucket(f"plain-{secrets.token_hex(4)}", has_lock=False)
    with pytest.raises(StorageError, match="an object can be locked: the server refused to lock it with 400"):
        probed(weed, bucket).require_worm()


@pytest.mark.parametrize(
    ("key", "secret", "said"),
    [
        ("AKWRITER", "wrong", "SignatureDoesNotMatch.*check the access key"),
        ("AKNOBODY", "wrong", "InvalidAccessKeyId.*check the access key"),
        ("AKREADER", "SKREADER", "AccessDenied.*rights"),
    ],
)
def test_wrong_credentials_are_named_without_being_shown(weed, bucket, monkeypatch, key, secret, said):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    with pytest.raises(StoreUnavailable, match=said) as refused:
        probed(weed, bucket)
    assert secret not in str(refused.value)


@pytest.mark.parametrize("name", ["writer", "admin"])
def test_a_locked_version_is_deleted_by_nobody_who_has_to_use_s3(weed, bucket, store, name):
    store.put("tile/0/000", b"data")
    (version,) = versions(weed, bucket, PREFIX)
    client, locked = weed.client(name), {"Key": version["Key"], "VersionId": version["VersionId"]}
    for attempt in (
        lambda: client.delete_object(Bucket=bucket, **locked),
        lambda: client.delete_object(Bucket=bucket, **locked, BypassGovernanceRetention=True),
        lambda: client.put_object_retention(
            Bucket=bucket, **locked, Retention={"Mode": "COMPLIANCE", "RetainUntilDate": time.time() + 60}
        ),
        lambda: client.delete_bucket(Bucket=bucket),
    ):
        with pytest.raises(ClientError):
            attempt()
    batch = client.delete_objects(Bucket=bucket, Delete={"Objects": [locked]})
    assert [error["Key"] for error in batch["Errors"]] == [version["Key"]]
    assert store.get("tile/0/000") == b"data"


def test_versions_and_delete_markers_over_a_locked_one_change_nothing_and_are_reported(weed, bucket, store):
    store.put("tile/0/000", b"data")
    client = weed.client()
    client.put_object(Bucket=bucket, Key=f"{PREFIX}tile/0/000", Body=b"forged")
    client.delete_object(Bucket=bucket, Key=f"{PREFIX}tile/0/000")
    assert store.get("tile/0/000") == b"data"
    assert list(store.keys("")) == ["tile/0/000"]
    assert "newer version" in store.strange["tile/0/000"]


def test_sixteen_racing_writers_with_connections_of_their_own_agree_on_one_content(weed, bucket):
    start = threading.Barrier(16)

    def write(number):
        with OpenStore(store_settings(weed, bucket)) as store:
            start.wait()
            try:
                store.put("a", b"%d" % number)
            except AlreadyStored:
                return None
        return b"%d" % number

    with ThreadPoolExecutor(16) as pool:
        winners = [won for won in pool.map(write, range(16)) if won is not None]
    with OpenStore(store_settings(weed, bucket)) as store:
        assert winners == [store.get("a")]
    assert len(versions(weed, bucket, f"{PREFIX}a")) == 1


def test_partial_tiles_are_locked_for_two_days_and_a_kept_one_for_all(weed, bucket, store):
    put_all(store, [("tile/0/000.p/1", b"1"), ("tile/0/000.p/2", b"2")])
    store.keep(["tile/0/000.p/2"])
    client = weed.client()
    days = [
        (client.head_object(Bucket=bucket, Key=each["Key"])["ObjectLockRetainUntilDate"].timestamp() - time.time())
        / 86_400
        for each in versions(weed, bucket, PREFIX)
    ]
    assert [round(each) for each in days] == [2, 400]


def test_what_is_held_carries_the_servers_own_hold_until_it_is_released(weed, bucket, store):
    store.put("tile/0/000", b"before")
    store.hold(is_held=True)
    store.put("tile/0/001", b"after")
    client = weed.client()

    def states():
        return [
            client.get_object_legal_hold(Bucket=bucket, Key=f"{PREFIX}tile/0/{name}")["LegalHold"]["Status"]
            for name in ("000", "001")
        ]

    assert states() == ["ON", "ON"]
    store.hold(is_held=False)
    assert states() == ["OFF", "OFF"]


def test_a_superseded_partial_tile_is_tagged_and_a_full_one_as_expired(weed, bucket):
    with OpenStore(store_settings(weed, bucket)) as store:
        store.put("tile/0/000.p/1", b"1")
        store.discard("tile/0/000.p/1")
        store.put("tile/0/000", b"all")
        store.discard("tile/0/000")
    tagged = weed.client().get_object_tagging(Bucket=bucket, Key=f"{PREFIX}tile/0/000")["TagSet"]
    assert tagged == [{"Key": "audit-ready", "Value": "expired"}]
    tags = weed.client().get_object_tagging(Bucket=bucket, Key=f"{PREFIX}tile/0/000.p/1")["TagSet"]
    assert tags == [{"Key": "audit-ready", "Value": "passing"}]


def lifecycle(tmp_path, bucket):
    """What ``audit-ready retention lifecycle`` prints for a bucket whose class `web` is kept for a day."""
    (tmp_path / "collector.toml").write_text(
        f'name = "log.example"\n[store]\nkind = "s3"\nbucket = "{bucket}"\nprefix = "ledgers"\nretain = "1d"\n'
        '[[retention]]\nclass = "web"\nkeep = "1d"\n[[retention]]\nclass = "deeds"\nkeep = "forever"\n'
    )
    command = [sys.executable, "-m", "audit_middleware", "retention", "lifecycle", "--config"]
    done = subprocess.run([*command, str(tmp_path / "collector.toml")], capture_output=True, check=True)
    return json.loads(done.stdout)


def test_the_lifecycle_rules_are_ones_that_the_server_takes(weed, bucket, tmp_path):
    rules = lifecycle(tmp_path, bucket)
    client = weed.client()
    client.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration=rules)
    found = client.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    assert {rule["ID"]: rule["Filter"] for rule in found} == {rule["ID"]: rule["Filter"] for rule in rules["Rules"]}


def test_the_server_removes_by_these_rules_what_the_collector_let_go_and_nothing_else(own, tmp_path):
    """As if a day had passed: the rules are the generated ones, with a date in the past for each number of days."""
    own.make_bucket("audit")
    put = ["checkpoints/256", "tile/0/000", "tile/0/001.p/1", "tile/1/000.p/1", "tile/entries/000", "tile/entries/001"]
    for log, lock in (("web/2024h1", "2s"), ("web/2024h2", "400d"), ("deeds/2024h1", "2s"), ("collector/2024h1", "2s")):
        with OpenStore(store_settings(own, "audit", retain=lock), f"ledgers/log.example/{log}/") as store:
            put_all(store, [(name, b"data") for name in put])
            for name in ("tile/entries/000", "tile/0/000", "tile/0/001.p/1"):  # the last as when a commit supersedes it
                store.discard(name)
    rules = lifecycle(tmp_path, "audit")
    for rule in rules["Rules"]:
        if "Days" in rule["Expiration"]:
            rule["Expiration"] = {"Date": "2024-01-01T00:00:00Z"}
    client = own.client()
    client.put_bucket_lifecycle_configuration(Bucket="audit", LifecycleConfiguration=rules)
    time.sleep(3)  # the short locks have passed
    own.run_lifecycle()
    left = [each["Key"] for each in client.list_objects_v2(Bucket="audit")["Contents"]]
    gone = {
        "web/2024h1": {"tile/entries/000", "tile/0/000", "tile/0/001.p/1"},
        "web/2024h2": set(),  # locked, and that is the stronger one
        "deeds/2024h1": {"tile/0/001.p/1"},  # kept for ever: only what a wider tile stands in for
        "collector/2024h1": {"tile/0/001.p/1"},
    }
    assert left == sorted(f"ledgers/log.example/{log}/{name}" for log in gone for name in put if name not in gone[log])


def test_a_server_that_is_killed_amid_a_commit_costs_no_entry_and_the_ledger_goes_on(own, tmp_path):
    own.make_bucket("audit")
    lines = [b'{"entry":%d}' % number for number in range(3000)]

    def open_ledger(store):
        return Ledger.open(tmp_path / "log", store, SIGNER, guard=tmp_path / "guard" / "default")

    with OpenStore(store_settings(own, "audit", timeout_seconds=3.0, attempts=1)) as store:
        ledger = open_ledger(store)
        ledger.append(lines[:1000])
        killer = threading.Timer(0.01, own.kill)
        killer.start()

        def append_all():
            for at in range(1000, 3000, 200):
                ledger.append(lines[at : at + 200])

        with pytest.raises(StoreUnavailable):
            append_all()
        killer.join()
        acknowledged = ledger.size
        ledger.close()
        with pytest.raises(StoreUnavailable, match="is it up"):
            open_ledger(store)
    own.start()
    own.wait()
    with OpenStore(store_settings(own, "audit")) as store, open_ledger(store) as ledger:
        assert acknowledged <= ledger.size <= acknowledged + 200
        ledger.append(lines[ledger.size :])
        assert list(ledger.entries()) == lines
        LogReader(store.get, SIGNER.verifier, checkpoint=ledger._published[0]).check_tiles()


def test_a_collector_goes_on_by_itself_when_the_server_comes_back(own, tmp_path):
    own.make_bucket("audit")
    settings = settings_for(tmp_path, store=store_settings(own, "audit", timeout_seconds=2.0, attempts=1))
    app = App()
    with Collector(settings) as collector:
        collector.deliver(app.lines)
        own.kill()
        app.requests(500)
        with pytest.raises(Exception, match="how far it came"):
            collector.deliver(app.lines)
        own.start()
        own.wait()
        until(lambda: collector.state == "ready", 60)
        answer = collector.deliver(app.lines)
        assert answer.accepted + answer.duplicates == len(app.lines)
        assert admitted(collector, app.stream) == app.lines


class Running:
    """``audit-ready collect`` on the bucket, as its user starts it."""

    def __init__(self, folder, weed, bucket):
        self.folder, self.port = folder, free_port()
        self.keys = new_key("k1")
        self.url = f"http://127.0.0.1:{self.port}"
        self.environ = os.environ | {"AUDIT_KEYS": self.keys, "AUDIT_COLLECTOR_GUARD": str(folder / "guard")}
        folder.mkdir(exist_ok=True)
        (folder / "collector.toml").write_text(
            f"""data = "{folder}/data"
listen = "127.0.0.1:{self.port}"
name = "audit.test"

[store]
kind = "s3"
bucket = "{bucket}"
prefix = "ledgers"
endpoint = "{weed.endpoint}"
region = "us-east-1"
path_style = true
mode = "COMPLIANCE"
retain = "400d"
"""
        )

    def start(self, *, is_up=True):
        command = [sys.executable, "-m", "audit_middleware", "collect", "--config", str(self.folder / "collector.toml")]
        with open(self.folder / "collector.log", "ab") as log:
            self.process = subprocess.Popen(command, env=self.environ, stdout=log, stderr=log)
        if is_up:
            until(self.is_ready, 30)

    def is_ready(self):
        assert self.process.poll() is None, self.log()
        try:
            return httpx.get(f"{self.url}/readyz", trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    def deliver(self, lines):
        body = b"".join(line + b"\n" for line in lines)
        return httpx.post(f"{self.url}/v1/records", content=body, trust_env=False, timeout=30)

    def end(self, how):
        self.process.send_signal(how)
        return self.process.wait(60)

    def verify(self, *more):
        command = [sys.executable, "-m", "audit_middleware", "verify", self.url, "--json", *more]
        done = subprocess.run(command, env=self.environ, capture_output=True, text=True)
        return done.returncode, done.stdout

    def log(self):
        return (self.folder / "collector.log").read_text()


@pytest.fixture
def running(tmp_path, weed, bucket):
    collector = Running(tmp_path / "run", weed, bucket)
    collector.start()
    yield collector
    if collector.process.poll() is None:
        collector.process.kill()
        collector.process.wait()


def test_collected_into_s3_killed_restarted_and_verified_over_http(running):
    app = App(parse_keys(running.keys))
    sent = threading.Event()

    def kill():
        sent.wait()
        time.sleep(0.15)
        running.end(signal.SIGKILL)

    app.requests(300)
    assert running.deliver(app.lines).json()["accepted"] == len(app.lines)
    assert running.verify()[0] == 0
    killer = threading.Thread(target=kill)
    killer.start()

    def deliver_for_ever():
        while True:
            sent.set()
            running.deliver(app.requests(100)).raise_for_status()

    with pytest.raises(httpx.HTTPError):
        deliver_for_ever()
    killer.join()
    running.start()
    answer = running.deliver(app.lines[-900:]).json()
    assert answer["accepted"] <= 100
    assert answer["accepted"] + answer["duplicates"] == len(app.lines[-900:])
    assert running.end(signal.SIGTERM) == 0
    running.start()
    code, said = running.verify()
    assert code == 0, said
    found = httpx.get(f"{running.url}/v1/records", params={"limit": 5, "service": "orders"}, trust_env=False).json()[
        "records"
    ]
    assert [each["record"]["seq"] for each in found] == list(range(len(app.lines) - 1, len(app.lines) - 6, -1))
    assert "s3://" in running.log()
    assert "SKWRITER" not in running.log()


def test_an_insider_below_s3_is_found_by_verify_and_by_the_collector_itself(running, weed, bucket):
    """The filer's port asks nobody who they are, and knows no lock: WORM is as good as what lies under it."""
    app = App(parse_keys(running.keys))
    app.requests(600)
    assert running.deliver(app.lines).json()["accepted"] == len(app.lines)
    path = f"ledgers/audit.test/default/{PERIOD}/tile/entries/001"
    gone = httpx.request("DELETE", f"{weed.filer}/buckets/{bucket}/{path}.versions?recursive=true", trust_env=False)
    assert gone.status_code == 204
    code, said = running.verify()
    assert code == 1
    assert "tile/entries/001: is missing" in said
    answer = httpx.get(f"{running.url}/log/default/{PERIOD}/tile/entries/001", trust_env=False)
    assert answer.status_code == 404
    assert running.end(signal.SIGTERM) == 0
    running.start()
    again = running.deliver(app.lines)  # after a restart a retry is compared with what is there, and something is not
    assert (again.status_code, again.json()["type"]) == (503, "urn:audit-ready:problem:ledger-damaged")
    assert "tile/entries/001: is missing" in running.log()


def test_an_insider_who_empties_the_bucket_is_found_at_the_next_start(running, weed, bucket):
    app = App(parse_keys(running.keys))
    assert running.deliver(app.lines).status_code == 200
    assert running.end(signal.SIGTERM) == 0
    httpx.request("DELETE", f"{weed.filer}/buckets/{bucket}/ledgers/audit.test?recursive=true", trust_env=False)
    running.start(is_up=False)
    assert running.process.wait(60) == 2
    assert "is missing" in running.log()


def test_reading_a_tile_that_was_removed_names_it(weed, bucket, store, tmp_path):
    with Ledger.open(tmp_path / "log", store, SIGNER, guard=tmp_path / "guard" / "g") as ledger:
        ledger.append([b'{"entry":%d}' % number for number in range(600)])
        httpx.request(
            "DELETE", f"{weed.filer}/buckets/{bucket}/{PREFIX}tile/0/001.versions?recursive=true", trust_env=False
        )
        with pytest.raises(BadLedger, match="tile/0/001: is missing"):
            LogReader(store.get, SIGNER.verifier, checkpoint=ledger._published[0]).check_tiles()


def until(is_so, within):
    deadline = time.monotonic() + within
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
