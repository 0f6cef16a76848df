"""Logs that have expired go whole, by a plan, on record; what remains still verifies, and nothing else goes."""

import json
import time
from datetime import UTC, datetime

import pytest

from audit_middleware.cli.ledgers import Trust, folder_target
from audit_middleware.collector.catchup import rebuild_index
from audit_middleware.collector.collector import Collector
from audit_middleware.collector.ledger import Ledger
from audit_middleware.collector.monitor.patrol import Damage, Unit
from audit_middleware.collector.monitor.patroller import Patroller
from audit_middleware.collector.query import parse_query
from audit_middleware.collector.retention import keeper
from audit_middleware.collector.retention.ledger_book import LedgerBook
from audit_middleware.collector.retention.policy import RetentionSetting
from audit_middleware.collector_record import Held
from audit_middleware.errors import AuditError, BadLedger, ConfigurationError
from audit_middleware.sealing.seal import leaf_hash, parse_frame
from audit_middleware.sealing.stream import StreamFollower
from audit_middleware.sealing.text import b64url
from audit_middleware.verify import verify_logs
from audit_middleware.verify.rollback import KeptCheckpoint
from tests.collector.kit import KEYRING, OPEN, App, own_lines, settings_for

RULES = [
    RetentionSetting(keep="2y"),
    RetentionSetting(keep="forever", class_="money", services=["billing"]),
    RetentionSetting(keep="3y", class_="web", services=["shop"]),
]


def at(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


class Years:
    """A collector whose clock the test sets; deliveries go where the clock says."""

    def __init__(self, folder, **settings):
        self.settings = settings_for(folder, retention=RULES, **settings)
        self.collector = None

    def __enter__(self):
        self.open()
        return self

    def __exit__(self, *_):
        self.collector.close()

    def open(self):
        self.collector = Collector(self.settings).open()

    def again(self):
        self.collector.close()
        self.open()

    @property
    def retention(self):
        return self.collector.retention

    @property
    def data(self):
        return self.settings.data

    def deliver(self, lines, day):
        desk = self.collector._open.desk
        desk.clock = lambda: at(day)
        answer = self.collector.deliver(lines)
        desk.clock = time.time
        assert answer.quarantined == []
        return answer

    def apply(self):
        plan = self.retention.plan()
        return [f"{item.class_}/{item.period}" for item in self.retention.apply(plan.id, "ann")]

    def verify(self):
        target = folder_target(self.data, Trust((), ()), [])
        return verify_logs(target.logs, KEYRING, scope=target.scope)

    def rules(self):
        return {finding.rule for finding in self.verify().findings if finding.severity.value != "note"}


@pytest.fixture
def years(tmp_path):
    with Years(tmp_path) as years:
        yield years


def hold(case="c-1", **scope):
    return Held("audit-collector", case, "placed", "litigation", "ann", **scope)


def test_lines_go_to_the_log_of_their_services_class(years):
    apps = [App(service=service) for service in ("orders", "billing", "shop")]
    answer = years.deliver([line for app in apps for line in app.lines], "2024-03-01")
    assert [log.origin for log in answer.logs] == [
        "audit.test/default/2024h1", "audit.test/money/2024h1", "audit.test/web/2024h1",
    ]  # fmt: skip
    assert [(log.first, log.last) for log in answer.logs] == [(0, 0), (0, 0), (0, 0)]
    assert years.rules() == set()


def test_a_plan_shows_exactly_what_goes_and_why_the_rest_stays(years):
    for service in ("orders", "billing", "shop"):
        years.deliver(App(service=service).lines, "2023-03-01")
    years.deliver(App().lines, "2026-03-01")
    years.retention.clock = lambda: at("2026-03-01")
    verdicts = {f"{item.class_}/{item.period}": (item.verdict, item.why) for item in years.retention.plan().items}
    assert verdicts["default/2023h1"] == ("delete", "expired on 2025-07-01")
    assert verdicts["money/2023h1"] == ("keep", "is kept for ever")
    assert verdicts["web/2023h1"] == ("keep", "expires on 2026-07-01")
    assert verdicts["default/2026h1"] == ("keep", "still takes records") or "expires" in verdicts["default/2026h1"][1]
    assert next(why for name, (_, why) in verdicts.items() if name.startswith("collector/")).startswith("says what")


def test_what_remains_still_verifies_and_is_called_expired(years):
    app = App()
    app.requests(700)
    years.deliver(app.lines[:600], "2023-05-01")
    years.deliver(app.lines[600:], "2026-05-01")
    assert years.apply() == ["default/2023h1"]
    folder = years.data / "log/default/2023h1"
    assert not (folder / "tile/entries").exists() or not any((folder / "tile/entries").rglob("*[0-9]"))
    assert {path.name for path in folder.iterdir()} >= {"checkpoint", "expired", "checkpoints", "tile"}
    report = years.verify()
    assert report.exit_code == 0, report.findings
    (note,) = [finding for finding in report.findings if finding.rule == "expired"]
    assert "keep 2y" in note.message
    assert "deleted by ann" in note.message
    (record,) = own_lines(years.collector, "retention")
    assert record["rec"]["origin"] == "audit.test/default/2023h1"
    assert record["rec"]["size"] > 600


def test_the_record_of_an_expiry_is_under_an_archived_checkpoint_before_the_entries_go(years, monkeypatch):
    archived = []

    def remove(_log):
        (log,) = [log for log in years.collector.logs if log.class_ == "collector"]
        archived.append((log.store.get(f"checkpoints/{log.ledger.size}"), log.ledger.checkpoint))
        return 0

    years.deliver(App().lines, "2023-05-01")
    years.deliver(App().lines, "2026-05-01")
    monkeypatch.setattr(keeper, "remove_entries", remove)
    assert years.apply() == ["default/2023h1"]
    ((found, present),) = archived
    assert found == present


def test_a_stream_goes_on_over_what_expired(years):
    app = App()
    app.requests(10)
    years.deliver(app.lines[:6], "2023-05-01")
    years.apply()
    answer = years.deliver(app.lines[6:], "2026-05-01")
    assert answer.accepted == 5
    years.again()
    app.requests(1)
    assert years.deliver(app.lines[11:], "2026-05-02").accepted == 1
    assert years.rules() == set()


def test_the_index_is_made_again_from_what_remains(years):
    app, other = App(), App(service="shop")
    app.requests(10)
    years.deliver([*app.lines[:3], *app.lines[5:8], *other.lines], "2023-05-01")  # 3 and 4 are late
    years.apply()
    gaps = years.collector._open.desk.streams.open_gaps
    years.collector.close()
    rebuild_index(years.settings)
    years.open()
    assert years.collector._open.desk.streams.open_gaps == gaps == 1
    assert years.deliver(app.lines[3:5], "2026-05-01").accepted == 2
    assert years.deliver(app.lines[8:], "2026-05-01").accepted == 3
    assert years.collector._open.desk.streams.open_gaps == 0
    assert years.rules() == set()


def test_entries_that_went_without_a_record_are_tampering(years):
    years.deliver(App().lines, "2023-05-01")
    log = years.collector.logs.find("default/2023h1")
    keeper.write_inventory(log, years.collector._open.quarantine)
    years.collector.close()
    keeper.declare_expired(log.folder)
    for path in (log.folder / "tile/entries").rglob("*"):
        if path.is_file():
            path.unlink()
    try:
        report = years.verify()
        assert report.exit_code == 1
        assert {"deleted"} <= years.rules()
    finally:
        (log.folder / "expired").unlink()
        years.settings = settings_for(years.data.parent / "other")
        years.open()


@pytest.mark.parametrize("change", ["manifest", "checkpoint", "tile"])
def test_what_remains_cannot_be_altered(years, change):
    app = App()
    app.requests(1000)
    years.deliver(app.lines, "2023-05-01")
    years.apply()
    folder = years.data / "log/default/2023h1"
    file = {"manifest": folder / "expired", "checkpoint": folder / "checkpoint"}.get(change) or next(
        path for path in (folder / "tile/1").rglob("*") if path.is_file()
    )
    content = file.read_bytes()
    file.chmod(0o644)
    file.write_bytes(content.replace(b'"orders"', b'"order5"') if change == "manifest" else content[:-8] + b"AAAAAAA\n")
    assert years.verify().exit_code == 1


def test_what_is_held_stays_until_two_people_release_it(years):
    years.deliver(App().lines, "2023-05-01")
    years.retention.place(hold(services=["orders"], since="2023-01-01", until="2023-12-31"))
    (item,) = [item for item in years.retention.plan().items if item.period == "2023h1"]
    assert (item.verdict, item.why) == ("held", "expired on 2025-07-01, held for c-1")
    assert years.apply() == []
    years.again()
    years.retention.release("c-1", "ann", "settled")
    assert years.apply() == []
    years.retention.release("c-1", "bob", "settled")
    assert years.apply() == ["default/2023h1"]
    assert [line["rec"]["state"] for line in own_lines(years.collector, "hold")] == [
        "placed", "release_asked", "released",
    ]  # fmt: skip


def test_a_hold_for_other_services_or_days_holds_nothing_else(years):
    app = App(opened=False)
    app.say("open", {"service": "orders"} | OPEN, "2023-05-01T00:00:00.000000Z")
    app.request(ts="2023-05-01T01:00:00.000000Z")
    years.deliver(app.lines, "2023-05-01")
    years.retention.place(hold("a", until="2022-12-31"))
    years.retention.place(hold("b", since="2023-07-01"))
    years.retention.place(hold("c", principals=["eve"], since="2023-07-01"))
    assert years.apply() == ["default/2023h1"]


def test_a_line_that_a_case_needs_is_found_inside_the_delete(years):
    """The producer's clock was wrong: no plan can see by the half-year that the line belongs to the held day."""
    app = App()
    app.request(ts="2021-02-03T04:05:06.000000Z", principal={"id": "eve", "type": "user", "auth": "bearer"})
    years.deliver(app.lines, "2023-05-01")
    years.retention.place(hold(principals=["eve"], since="2021-02-03", until="2021-02-03"))
    plan = years.retention.plan()
    assert len(plan.to_delete) == 1
    with pytest.raises(ConfigurationError, match="holds records of case c-1"):
        years.retention.apply(plan.id, "ann")
    assert years.collector.logs.by_origin("audit.test/default/2023h1") is not None
    assert own_lines(years.collector, "retention") == []


def test_nothing_is_deleted_without_the_plan_of_this_moment(years):
    years.deliver(App().lines, "2023-05-01")
    stale = years.retention.plan()
    years.deliver(App().lines, "2023-05-02")
    for plan in (stale.id, "", "x"):
        with pytest.raises(ConfigurationError, match="look at the plan again"):
            years.retention.apply(plan, "ann")
    assert years.apply() == ["default/2023h1"]


def test_an_altered_log_is_evidence_and_is_not_deleted(years):
    app = App()
    app.requests(300)
    years.deliver(app.lines, "2023-05-01")
    bundle = years.data / "log/default/2023h1/tile/entries/000"
    bundle.chmod(0o644)
    bundle.write_bytes(bundle.read_bytes().replace(b"alice", b"mlice", 1))
    with pytest.raises(BadLedger):
        years.retention.apply(years.retention.plan().id, "ann")
    years.retention.sweep()
    assert own_lines(years.collector, "retention") == []


def test_a_hold_that_was_taken_out_of_the_ledger_stops_every_deletion(years):
    years.deliver(App().lines, "2023-05-01")
    years.retention.place(hold())
    for bundle in (years.data / "log/collector").rglob("tile/entries/*"):
        for file in [bundle] if bundle.is_file() else bundle.iterdir():
            file.chmod(0o644)
            file.write_bytes(file.read_bytes().replace(b'"type":"hold"', b'"type":"hole"'))
    plan = years.retention.plan()  # which remembers what was read before, and checked
    assert plan.to_delete == []
    with pytest.raises(BadLedger):
        years.retention.apply(plan.id, "ann")
    with pytest.raises(BadLedger):
        years.retention.plan()
    years.retention.sweep()
    assert years.collector.logs.by_origin("audit.test/default/2023h1") is not None


def test_holds_are_read_from_where_the_last_reading_ended(years, monkeypatch):
    years.deliver(App().lines, "2023-05-01")
    years.retention.place(hold())
    assert [held.case for held in years.retention.holds()] == ["c-1"]
    read = []
    entries = Ledger.entries
    monkeypatch.setattr(
        Ledger, "entries", lambda self, *span: read.append((self.origin, *span)) or entries(self, *span)
    )
    years.retention.plan()
    assert read == []  # nothing is new
    years.retention.place(hold("c-2"))
    assert [held.case for held in years.retention.holds()] == ["c-1", "c-2"]
    assert read
    assert all(first >= 2 and last == first for _, first, last in read)  # one record, behind all that was there
    years.retention.release("c-2", "ann", "settled")
    years.retention.release("c-2", "bob", "settled")
    assert [held.state for held in years.retention.holds()] == ["placed", "released"]
    years.again()
    assert [held.state for held in years.retention.holds()] == ["placed", "released"]


def test_an_entry_that_was_altered_after_the_last_reading_and_before_the_next_is_found(years):
    years.retention.place(hold())
    years.collector.retention._say_held(hold("c-2"))
    years.retention._ledger_book = LedgerBook(KEYRING)
    (log,) = [log for log in years.collector.logs if log.class_ == "collector"]
    for bundle in (log.folder / "tile/entries").rglob("*"):
        if bundle.is_file():
            bundle.chmod(0o644)
            bundle.write_bytes(bundle.read_bytes().replace(b'"case":"c-2"', b'"case":"c-3"'))
    with pytest.raises(AuditError):
        years.retention.plan()


@pytest.mark.parametrize("step", ["write_inventory", "declare_expired", "remove_entries"])
@pytest.mark.parametrize("is_done", [False, True])
def test_a_crash_at_any_step_leaves_a_folder_that_goes_on(years, monkeypatch, step, is_done):
    app = App()
    app.requests(600)
    years.deliver(app.lines, "2023-05-01")
    real = getattr(keeper, step)

    def crash(*arguments):
        if is_done:
            real(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(keeper, step, crash)
    with pytest.raises(KeyboardInterrupt):
        years.apply()
    monkeypatch.setattr(keeper, step, real)
    years.again()
    assert years.rules() == set()
    gone = years.apply()
    assert gone == (
        []
        if (step, is_done) in {("declare_expired", True), ("remove_entries", False), ("remove_entries", True)}
        else ["default/2023h1"]
    )
    assert years.rules() == set()
    assert not list((years.data / "log/default/2023h1/tile").glob("entries/*"))


def test_the_sweep_deletes_by_itself_and_says_that_the_policy_did(years):
    years.deliver(App().lines, "2023-05-01")
    years.retention.sweep()
    (record,) = own_lines(years.collector, "retention")
    assert record["rec"]["by"] == "policy"
    assert years.rules() == set()


@pytest.mark.parametrize("days", [-400, 2, 4000])
def test_a_clock_that_jumped_deletes_nothing_by_itself(years, days):
    years.deliver(App().lines, "2023-05-01")
    years.retention.clock = lambda: time.time() + days * 86_400
    years.retention.sweep()
    assert own_lines(years.collector, "retention") == []


def test_a_search_finds_what_is_left(years):
    old, new = App(), App()
    for app, day in ((old, "2023-05-01"), (new, "2026-05-01")):
        app.request()
        years.deliver(app.lines, day)
    years.apply()
    page = years.collector.reader.search(parse_query([("service", "orders"), ("type", "request")]))
    assert [json.loads(bytes(found.record))["stream"] for found in page.records] == [new.stream]


def test_segments_lead_a_follower_where_its_lines_did():
    app = App()
    app.requests(9)

    def follow(follower, numbers):
        for number in numbers:
            follower.follow(parse_frame(app.lines[number]), b64url(leaf_hash(app.lines[number])))
        return follower

    whole = follow(StreamFollower(app.stream), [0, 1, 4, 5, 3, 8])
    again = StreamFollower(app.stream)
    for segment in whole.segments:
        again.follow_segment(segment)
    assert again == whole
    late = follow(StreamFollower(app.stream), [0, 1, 8])
    for segment in follow(StreamFollower(app.stream), [4, 5, 3]).segments:
        late.follow_segment(segment)
    assert late == whole


def test_the_patrol_calls_no_expired_log_damaged(years):
    app = App()
    app.requests(2000)
    years.deliver(app.lines, "2023-05-01")
    reported = []
    monitoring = years.collector.monitoring
    logs = monitoring._stored()
    patroller = Patroller(monitoring._stored, 10**9, reported.append)
    patroller.turn()
    years.apply()
    for log in logs:  # as a pass would that began before
        patroller._look_at_newest(log, 0)
        patroller._check(log, Unit(0, 0))
    patroller._pass_at = 0.0
    patroller.turn()
    assert [each for each in reported if isinstance(each, Damage)] == []


def test_nothing_of_an_expired_record_is_left_in_the_data_folder(years):
    """Not in the last commit's write-ahead, and not in free pages of the index."""
    app = App()
    for number in range(600):
        app.request(principal={"id": f"eve-{number}@example.com", "type": "user", "auth": "bearer"})
    years.deliver(app.lines, "2023-05-01")
    assert years.apply() == ["default/2023h1"]
    years.again()
    holding = [path.name for path in years.data.rglob("*") if path.is_file() and b"@example.com" in path.read_bytes()]
    assert holding == []


def test_what_the_collector_says_alone_begins_no_log_of_another_class(years):
    years.retention.place(hold())
    assert [log.path.partition("/")[0] for log in years.collector.logs] == ["collector"]


def test_a_checkpoint_kept_from_an_expired_log_is_compared_where_that_is_possible_and_said_where_not(years, tmp_path):
    app = App()
    app.requests(700)
    kept = []
    for part in (slice(0, 100), slice(100, 400), slice(400, None)):
        years.deliver(app.lines[part], "2023-05-01")
        note = years.collector.logs.find("default/2023h1").note
        kept.append(KeptCheckpoint(f"size {len(kept)}", note))
    years.apply()
    target = folder_target(years.data, Trust((), ()), kept)
    found = verify_logs(target.logs, KEYRING, scope=target.scope)
    unchecked = [finding for finding in found.findings if finding.severity.value == "unchecked"]
    assert [finding.where for finding in unchecked] == ["size 0", "size 1"]
    assert "have expired" in unchecked[0].message
    assert found.exit_code == 2
