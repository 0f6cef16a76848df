"""The organisation's own rules at the collector: a finding for each service and action, whatever the application did."""

import pytest

from audit_middleware.collector.monitor.settings import MonitorSettings
from audit_middleware.collector.settings import read_settings
from audit_middleware.errors import ConfigurationError
from tests.collector.kit import rec_of

RULES = """
actions = ["orders.*"]
[[rules]]
match = "orders.refund"
require = ["tenant", "reason"]
"""


@pytest.fixture
def rules_file(tmp_path):
    path = tmp_path / "audit-rules.toml"
    path.write_text(RULES)
    return str(path)


def refund(app, **more):
    return app.say("event", rec_of("orders") | {"action": "orders.refund"} | more)


def test_records_that_break_the_rules_are_one_finding_whose_evidence_grows(stand_of, rules_file):
    stand = stand_of(rules_file=rules_file)
    app = stand.app()
    stand.deliver(refund(app, reason="damaged"), refund(app))
    found = stand.one("rules")
    assert (found.service, found.about, found.severity) == ("orders", "orders orders.refund", "warning")
    assert found.evidence["lacks"] == {"tenant": 2, "reason": 1}
    stand.deliver(refund(app))
    again = stand.one("rules")
    assert (again.evidence["lacks"], again.occurrence) == ({"tenant": 3, "reason": 2}, 1)
    assert (again.evidence["stream"], again.evidence["seq"]) == (app.stream, len(app.lines) - 1)


def test_a_name_that_may_not_be_used_is_a_finding_of_its_own(stand_of, rules_file):
    stand = stand_of(rules_file=rules_file)
    app = stand.app()
    stand.deliver(app.say("event", rec_of("orders") | {"action": "billing.pay"}))
    assert stand.one("rules").evidence["lacks"] == {"action": 1}


def test_without_rules_and_within_them_nothing_is_found(stand_of, rules_file):
    app = (stand := stand_of()).app()
    stand.deliver(refund(app))
    assert stand.findings("rules") == []
    app = (stand := stand_of(rules_file=rules_file)).app()
    principal = {"id": "alice", "type": "user", "auth": "session", "tenant": "acme"}
    stand.deliver(refund(app, reason="damaged", principal=principal))
    assert stand.findings("rules") == []


def test_a_wrong_rules_file_is_refused_at_the_start_with_its_place(tmp_path, rules_file):
    MonitorSettings(rules_file=rules_file)
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("actions = 3")
    config = tmp_path / "c.toml"
    config.write_text(f'[monitor]\nrules_file = "{wrong}"\n')
    with pytest.raises(ConfigurationError, match=r"monitor.*wrong\.toml: Expected `array"):
        read_settings(config, {"HOME": str(tmp_path)})
