"""The lifecycle rules of a bucket: what S3 may remove is what policy lets go, and nothing else."""

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_middleware.collector.retention.policy import Policy, RetentionSetting
from audit_middleware.collector.storage.lifecycle import lifecycle_rules
from audit_middleware.collector.storage.settings import S3Settings

TOML = """name = "audit.example.com"

[store]
kind = "s3"
bucket = "audit"
prefix = "ledgers"
retain = "400d"

[[retention]]
keep = "2y"

[[retention]]
class = "cards"
services = ["payments"]
keep = "1100d"
profile = "pci"

[[retention]]
class = "deeds"
services = ["notary"]
keep = "forever"
"""


def run(*files):
    command = [sys.executable, "-m", "audit_middleware", "retention", "lifecycle"]
    command += [part for file in files for part in ("--config", str(file))]
    return subprocess.run(command, capture_output=True, text=True, timeout=30)


def write(folder, text=TOML, name="collector.toml"):
    (folder / name).write_text(text)
    return folder / name


def test_each_class_that_ends_has_a_rule_of_its_own_and_no_other_class_has_one(tmp_path):
    done = run(write(tmp_path))
    assert done.returncode == 0, done.stderr
    rules = {rule["ID"]: rule for rule in json.loads(done.stdout)["Rules"]}
    assert list(rules) == [
        "audit-ready leftovers ledgers/",
        "audit-ready passing ledgers/",
        "audit-ready expired ledgers/audit.example.com/cards/",
        "audit-ready expired ledgers/audit.example.com/default/",
    ]
    assert rules["audit-ready expired ledgers/audit.example.com/cards/"] == {
        "ID": "audit-ready expired ledgers/audit.example.com/cards/",
        "Status": "Enabled",
        "Filter": {
            "And": {
                "Prefix": "ledgers/audit.example.com/cards/",
                "Tags": [{"Key": "audit-ready", "Value": "expired"}],
            }
        },
        "Expiration": {"Days": 1100},
        "NoncurrentVersionExpiration": {"NoncurrentDays": 1},
    }
    assert rules["audit-ready expired ledgers/audit.example.com/default/"]["Expiration"] == {"Days": 732}
    assert rules["audit-ready passing ledgers/"]["Expiration"] == {"Days": 3}
    assert rules["audit-ready leftovers ledgers/"]["Expiration"] == {"ExpiredObjectDeleteMarker": True}


KEEPS = st.one_of(st.just("forever"), st.integers(1, 9999).map("{}d".format), st.integers(1, 99).map("{}y".format))


@given(st.dictionaries(st.from_regex(r"[a-z0-9][a-z0-9-]{0,8}", fullmatch=True), KEEPS, max_size=6), st.booleans())
def test_no_rule_takes_a_current_object_without_a_tag_or_before_its_time(keeps, is_worm):
    keeps.pop("collector", None)
    policy = Policy([RetentionSetting(keep=keep, class_=class_) for class_, keep in keeps.items()])
    store = S3Settings(bucket="b", worm=is_worm, retain="9d" if is_worm else None)
    rules = lifecycle_rules(store, policy, "a")
    assert len({rule["ID"] for rule in rules}) == len(rules)
    for rule in rules:
        if "Days" not in rule["Expiration"]:
            assert "NoncurrentVersionExpiration" not in rule
            continue
        named = rule["Filter"].get("And", rule["Filter"])
        (tag,) = named.get("Tags") or [named["Tag"]]
        if tag["Value"] == "expired":
            _, class_, end = named["Prefix"].split("/")
            keep = policy.keep(class_)
            assert (end, class_ == "collector", keep.number is None) == ("", False, False)
            assert rule["Expiration"]["Days"] >= keep.days - 1 / 4
        else:
            assert (tag["Value"], rule["Expiration"]["Days"]) == ("passing", 3)
    ending = [class_ for class_ in policy.classes if policy.keep(class_).number is not None]
    assert len(rules) == (2 + len(ending) if is_worm else 1)


def test_collectors_that_share_a_bucket_get_one_configuration(tmp_path):
    other = write(tmp_path, TOML.replace("audit.example.com", "two.example.com"), "two.toml")
    rules = json.loads(run(write(tmp_path), other).stdout)["Rules"]
    assert [rule["ID"].split()[1] for rule in rules] == ["leftovers", "passing", *["expired"] * 4]
    elsewhere = write(tmp_path, TOML.replace('bucket = "audit"', 'bucket = "b"'), "three.toml")
    assert run(tmp_path / "collector.toml", elsewhere).returncode == 2
    slower = write(tmp_path, TOML.replace('retain = "400d"', 'retain = "400d"\nretain_partial = "9d"'), "four.toml")
    refused = run(tmp_path / "collector.toml", slower)
    assert (refused.returncode, "differs from that of another --config" in refused.stderr) == (2, True)


@pytest.mark.parametrize(
    ("was", "becomes", "said"),
    [
        ('keep = "1100d"', 'keep = "300d"', "collector.toml, line 12: retention[1] (class 'cards'): keep 300d is less"),
        ('keep = "2y"', "keep = 2", "collector.toml, line 9: retention[0].keep: Expected `str`"),
        ('retain = "400d"', "", "collector.toml, line 3: store: a WORM bucket needs `retain`, such as"),
        ('kind = "s3"', 'kind = "ftp"', "collector.toml, line 3: store.kind: Invalid value 'ftp'"),
        (TOML.split("[[", maxsplit=1)[0].split("\n", 1)[1], "", 'set [store] kind = "s3"'),
        ('name = "audit.example.com"', "", "set name, which is part of the prefix"),
    ],
)
def test_a_file_with_an_error_is_refused_with_its_line_and_a_hint(tmp_path, was, becomes, said):
    done = run(write(tmp_path, TOML.replace(was, becomes)))
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr


def test_the_command_needs_neither_keys_nor_the_secrets_of_alerts_nor_boto3(tmp_path):
    text = TOML + '\n[[alerts]]\nkind = "webhook"\nname = "w"\nurl = "https://a.example"\nsecret_env = "NOT_THERE"\n'
    program = (
        "import sys; sys.modules['boto3'] = None; from audit_middleware.cli import main;"
        f"sys.argv = ['audit-ready', 'retention', 'lifecycle', '--config', {str(write(tmp_path, text))!r}]; main()"
    )
    environ = {"HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "state")}
    done = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "state").exists()
