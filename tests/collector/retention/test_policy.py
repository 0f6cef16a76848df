"""How long which services' records are kept."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_middleware.collector.retention.policy import (
    OWN_CLASS,
    Keep,
    Policy,
    RetentionSetting,
    end_of,
    following,
    period_of,
)
from audit_middleware.collector.settings import read_settings
from audit_middleware.errors import ConfigurationError


def setting(keep="7y", class_="money", services=("billing",), **more):
    return RetentionSetting(keep=keep, class_=class_, services=list(services), **more)


def test_without_settings_everything_is_kept_for_ever():
    policy = Policy()
    assert policy.class_of("orders") == policy.own_class == "default"
    assert policy.expires("default", "1999h1") is None


def test_a_service_belongs_to_its_class_and_all_others_to_the_default():
    policy = Policy([setting(), setting("2y", "default", [])])
    assert (policy.class_of("billing"), policy.class_of("orders")) == ("money", "default")
    assert policy.own_class == OWN_CLASS
    assert policy.expires("money", "2020h1") == datetime(2027, 7, 1, tzinfo=UTC)
    assert policy.expires("default", "2020h2") == datetime(2023, 1, 1, tzinfo=UTC)
    assert policy.expires(OWN_CLASS, "2020h2") is None
    assert policy.longest(["default", "money"]) == "money"


@given(st.datetimes(datetime(1970, 1, 2), datetime(2999, 1, 1), timezones=st.just(UTC)))
def test_a_moment_lies_before_the_end_of_its_half_year_and_the_next_one_begins_there(moment):
    period = period_of(moment.timestamp())
    assert moment < end_of(period)
    assert period_of(end_of(period).timestamp()) == following(period) > period
    assert period_of((end_of(period) - timedelta(seconds=1)).timestamp()) == period


@given(st.integers(1, 99_999), st.sampled_from("dy"), st.sampled_from(["2020h1", "2024h2", "1999h1"]))
def test_nothing_expires_before_its_time(number, unit, period):
    keep = Keep.parse(f"{number}{unit}")
    assert str(keep) == f"{number}{unit}"
    expires = keep.after(end_of(period))
    if expires is not None:
        assert expires - end_of(period) >= timedelta(days=number * (365 if unit == "y" else 1))


@pytest.mark.parametrize("keep", ["", "7", "7w", "0d", "-1y", "7 y", "1.5y", "y", "100000d", "always", "７y"])
def test_a_time_to_keep_that_is_none_is_refused(keep):
    with pytest.raises(ConfigurationError, match="expected a number of days or years"):
        Policy([setting(keep)])


@pytest.mark.parametrize(
    ("keep", "profile", "is_enough"),
    [
        ("1y", "pci", True), ("366d", "pci", True), ("365d", "pci", False), ("89d", "pci", False),
        ("6y", "hipaa", True), ("5y", "hipaa", False), ("2191d", "hipaa", False), ("forever", "hipaa", True),
    ],
)  # fmt: skip
def test_a_profile_refuses_less_than_its_law_asks_for(keep, profile, is_enough):
    if is_enough:
        Policy([setting(keep, profile=profile)])
        return
    with pytest.raises(ConfigurationError, match=f"less than the .y that profile '{profile}' asks for"):
        Policy([setting(keep, profile=profile)])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ([setting(), setting()], "is there twice"),
        ([setting(), setting(class_="other")], "belongs to class 'money' already"),
        ([setting(class_="Money!")], "a class is named with"),
        ([setting(class_=OWN_CLASS)], "the collector's own"),
        ([setting(services=[""])], "has no name"),
    ],
)
def test_contradictions_are_refused_with_the_table_they_stand_in(settings, says):
    with pytest.raises(ConfigurationError, match=r"retention\[\d\] \(class .*" + says):
        Policy(settings)


def test_a_policy_file_with_an_error_is_refused_with_its_place(tmp_path):
    file = tmp_path / "collector.toml"
    file.write_text('[[retention]]\nservices = ["billing"]\nkeep = 7\n')
    with pytest.raises(ConfigurationError, match=r"collector.toml, line 1: retention\[0\].keep"):
        read_settings(file, {"HOME": str(tmp_path)})
    file.write_text('[[retention]]\nkeep = "1y"\n[[retention]]\nclass = "a"\nkeep = "1y"\nprofile = "hipaa"\n')
    with pytest.raises(ConfigurationError, match=r"toml, line 3: .* profile 'hipaa' asks for"):
        read_settings(file, {"HOME": str(tmp_path)})
