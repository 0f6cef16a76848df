"""``audit-ready verify s3://``: an auditor reads the bucket alone, and tells missing, expired and tampered apart."""

import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime

import httpx
import pytest

from audit_middleware.collector.collector import Collector
from audit_middleware.collector.retention.policy import RetentionSetting
from audit_middleware.sealing.text import b64url
from tests.collector.kit import KEY, PERIOD, App, settings_for
from tests.stores.kit import s3_settings

pytestmark = pytest.mark.stores
LOG = f"ledgers/audit.test/default/{PERIOD}"


class Audited:
    """A collector on the bucket, and the auditor's command line, which has the keys and read access."""

    def __init__(self, folder, weed, bucket):
        self.folder, self.weed, self.bucket = folder, weed, bucket
        self.app = App()
        self.app.requests(600)
        self.rules = []
        self.retain = "400d"

    def settings(self):
        store = s3_settings(self.weed.endpoint, self.bucket, timeout_seconds=20.0, retain=self.retain)
        return settings_for(self.folder, store=store, retention=self.rules)

    def keep(self):
        """Have everything in the ledger, and end the collector."""
        with Collector(self.settings()) as collector:
            collector.deliver(self.app.lines)

    def verify(self, place="ledgers", *more, vkey=None):
        environ = {name: value for name, value in os.environ.items() if not name.startswith("AUDIT_")}
        environ |= {"AWS_ENDPOINT_URL": self.weed.endpoint, "AWS_DEFAULT_REGION": "us-east-1"}
        environ |= {"AWS_ACCESS_KEY_ID": "AKREADER", "AWS_SECRET_ACCESS_KEY": "SKREADER"}
        environ |= {"AUDIT_KEYS": f"k1:{b64url(KEY).decode()}", "AUDIT_LOG_KEYS": vkey or self.vkeys()}
        command = [sys.executable, "-m", "audit_middleware", "verify", f"s3://{self.bucket}/{place}", "--json", *more]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)
        assert "Traceback" not in done.stderr, done.stderr
        found = json.loads(done.stdout)
        rules = {(each["severity"], each["rule"]) for each in found.get("findings", [])}
        return done.returncode, rules, found

    def vkeys(self):
        return ",".join((self.folder / "data/log.vkey").read_text().split())

    def write_config(self, **changes):
        given = {"retain": "400d", "mode": "COMPLIANCE"} | changes
        file = self.folder / "collector.toml"
        table = "".join(f'{name} = "{value}"\n' for name, value in given.items())
        file.write_text(
            f'data = "{self.folder}/data"\nname = "audit.test"\n[store]\nkind = "s3"\nbucket = "{self.bucket}"\n'
            f'prefix = "ledgers"\nendpoint = "{self.weed.endpoint}"\nregion = "us-east-1"\npath_style = true\n{table}'
        )
        return str(file)


@pytest.fixture
def audited(tmp_path, weed, bucket):
    return Audited(tmp_path, weed, bucket)


def test_a_ledger_in_a_bucket_is_verified_with_a_right_to_read_alone(audited):
    audited.keep()
    for place in ("ledgers", "ledgers/audit.test"):
        code, rules, found = audited.verify(place)
        assert (code, rules) == (0, {("note", "unclosed")}), found
        assert found["counts"]["entries"] >= len(audited.app.lines)
    code, _, found = audited.verify(LOG)
    assert code in {0, 2}, found  # one log of perhaps several
    code, rules, found = audited.verify("ledgers", "--config", audited.write_config())
    assert (code, rules) == (0, {("note", "unclosed")}), found


def test_what_runs_and_grows_is_verified_as_far_as_it_is_signed_for(audited):
    with Collector(audited.settings()) as collector:
        collector.deliver(audited.app.lines[:300])
        collector.deliver(audited.app.lines[300:])
        code, rules, found = audited.verify()
        assert (code, ("note", "ahead") in rules) == (0, True), found
        (log,) = [log for log in collector.logs if log.class_ == "default"]
        (audited.folder / "kept").write_bytes(log.note)
        code, rules, found = audited.verify("ledgers", "--checkpoint", str(audited.folder / "kept"))
        assert (code, ("note", "ahead") in rules) == (0, False), found
        assert found["counts"]["entries"] >= 600


def test_an_insider_who_deletes_below_s3_leaves_a_hole_that_is_named_missing(audited, weed, bucket):
    audited.keep()
    gone = f"{weed.filer}/buckets/{bucket}/{LOG}/tile/entries/001.versions?recursive=true"
    assert httpx.delete(gone, trust_env=False).status_code == 204
    code, rules, found = audited.verify()
    assert (code, ("tampering", "ledger") in rules) == (1, True)
    assert any("tile/entries/001: is missing" in each["message"] for each in found["findings"])


@pytest.mark.parametrize("key", ["tile/entries/001", "tile/0/001"])
def test_an_insider_who_overwrites_below_s3_is_found(audited, weed, bucket, key):
    audited.keep()
    folder = f"{weed.filer}/buckets/{bucket}/{LOG}/{key}.versions"
    listing = httpx.get(f"{folder}/", headers={"Accept": "application/json"}, trust_env=False).json()
    (entry,) = listing["Entries"]
    name = entry["FullPath"].rpartition("/")[2]
    data = httpx.get(f"{folder}/{name}", trust_env=False).content
    forged = data[:100] + bytes([data[100] ^ 1]) + data[101:]
    assert httpx.put(f"{folder}/{name}", content=forged, trust_env=False).status_code == 201
    code, rules, found = audited.verify()
    assert (code, ("tampering", "ledger") in rules) == (1, True), found
    assert any(key in each["where"] or key in each["message"] for each in found["findings"])


def test_newer_versions_and_delete_markers_are_found_and_hide_nothing(audited, weed, bucket):
    audited.keep()
    client = weed.client()
    client.put_object(Bucket=bucket, Key=f"{LOG}/tile/0/001", Body=b"forged")
    client.delete_object(Bucket=bucket, Key=f"{LOG}/tile/entries/001")
    code, _, found = audited.verify()
    wrong = {each["where"]: each["rule"] for each in found["findings"] if each["severity"] == "tampering"}
    named = {f"default/{PERIOD}/tile/0/001": "overlaid", f"default/{PERIOD}/tile/entries/001": "overlaid"}
    assert (code, wrong) == (1, named)


def test_a_checkpoint_put_by_somebody_else_and_a_key_nobody_pinned_are_found(audited, weed, bucket):
    audited.keep()
    weed.client().put_object(Bucket=bucket, Key=f"{LOG}/checkpoints/999999", Body=b"audit.test/x\n999999\n\n")
    code, rules, _ = audited.verify()
    assert (code, ("tampering", "rollback") in rules) == (1, True)
    name, _, rest = audited.vkeys().split(",")[0].partition("+")
    other = f"{name}+00000000+{rest.partition('+')[2]}"
    assert audited.verify(vkey=other)[0] == 2
    assert "no key to trust" in audited.verify(vkey=",")[2]["error"]


def test_locks_that_are_missing_or_too_short_are_found_with_the_collectors_settings(audited, weed, bucket):
    audited.retain = "2h"
    audited.keep()
    code, rules, found = audited.verify("ledgers", "--config", audited.write_config())
    assert (code, ("unchecked", "lock") in rules) == (2, True), found
    code, _, found = audited.verify("ledgers", "--config", audited.write_config(retain="2h"))
    assert code == 0, found
    file = audited.write_config(retain="2h")
    with open(file, "a") as config:
        config.write('[[retention]]\nkeep = "2y"\n')
    code, _, found = audited.verify("ledgers", "--config", file)
    assert (code, any("by [[retention]] until" in each["message"] for each in found["findings"])) == (2, True)


def test_a_file_that_was_put_back_without_its_lock_is_found_though_its_bytes_are_right(audited, weed, bucket):
    audited.keep()
    client, key = weed.client(), f"{LOG}/tile/0/001"
    data = client.get_object(Bucket=bucket, Key=key)["Body"].read()
    httpx.delete(f"{weed.filer}/buckets/{bucket}/{key}.versions?recursive=true", trust_env=False)
    client.put_object(Bucket=bucket, Key=key, Body=data)
    assert audited.verify()[0] == 0
    code, _, found = audited.verify("ledgers", "--config", audited.write_config())
    wrong = {each["where"]: each["rule"] for each in found["findings"] if each["severity"] == "tampering"}
    assert (code, wrong) == (1, {f"default/{PERIOD}/tile/0/001": "lock"})


def test_what_has_expired_is_told_from_what_is_missing(audited, weed, bucket):
    audited.rules, audited.retain = [RetentionSetting(keep="1y")], "2s"
    with Collector(audited.settings()) as collector:
        collector._open.desk.clock = lambda: datetime(2023, 5, 1, tzinfo=UTC).timestamp()
        collector.deliver(audited.app.lines)
        collector._open.desk.clock = time.time
        collector.deliver([audited.app.say("request", json.loads(audited.app.lines[-1])["rec"])])
        retention = collector.retention
        assert [item.period for item in retention.apply(retention.plan().id, "ann")] == ["2023h1"]
        code, rules, found = audited.verify()
        assert (code, ("note", "expired") in rules) == (0, True), found
    code, rules, found = audited.verify()
    assert (code, ("note", "expired") in rules) == (0, True), found
    old = "ledgers/audit.test/default/2023h1"
    time.sleep(2.5)
    client = weed.client()
    for version in client.list_object_versions(Bucket=bucket, Prefix=f"{old}/tile/entries/")["Versions"]:
        client.delete_object(Bucket=bucket, Key=version["Key"], VersionId=version["VersionId"])
    code, rules, found = audited.verify()
    assert (code, ("note", "expired") in rules) == (0, True), found
    httpx.delete(f"{weed.filer}/buckets/{bucket}/{old}/expired.versions?recursive=true", trust_env=False)
    code, rules, found = audited.verify()
    assert (code, ("tampering", "ledger") in rules) == (1, True), found


def test_boto3_is_imported_for_a_bucket_only(tmp_path, audited):
    program = (
        "import sys; sys.modules['boto3'] = None; from audit_middleware.cli import main;"
        "sys.argv = ['audit-ready', 'verify', sys.argv[1]]; main()"
    )
    audited.keep()

    def run(target):
        environ = os.environ | {"AUDIT_LOG_KEYS": audited.vkeys(), "HOME": str(tmp_path)}
        return subprocess.run([sys.executable, "-c", program, target], env=environ, capture_output=True, text=True)

    folder = run(str(tmp_path / "data"))
    assert (folder.returncode, "verify that place" in folder.stderr) == (2, True)
    bucket = run("s3://bucket/ledgers")
    assert (bucket.returncode, "pip install 'audit-ready[s3]'" in bucket.stderr) == (2, True)
