"""A real collector with sinks on loopback: told once, after outages and restarts too, and held up by none of them."""

import json
import re
import time
from pathlib import Path

import pytest

from audit_middleware.collector.alerts.settings import convert
from audit_middleware.collector.collector import Collector
from audit_middleware.collector.settings import read_settings
from audit_middleware.errors import ConfigurationError
from tests.collector.kit import App, settings_for

ROOT = Path(__file__).parents[3]
SECRET = "a-secret-0123456789abcdef"


@pytest.fixture(autouse=True)
def _secret(monkeypatch):
    monkeypatch.setenv("HOOK_SECRET", SECRET)


def hook(url, **changes):
    return {
        "kind": "webhook",
        "name": "hook",
        "url": url,
        "secret_env": "HOOK_SECRET",
        "interval_seconds": 0.1,
        "timeout_seconds": 0.5,
    } | changes


def open_collector(folder, *tables):
    return Collector(settings_for(folder, alerts=convert(tables))).open()


def gap(collector):
    app = App()
    app.requests(2)
    collector.deliver([app.lines[0], app.lines[2]])
    return app


def told(receiver):
    return [(each["change"], each["finding"]["about"]) for r in receiver.taken for each in r.json["news"]]


def test_a_finding_is_told_once_and_its_end_after_a_restart(receiver, tmp_path):
    with open_collector(tmp_path, hook(receiver.url)) as collector:
        app = gap(collector)
        receiver.wait(lambda receiver: told(receiver) == [("opened", app.stream)])
        until = time.monotonic() + 5
        while not (tmp_path / "data/alerts/hook.json").exists():
            assert time.monotonic() < until
    with open_collector(tmp_path, hook(receiver.url)) as collector:
        collector.deliver([app.lines[1]])
        receiver.wait(lambda receiver: ("resolved", app.stream) in told(receiver))
    assert told(receiver) == [("opened", app.stream), ("resolved", app.stream)]


def test_a_sink_that_fails_hears_of_it_later_is_visible_and_holds_up_nobody(receiver, tmp_path):
    receiver.faults += ["slow", "lost"]
    other = hook("http://127.0.0.1:9", name="dead")
    with open_collector(tmp_path, hook(receiver.url), other) as collector:
        app = gap(collector)
        began = time.monotonic()
        collector.deliver(App().lines)
        assert time.monotonic() - began < 0.5
        receiver.wait(lambda receiver: receiver.attempts >= 3)
        assert set(told(receiver)) == {("opened", app.stream)}
        status = {each.name: each for each in collector.monitoring.alerts.statuses()}
        assert status["dead"].is_failing
        assert "ConnectError" in status["dead"].last_error
        text = collector.exposition().decode()
        assert re.search(r'audit_alert_failures\{kind="webhook",sink="dead"\} [1-9]', text)
        assert re.search(r'audit_alert_messages_total\{result="failed",sink="hook"\} 2', text)


def test_the_heart_beats_while_the_collector_works_and_not_when_it_does_not(receiver, tmp_path):
    beat = {"kind": "heartbeat", "name": "switch", "url": f"{receiver.url}/beat", "every_seconds": 1.0}
    with open_collector(tmp_path, beat) as collector:
        receiver.wait(lambda receiver: len(receiver.taken) >= 2)
        collector.monitoring.is_listening = lambda: False
        time.sleep(0.3)
        count = len(receiver.taken)
        time.sleep(1.5)
        assert len(receiver.taken) == count


def test_a_wrong_table_is_refused_with_its_line(tmp_path):
    file = tmp_path / "collector.toml"
    file.write_text('data = "x"\n\n[[alerts]]\nkind = "slack"\nname = "a"\nurl_env = "NOWHERE"\n')
    with pytest.raises(ConfigurationError, match=r"collector.toml, line 3: alerts\[0\] \('a'\): url: nothing usable"):
        read_settings(file, {})


def test_every_metric_of_rules_and_dashboard_is_one_of_the_collector(tmp_path):
    with Collector(settings_for(tmp_path)) as collector:
        text = collector.exposition().decode()
    there = set(re.findall(r"^# TYPE (\w+)", text, re.MULTILINE))
    there |= {f"{name}_bucket" for name in there}
    rules = re.findall(r"expr: (.*)", (ROOT / "integrations/prometheus/audit-ready.rules.yml").read_text())
    board = json.loads((ROOT / "integrations/grafana/audit-ready.json").read_text())
    board = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    used = set(re.findall(r"\baudit_[a-z_]+", "\n".join([*rules, *board])))
    assert len(used) > 15
    assert used - there == set()
