"""An organisation's own rules: what breaks them is on record all the same, with the rule among its defects."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_middleware import AuditRecord, ConfigurationError, Principal, Resource, audited, current_audit
from audit_middleware.config import check, load
from audit_middleware.record import Http, Source, Trace
from audit_middleware.record_rules import read_record_rules
from tests.capture.kit import journal_lines, make_pipeline, records

RULES = """
actions = ["orders.*", "auth.sign_in", "GET /health"]
naming = "[a-z_]+([.][a-z_]+)+|GET /health"
[[rules]]
match = "orders.*"
require = ["tenant"]
[[rules]]
match = "orders.refund"
require = ["reason", "tenant", "details.ticket", "trace.trace_id"]
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "audit-rules.toml"
    path.write_text(RULES)
    return path


@pytest.fixture
def rules(file):
    return read_record_rules(file)


def record(action="orders.refund", *, tenant="acme", trace_id="a" * 32, route="/orders", **more):
    principal = Principal("alice", "user", "session", tenant=tenant)
    http = Http("POST", route, "/orders") if route else None
    trace = Trace("r.1", trace_id=trace_id)
    return AuditRecord(
        "orders",
        principal,
        Source("::1", "peer", "::1"),
        action,
        "success",
        Resource("order", "7"),
        trace,
        http,
        **more,
    )


def test_what_a_rule_asks_for_and_a_record_has_not_is_named(rules):
    whole = record(reason="damaged", details={"ticket": "T-1"})
    assert rules.broken_by(whole) == []
    assert rules.noted(whole) is whole
    bare = record(tenant=None, trace_id=None, details={"ticket": ""})
    assert rules.broken_by(bare) == ["rules.tenant", "rules.reason", "rules.details.ticket", "rules.trace.trace_id"]
    assert rules.noted(bare).defects == rules.broken_by(bare)
    assert rules.noted(record("orders.read", tenant="unknown", defects=["source"])).defects == [
        "source",
        "rules.tenant",
    ]


@pytest.mark.parametrize(
    "action", ["billing.pay", "auth.sign_out", "POST /orders", "orders.Refund", "GET /healthy", ""]
)
def test_a_name_that_may_not_be_used_is_named(rules, action):
    assert "rules.action" in rules.broken_by(record(action))


def test_what_nobody_could_name_needs_no_name(rules):
    assert rules.broken_by(record("POST none", route="none")) == []
    assert rules.broken_by(record("audit.exempt")) == []
    assert rules.broken_by(record("GET /health")) == []


@settings(deadline=None)  # it reads a file each time, on a machine that may have other things to do
@given(action=st.text(max_size=40), reason=st.none() | st.text(max_size=5))
def test_no_record_makes_a_rule_raise_and_rules_only_add_defects(tmp_path_factory, action, reason):
    path = tmp_path_factory.getbasetemp() / "rules.toml"
    path.write_text(RULES)
    noted = read_record_rules(path).noted(record(action, reason=reason))
    assert noted.action == action
    assert all(each.startswith("rules.") for each in noted.defects or [])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("actions = 'orders'", "Expected `array"),
        ("[[rules]]\nmatch = 'x'", "missing required field `require`"),
        ("[[rules]]\nmatch = 'x'\nrequire = []", "length >= 1"),
        ("[[rules]]\nmatch = 'x'\nrequire = ['tennant']", "require: 'tennant' is not a member"),
        ("[[rules]]\nmatch = 'x'\nrequire = ['trace.trace']", "require: 'trace.trace' is not a member"),
        ("[[rules]]\nmatch = 'x'\nrequire = ['reason.x']", "require: 'reason.x' is not a member"),
        ("naming = '('", "naming is no regular expression"),
        ("nameing = 'x'", "unknown field `nameing`"),
        ("actions = [", "Invalid value"),
        (b"\xff", "utf-8"),
    ],
)
def test_a_wrong_file_is_refused_with_the_place_and_what_is_expected(tmp_path, text, said):
    path = tmp_path / "wrong.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigurationError, match=r"rules file .*wrong\.toml") as raised:
        read_record_rules(path)
    assert said in str(raised.value)
    with pytest.raises(ConfigurationError, match=r"audit.E015: rules file"):
        check(load({}, rules_file=path, spool_dir=tmp_path))
    with pytest.raises(ConfigurationError, match="No such file"):
        read_record_rules(tmp_path / "nowhere.toml")


def test_a_process_names_broken_rules_among_the_defects_and_its_policy_has_the_digest(tmp_path, file):
    (tmp_path / "without").mkdir()
    make_pipeline(tmp_path / "without")
    audited("orders.refund")(lambda: None)()
    make_pipeline(tmp_path, rules_file=file)

    @audited("orders.refund")
    def refund():
        audit = current_audit()
        audit.principal = Principal("alice", "user", "session", tenant="acme")
        audit.details["ticket"] = "T-1"

    refund()
    (task,) = records(tmp_path, "task")
    assert task["defects"] == ["rules.reason", "rules.trace.trace_id"]
    (attempt,) = records(tmp_path, "attempt")
    assert "defects" not in attempt
    policies = [journal_lines(each)[0]["rec"]["policy"] for each in (tmp_path, tmp_path / "without")]
    assert policies[0] != policies[1]
