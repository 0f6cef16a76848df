"""Lag, skew, spools, volume, and services that are expected: what is judged by a bound."""

import pytest


def test_records_that_come_late_are_a_lag_and_end_with_the_first_that_does_not(stand):
    app = stand.app()
    stand.pass_seconds(120, beating=[app])
    late = [app.request() for _ in range(2)]
    stand.pass_seconds(90)
    stand.deliver(*late)
    stand.pass_seconds(1)
    assert 85 <= stand.one("lag").evidence["seconds"] <= 95
    app.work()
    stand.pass_seconds(1)
    stand.one("lag", "resolved")


def test_a_clock_that_is_ahead_is_found_with_the_first_line(stand):
    app = stand.app(skew=3600, instance="h9")
    stand.pass_seconds(1)
    skew = stand.one("skew")
    assert (skew.service, skew.evidence["instance"], skew.evidence["ahead_seconds"]) == ("orders", "h9", 3600)
    app.skew = 0
    app.beat()
    stand.pass_seconds(1)
    stand.one("skew", "resolved")


def test_a_clock_that_is_behind_is_told_from_lag_by_its_constancy(stand):
    stand.pass_seconds(600)
    app = stand.app(skew=-300)
    stand.pass_seconds(60, beating=[app])
    assert stand.one("skew").evidence["ahead_seconds"] == -300
    assert stand.kinds() == ["skew"]


def test_small_differences_of_clocks_are_nothing(stand):
    apps = [stand.app(skew=skew, instance=str(skew)) for skew in (-4, -1, 1, 4)]
    stand.pass_seconds(120, beating=apps)
    assert stand.findings() == []


def test_a_spool_near_its_bound_is_found_from_beats_and_ends_when_it_is_delivered(stand_of):
    stand = stand_of(spool_bytes=1000)
    app = stand.app(instance="h1")
    app.beat(spool_bytes=999)
    stand.pass_seconds(1)
    assert stand.findings() == []
    app.beat(spool_bytes=1000)
    stand.pass_seconds(1)
    assert stand.one("spool").evidence == {"bytes": 1000, "objective": 1000, "instance": "h1"}
    app.beat(spool_bytes=10)
    stand.pass_seconds(1)
    stand.one("spool", "resolved")


def test_an_expected_service_that_never_came_is_missing_until_it_does(stand_of):
    stand = stand_of(expected_services=["orders", "billing"])
    app = stand.app()
    stand.pass_seconds(44, beating=[app])
    assert stand.findings() == []
    stand.pass_seconds(2, beating=[app])
    assert (stand.one("missing_service").service, stand.one("missing_service").severity) == ("billing", "critical")
    stand.app(service="billing")
    stand.pass_seconds(1)
    stand.one("missing_service", "resolved")


def test_an_expected_service_that_ended_in_peace_is_missing_too(stand_of):
    stand = stand_of(expected_services=["orders"])
    app = stand.app()
    stand.pass_seconds(60, beating=[app])
    app.beat("close")
    stand.pass_seconds(1)
    assert stand.one("missing_service").evidence["ended"] == "every stream was closed"
    stand.restart()
    stand.pass_seconds(60)
    stand.one("missing_service")


def past_of(stand, counts, service="orders"):
    """Fill the hours of the past: what a service recorded at this hour of each of the last days."""
    hearing, hour = stand.watch.hearing, int(stand.now.wall) // 3600 - 1
    for day, count in enumerate(counts):
        hearing.hours[hour - day * 24] = 3600.0
        hearing.services[service].hours[hour - day * 24] = count
    stand.pass_seconds(1)


@pytest.mark.parametrize(
    ("today", "past", "is_found"),
    [
        (150, [1000] * 8, True),
        (0, [1000, 10, *[1000] * 6], True),  # one bad day in the past does not count
        (250, [1000] * 8, False),
        (150, [1000] * 5, False),  # too few days to tell
        (2, [10] * 8, False),  # too few records to tell
        (300, [1000, 1000, 400, 350, 1000, 1000, 1000], False),  # a weekend is in it
    ],
)
def test_volume_is_compared_with_the_same_hour_of_many_days(stand, today, past, is_found):
    stand.app()
    past_of(stand, [today, *past])
    assert bool(stand.findings("volume")) == is_found
    if is_found:
        assert stand.one("volume").evidence["records"] == today
        past_of(stand, [1000, *past])
        stand.one("volume", "resolved")


def test_an_hour_in_which_the_collector_was_down_says_nothing_of_volume(stand):
    stand.app()
    past_of(stand, [1000, *[1000] * 8])
    stand.watch.hearing.hours[int(stand.now.wall) // 3600 - 1] = 1800.0
    stand.watch.hearing.services["orders"].hours[int(stand.now.wall) // 3600 - 1] = 10
    stand.pass_seconds(1)
    assert stand.findings("volume") == []


def test_application_records_are_counted_and_beats_are_not(stand):
    app = stand.app()
    app.work(7)
    app.beat()
    assert sum(stand.watch.hearing.services["orders"].hours.values()) == 7
