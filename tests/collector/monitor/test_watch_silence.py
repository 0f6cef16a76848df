"""Who is silent, who is dead, and what the collector could not hear because it was away itself."""

from audit_middleware.collector.monitor.findings import MONITOR


def test_a_killed_service_is_silent_after_three_beats_and_again_heard_when_it_is_back(stand):
    app = stand.app()
    stand.pass_seconds(60, beating=[app])
    assert stand.findings() == []
    stand.pass_seconds(29)
    assert stand.findings() == []
    stand.pass_seconds(2)
    silence = stand.one("silence")
    assert (silence.about, silence.service, silence.severity) == ("service orders", "orders", "critical")
    assert silence.evidence["streams"] == [app.stream]
    again = stand.app(previous=app.head())
    stand.pass_seconds(2, beating=[again])
    assert stand.one("silence", "resolved").resolved_by == MONITOR
    unclosed = stand.one("unclosed")
    assert (unclosed.stream, unclosed.evidence["successor"]) == (app.stream, again.stream)


def test_a_process_that_is_restarted_at_once_leaves_an_unclosed_stream_and_no_silence(stand):
    app = stand.app()
    stand.pass_seconds(60, beating=[app])
    again = stand.app(previous=app.head())
    stand.pass_seconds(60, beating=[again])
    assert stand.kinds() == ["unclosed"]
    assert stand.findings("silence") == []


def test_a_predecessor_that_lives_is_another_process_of_the_spool(stand):
    first = stand.app()
    second = stand.app(previous=first.head())
    stand.pass_seconds(600, beating=[first, second])
    assert stand.findings() == []


def test_one_worker_of_several_is_a_silent_stream_and_later_unclosed(stand):
    workers = [stand.app(instance="h1") for _ in range(3)]
    stand.pass_seconds(60, beating=workers)
    stand.pass_seconds(40, beating=workers[1:])
    silence = stand.one("silence")
    assert (silence.about, silence.severity) == (f"stream {workers[0].stream}", "warning")
    stand.pass_seconds(300, beating=workers[1:])
    assert stand.kinds() == ["unclosed"]
    stand.one("silence", "resolved")


def test_all_processes_of_one_instance_are_one_finding(stand):
    lost = [stand.app(instance="h1") for _ in range(3)]
    others = [stand.app(instance="h2") for _ in range(2)]
    stand.pass_seconds(60, beating=lost + others)
    stand.pass_seconds(45, beating=others)
    silence = stand.one("silence")
    assert (silence.about, silence.evidence["scope"]) == ("instance orders h1", "instance")
    assert sorted(silence.evidence["streams"]) == sorted(each.stream for each in lost)


def test_a_service_that_is_down_stays_so_until_it_is_heard(stand):
    app = stand.app()
    stand.pass_seconds(60, beating=[app])
    stand.pass_seconds(4000)
    assert stand.kinds() == ["silence", "unclosed"]
    stand.app()
    stand.pass_seconds(1)
    assert stand.kinds() == ["unclosed"]


def test_a_clean_shutdown_is_no_finding(stand):
    app = stand.app()
    app.work(3)
    app.beat("close")
    stand.pass_seconds(4000)
    assert stand.findings() == []


def test_a_process_that_was_only_stopped_is_no_longer_unclosed_when_it_goes_on(stand):
    app = stand.app()
    stand.pass_seconds(60, beating=[app])
    stand.pass_seconds(400)
    assert "unclosed" in stand.kinds()
    stand.pass_seconds(20, beating=[app])
    assert stand.kinds() == []


def test_late_lines_of_a_dead_process_do_not_make_it_live(stand):
    app = stand.app()
    late = [app.request() for _ in range(3)]
    stand.pass_seconds(400)
    stand.one("unclosed")
    stand.deliver(*late)
    stand.pass_seconds(400)
    assert (stand.one("unclosed").occurrence, stand.one("unclosed").evidence["reached"]) == (1, 0)


def test_a_late_line_of_a_closed_stream_that_was_forgotten_is_no_silence(stand):
    app = stand.app()
    early, late = app.request(), app.request()
    close = app.beat("close", deliver=False)
    stand.deliver(early, close)
    stand.pass_seconds(8000, step=4)
    assert app.stream not in stand.watch.hearing.streams
    stand.deliver(late)
    stand.pass_seconds(4000, step=4)
    assert stand.kinds() == []
    stand.one("gap", "resolved")


def test_a_service_shipped_by_cron_may_be_silent_for_longer(stand_of):
    stand = stand_of(silence_by_service={"nightly": 7200})
    stand.app(service="nightly")
    stand.pass_seconds(7100, step=4)
    assert stand.findings() == []
    stand.pass_seconds(120)
    assert stand.one("silence").service == "nightly"


# ------------------------------------------------------------------ when this collector was away


def test_what_was_not_heard_because_the_collector_was_down_is_not_called_silent(stand):
    app = stand.app()
    stand.pass_seconds(60, beating=[app])
    stand.restart(down=60)
    backlog = [app.beat(deliver=False) for _ in range(6)]
    stand.pass_seconds(40)  # a shipper waits up to 30 s between two attempts
    assert stand.findings() == []
    stand.deliver(*backlog)
    stand.pass_seconds(60, beating=[app])
    assert stand.findings() == []


def test_who_died_while_the_collector_was_down_is_found_once_it_has_listened_for_a_while(stand):
    dead, alive = stand.app(service="dead"), stand.app()
    stand.pass_seconds(60, beating=[dead, alive])
    stand.restart(down=3600)
    alive.beat()
    stand.pass_seconds(44, beating=[alive])
    assert stand.findings() == []
    stand.pass_seconds(3, beating=[alive])
    assert stand.one("silence").about == "service dead"


def test_a_collector_that_slept_blames_nobody(stand):
    app = stand.app()
    stand.pass_seconds(60, beating=[app])
    stand.jump(3600)
    stand.pass_seconds(40)
    app.beat()
    stand.pass_seconds(60, beating=[app])
    assert stand.findings() == []


def test_setting_the_wall_clock_makes_nobody_silent(stand):
    app = stand.app()
    stand.pass_seconds(60, beating=[app])
    for step in (7200, -7200):
        stand.set_clock(step)
        stand.pass_seconds(25, beating=[app])
        assert stand.findings("silence") == []


def test_a_step_of_the_collectors_own_clock_is_shown_for_a_minute_and_is_on_record(stand):
    stand.pass_seconds(30)
    stand.set_clock(4)
    stand.pass_seconds(1)
    assert stand.findings() == []
    stand.set_clock(-86_400)
    stand.pass_seconds(5)
    found = stand.one("skew")
    assert (found.about, found.evidence) == ("audit-collector", {"stepped_seconds": -86_400})
    stand.pass_seconds(60)
    assert stand.one("skew", "resolved").resolved_by == MONITOR
    stand.set_clock(3600)
    stand.pass_seconds(1)
    assert (stand.one("skew").occurrence, stand.one("skew").evidence["stepped_seconds"]) == (2, 3600)


def test_a_backlog_after_an_outage_is_no_lag_but_one_that_does_not_shrink_is(stand):
    app = stand.app()
    stand.pass_seconds(60, beating=[app])
    backlog = [app.beat(deliver=False) for _ in range(30)]
    stand.restart(down=600)
    for line in backlog[:10]:
        stand.deliver(line)
        stand.pass_seconds(5)
    assert stand.findings("lag") == []
    for line in backlog[10:20]:
        stand.deliver(line)
        stand.pass_seconds(5)
    lag = stand.one("lag")
    assert (lag.service, lag.evidence["stream"]) == ("orders", app.stream)
    stand.deliver(*backlog[20:])
    app.beat()
    stand.pass_seconds(1)
    assert stand.one("lag", "resolved").resolved_by == MONITOR
