"""The table ``[store]``: what it takes, and what it says of what it does not take."""

import re
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_middleware.collector.settings import read_settings
from audit_middleware.collector.storage.settings import FilesSettings, S3Settings, parse_duration
from audit_middleware.errors import ConfigurationError

S3 = 'kind = "s3"\nbucket = "audit"\nretain = "400d"\n'


def read(tmp_path, table):
    file = tmp_path / "collector.toml"
    file.write_text(f"[store]\n{table}")
    return read_settings(file, {"HOME": str(tmp_path)}).store


def test_without_a_table_tiles_lie_in_files(tmp_path):
    assert read_settings(None, {"HOME": str(tmp_path)}).store == FilesSettings()
    assert read(tmp_path, 'kind = "files"\nimmutable = true') == FilesSettings(immutable=True)


def test_a_bucket_is_worm_in_compliance_mode_unless_it_is_said_otherwise(tmp_path):
    found = read(tmp_path, S3)
    assert found == S3Settings(bucket="audit", retain="400d")
    assert (found.worm, found.mode) == (True, "COMPLIANCE")
    assert (found.retention, found.partial_retention) == (timedelta(days=400), timedelta(days=2))
    assert read(tmp_path, S3 + 'mode = "GOVERNANCE"').mode == "GOVERNANCE"
    loose = read(tmp_path, 'kind = "s3"\nbucket = "audit"\nworm = false')
    assert (loose.retention, loose.partial_retention) == (None, None)


def test_a_partial_tile_is_never_locked_for_longer_than_a_whole_one(tmp_path):
    assert read(tmp_path, 'kind = "s3"\nbucket = "audit"\nretain = "12h"').partial_retention == timedelta(hours=12)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ('kind = "tape"', "tape"),
        ("immutable = true", "kind"),
        ('kind = "files"\nbucket = "audit"', "bucket: not a setting"),
        ('kind = "s3"', "bucket"),
        ('kind = "s3"\nbucket = "audit"', "a WORM bucket needs `retain`"),
        (S3 + "worm = false", "without retention say `worm = false`"),
        (S3 + 'mode = "FOREVER"', "FOREVER"),
        (S3.replace("400d", "400"), "'400' is no length of time"),
        (S3.replace("400d", "101y"), "longer than Object Lock takes"),
        (S3 + 'retain_partial = "5m"', "retain_partial must be 1h or more"),
        (S3 + 'endpoint = "s3.example.com"', "endpoint must be an http\\(s\\) URL"),
        (S3 + 'endpoint = "https://key:secret@s3.example.com"', "must hold no credentials"),
        (S3 + 'prefix = "../up"', "prefix: '../up' is not a key"),
        (S3 + 'secret_key = "x"', "secret_key: not a setting"),
        (S3 + "parallel = 0", "parallel"),
        (S3 + "attempts = 1000", "attempts"),
    ],
)
def test_a_table_with_an_error_is_refused_with_its_file_and_what_is_wrong(tmp_path, table, said):
    with pytest.raises(ConfigurationError, match=said) as refused:
        read(tmp_path, table)
    assert str(refused.value).startswith(f"{tmp_path}/collector.toml, line 1: store")
    assert ":secret@" not in str(refused.value)


@given(st.integers(1, 999_999), st.sampled_from("smhdwy"))
def test_a_length_of_time_is_a_number_and_a_unit(number, unit):
    seconds = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800, "y": 366 * 86_400}[unit]
    assert parse_duration(f"{number}{unit}") == timedelta(seconds=number * seconds)


@given(st.text().filter(lambda text: not re.fullmatch("[1-9][0-9]{0,5}[smhdwy]", text)))
def test_anything_else_is_none(text):
    with pytest.raises(ValueError, match="no length of time"):
        parse_duration(text)
