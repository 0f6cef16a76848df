"""What somebody who can send, and perhaps seal, tries; and where each bad line ends up."""

import json

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from audit_middleware.cli.ledgers import Trust, folder_target
from audit_middleware.collector.auth import Caller
from audit_middleware.collector.collector import Collector
from audit_middleware.collector.ledger import Ledger
from audit_middleware.collector.limits import Limits
from audit_middleware.collector.problems import Problem
from audit_middleware.errors import StorageError
from audit_middleware.sealing.keys import Keyring
from audit_middleware.verify import verify_logs
from tests.collector.kit import (
    KEY,
    KEYRING,
    OTHER_KEY,
    OTHER_KEYRING,
    App,
    admitted,
    name_of,
    own_lines,
    rec_of,
    settings_for,
)

ORDERS = Caller("orders-token", frozenset({"orders"}), frozenset({"ingest"}))
BILLING = Caller("billing-token", frozenset({"billing"}), frozenset({"ingest"}))


def reasons(answer):
    return [item.reason for item in answer.quarantined]


def files(settings):
    return {path.parent.name: json.loads(path.read_text()) for path in (settings.data / "quarantine").glob("*/*.json")}


def assert_healthy(collector):
    app = App()
    assert collector.deliver(app.lines).accepted == 1


def test_an_altered_byte_breaks_the_seal(collector, settings):
    app = App()
    app.request()
    forged = app.lines[1].replace(b"alice", b"mallo")
    answer = collector.deliver([app.lines[0], forged])
    assert (answer.accepted, reasons(answer)) == (1, ["mac"])
    held = files(settings)["mac"]
    assert (held["leaf"], held["stream"], held["seq"], held["kid"]) == (name_of(forged), app.stream, 1, "k1")
    assert collector.deliver([app.lines[1]]).accepted == 1  # the true line is still welcome


def test_a_line_sealed_with_another_key_under_a_known_name(collector):
    app = App(Keyring({"k1": OTHER_KEY}))
    assert reasons(collector.deliver(app.lines)) == ["mac"]
    assert admitted(collector, app.stream) == []


def test_a_jump_further_than_the_ratchet_is_followed(collector):
    line = far_line(1 << 50)
    answer = collector.deliver([line])
    assert reasons(answer) == ["jump"]
    assert [ack.seq for ack in answer.acks.values()] == [1 << 50]


def far_line(seq):
    """A line of nobody's, whose bad mac shows only after all the steps to its block."""
    stream = App().stream.encode()
    ts = b"2026-11-23T07:00:00.000000Z"
    head = b'{"v":1,"kid":"k1","stream":"%b","seq":%d,"prev":"%b","type":"event","ts":"%b","rec":{}'
    return (head + b',"mac":"%b"}') % (stream, seq, b"A" * 43, ts, b"A" * 43)


def test_a_batch_of_far_claims_costs_a_bounded_number_of_steps(collector):
    answer = collector.deliver([far_line(4_000_000) for _ in range(30)])
    assert reasons(answer) == ["mac"] + ["jump"] * 29
    assert_healthy(collector)


def test_a_stream_of_many_millions_goes_on_after_a_restart(settings):
    app = App()
    with Collector(settings) as collector:
        collector.deliver(app.lines)
        for seq in (4_000_000, 8_000_000):  # given up at the source
            app.sealer.seq = seq
            assert collector.deliver([app.request()]).accepted == 1
    with Collector(settings) as collector:
        assert collector.deliver([app.request()]).accepted == 1
        assert collector.deliver(app.lines).duplicates == 4


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"x" * 33_000, "length"),
        (b'{"v":1,"kid":"\xff"}', "utf-8"),
        (b'{"v":1}\r', "control"),
        (b'{"v":1}\x00', "control"),
        (b'{"v":2,"kid":"k1"}', "header"),
        (b"", "header"),
        (b"not json at all", "header"),
    ],
)
def test_garbage_is_kept_by_line_number(collector, line, reason):
    app = App()
    answer = collector.deliver([line, *app.lines])
    assert [(item.line, item.reason) for item in answer.quarantined] == [(1, reason)]
    assert answer.accepted == 1


def test_a_member_after_the_mac(collector):
    app = App()
    line = app.lines[0][:-1] + b',"rec":{"service":"orders"}}'
    answer = collector.deliver([line])
    assert reasons(answer) == ["tail"]
    assert answer.acks[app.stream].leaf == name_of(line)  # its head can be read: the sender goes on


def test_a_duplicate_member_is_set_aside_and_the_chain_goes_on(collector):
    app = App()
    bad = app.say("request", json.dumps(rec_of())[:-1].encode() + b',"action":"harmless"}')
    app.request()
    answer = collector.deliver(app.lines)
    assert (answer.accepted, reasons(answer)) == (2, ["json"])
    assert own_lines(collector, "gap") == []
    again = collector.deliver(app.lines)
    assert (again.accepted, again.duplicates, reasons(again)) == (0, 2, ["json"])
    assert bad not in admitted(collector, app.stream)


def test_a_missing_member_is_set_aside_and_the_chain_goes_on(collector):
    app = App()
    rec = rec_of()
    del rec["principal"]
    app.say("request", rec)
    app.request()
    answer = collector.deliver(app.lines)
    assert (answer.accepted, reasons(answer)) == (2, ["schema"])


def test_another_line_for_the_place_of_one_set_aside_is_a_conflict(collector):
    app = App()
    twin = app.seal("request", rec_of())
    app.say("request", {})
    collector.deliver(app.lines)
    assert reasons(collector.deliver([twin])) == ["conflict"]


def test_another_line_for_a_place_set_aside_is_a_conflict_after_a_restart(settings):
    app = App()
    twin = app.seal("request", rec_of())
    app.say("request", {})
    app.request()
    with Collector(settings) as collector:
        collector.deliver(app.lines)
    for path in settings.data.glob("index.sqlite*"):
        path.unlink()
    with Collector(settings) as collector:
        assert reasons(collector.deliver([twin])) == ["conflict"]
        answer = collector.deliver(app.lines)
        assert (answer.duplicates, reasons(answer)) == (2, ["schema"])


def test_a_chain_that_does_not_link_is_set_aside(collector):
    app = App()
    app.requests(2)
    collector.deliver(app.lines)
    app.sealer.prev = b"B" * 42 + b"A"
    forged = app.seal("request", rec_of())
    assert reasons(collector.deliver([forged])) == ["sequence"]


def test_a_replayed_batch_of_another_day_changes_nothing(collector):
    app = App()
    app.requests(3)
    collector.deliver(app.lines)
    app.requests(3)
    collector.deliver(app.lines[4:])
    assert collector.deliver(app.lines[:4]).duplicates == 4
    assert admitted(collector, app.stream) == app.lines


def test_an_unknown_key_is_kept_then_admitted_once_configured(tmp_path):
    app = App(OTHER_KEYRING)
    app.requests(2)
    with Collector(settings_for(tmp_path)) as collector:
        answer = collector.deliver(app.lines[::-1])
        assert reasons(answer) == ["unknown_key"] * 3
        assert answer.acks[app.stream].seq == 2
    both = settings_for(tmp_path, keyring=Keyring({"k2": OTHER_KEY, "k1": KEY}))
    with Collector(both) as collector:
        assert admitted(collector, app.stream) == app.lines
        states = [line["rec"].get("state", "kept") for line in own_lines(collector, "quarantine")]
        assert sorted(states) == ["admitted"] * 3 + ["kept"] * 3
        assert set(files(both)) == {"admitted"}
        assert collector.deliver(app.lines).duplicates == 3
    with Collector(both) as collector:
        assert len(own_lines(collector, "quarantine")) == 6


def test_a_forged_line_of_an_unknown_key_is_found_out_once_configured(tmp_path):
    app = App(OTHER_KEYRING)
    with Collector(settings_for(tmp_path)) as collector:
        collector.deliver([app.lines[0].replace(b"orders", b"robber")])
    both = settings_for(tmp_path, keyring=Keyring({"k2": OTHER_KEY, "k1": KEY}))
    with Collector(both) as collector:
        assert [line["rec"]["reason"] for line in own_lines(collector, "quarantine")] == ["unknown_key", "mac"]
        assert set(files(both)) == {"mac"}


def test_a_token_delivers_for_its_own_services_only(collector):
    app = App(service="billing")
    answer = collector.deliver(app.lines, ORDERS)
    assert reasons(answer) == ["service"]
    assert collector.deliver(app.lines, BILLING).accepted == 1
    assert [line["rec"].get("state") for line in own_lines(collector, "quarantine")] == [None, "admitted"]


def test_a_token_cannot_continue_the_stream_of_another_service(collector):
    app = App(service="billing")
    collector.deliver(app.lines, BILLING)
    line = app.say("request", rec_of("orders"))
    assert reasons(collector.deliver([line], ORDERS)) == ["service"]


def test_a_token_cannot_say_that_it_is_another_service_in_its_own_stream(collector):
    app = App()
    line = app.say("request", rec_of("billing"))
    assert reasons(collector.deliver([app.lines[0], line], ORDERS)) == ["service"]


def test_a_line_without_a_service_needs_a_token_for_every_service(collector):
    app = App(opened=False)
    app.say("novelty", {"x": 1})
    assert reasons(collector.deliver(app.lines, ORDERS)) == ["service"]
    assert collector.deliver(app.lines).accepted == 1


def test_nobody_delivers_as_the_collector_itself(collector):
    app = App(service="audit-collector")
    assert reasons(collector.deliver(app.lines)) == ["service"]
    own = next(iter(collector.logs)).ledger.entry(0)
    assert reasons(collector.deliver([own])) == ["service"]


def test_a_resent_bad_line_does_not_grow_anything(collector, settings):
    collector.deliver([b"rubbish"])
    size = next(iter(collector.logs)).ledger.size
    for _ in range(3):
        assert reasons(collector.deliver([b"rubbish", b"rubbish"])) == ["header", "header"]
    assert next(iter(collector.logs)).ledger.size == size
    assert len(list((settings.data / "quarantine").glob("*/*.json"))) == 1


def test_a_full_quarantine_refuses_bad_lines_and_takes_good_ones(tmp_path):
    with Collector(settings_for(tmp_path, limits=Limits(quarantine_bytes=2000))) as collector:
        collector.deliver([b"rubbish 1"])
        collector.deliver([b"rubbish 2"])
        app = App()
        app.say("request", {})
        app.request()
        with pytest.raises(Problem) as refused:
            collector.deliver([*app.lines[:1], b"x" * 2000, *app.lines[1:]])
        assert (refused.value.status, refused.value.kind) == (503, "quarantine-full")
        assert admitted(collector, app.stream) == app.lines[:1]
        assert_healthy(collector)


def test_a_stream_does_not_move_over_a_line_that_cannot_be_kept(tmp_path):
    app = App()
    app.say("request", {"padding": "x" * 1000})
    app.request()
    small = settings_for(tmp_path, limits=Limits(quarantine_bytes=1000))
    with Collector(small) as collector, pytest.raises(Problem, match="quarantine"):
        collector.deliver(app.lines)
    with Collector(settings_for(tmp_path)) as collector:
        answer = collector.deliver(app.lines)
        assert (answer.accepted, answer.duplicates, reasons(answer)) == (1, 1, ["schema"])
        assert own_lines(collector, "gap") == []


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    with Collector(settings_for(tmp_path_factory.mktemp("shared"))) as collector:
        yield collector


@hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(st.binary(max_size=300).filter(lambda line: b"\n" not in line), min_size=1, max_size=5))
def test_any_bytes_are_set_aside_and_harm_nobody(shared, lines):
    answer = shared.deliver(lines)
    assert len(answer.quarantined) == len(lines)
    assert shared.state == "ready"


@hypothesis_settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rec=st.binary(max_size=200), type_=st.sampled_from(["request", "open", "beat", "quarantine", "gap", "novelty"]))
def test_any_rec_under_a_good_seal_harms_nobody(shared, rec, type_):
    app = App()
    app.say(type_, b"{" + rec.translate(None, bytes(range(32))) + b"}")
    answer = shared.deliver(app.lines)
    assert answer.accepted + len(answer.quarantined) == 2
    assert shared.state == "ready"


@hypothesis_settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ts=st.from_regex(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z", fullmatch=True))
def test_any_time_the_grammar_allows_is_indexed(shared, ts):
    from hypothesis import assume

    assume(ts.isascii())
    app = App()
    app.request(ts=ts)
    assert shared.deliver(app.lines).accepted == 2
    shared._open.index.flush()


@hypothesis_settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(range(8)), cut=st.integers(1, 7))
def test_any_order_in_any_batches_ends_with_all_lines_and_no_gap(shared, order, cut):
    app = App()
    app.requests(7)
    lines = [app.lines[number] for number in order]
    accepted = shared.deliver(lines[:cut]).accepted + shared.deliver(lines).accepted
    assert accepted == 8
    assert sorted(admitted(shared, app.stream)) == sorted(app.lines)
    assert shared._open.desk.streams.open_gaps == 0


def test_stray_files_in_the_quarantine_harm_nobody(settings):
    with Collector(settings) as collector:
        collector.deliver([b"rubbish"])
    folder = settings.data / "quarantine"
    (folder / "notes.txt").write_text("x")
    (folder / "link").symlink_to("nowhere")
    (folder / "header" / "link").symlink_to("nowhere")
    (folder / "header" / "folder").mkdir()
    with Collector(settings) as collector:
        assert_healthy(collector)
        assert reasons(collector.deliver([b"rubbish"])) == ["header"]


def test_a_late_retry_of_what_a_damaged_bundle_holds_stops_that_batch_only(settings):
    app = App()
    app.requests(300)
    with Collector(settings) as collector:
        collector.deliver(app.lines)
    (bundle,) = settings.data.glob("log/default/*/tile/entries/000")
    bundle.chmod(0o600)
    bundle.write_bytes(bundle.read_bytes().replace(b"alice", b"mallo"))
    with Collector(settings) as collector:
        with pytest.raises(Problem) as refused:
            collector.deliver(app.lines[5:6])
        assert (refused.value.status, refused.value.kind) == (503, "ledger-damaged")
        assert_healthy(collector)
        assert own_lines(collector, "conflict") == []
        assert collector.deliver(app.lines[-1:]).duplicates == 1


def test_a_bundle_that_cannot_be_read_stops_that_batch_only(settings):
    app = App()
    app.requests(300)
    with Collector(settings) as collector:
        collector.deliver(app.lines)
    (bundle,) = settings.data.glob("log/default/*/tile/entries/000")
    bundle.unlink()
    with Collector(settings) as collector:
        with pytest.raises(Problem, match="compared"):
            collector.deliver(app.lines[5:6])
        app.request()
        assert collector.deliver(app.lines[-1:]).accepted == 1


@pytest.mark.parametrize("at", ["before the ledger", "after the ledger"])
def test_a_line_in_quarantine_has_its_record_wherever_the_collector_died(tmp_path, monkeypatch, at):
    settings = settings_for(tmp_path)
    app, other = App(), App()
    app.request()
    twin = app.lines[1].replace(b'"alice"', b'"mlice"')
    bad = [twin, b"no line at all"]
    append = Ledger.append

    def dying(self, entries, leaves=None):
        if at == "after the ledger":
            append(self, entries, leaves)
        raise StorageError("the process ends here")

    with Collector(settings) as collector:
        collector.deliver(app.lines)
        monkeypatch.setattr(Ledger, "append", dying)
        with pytest.raises(Problem):
            collector.deliver([*other.lines, *bad])
        monkeypatch.undo()
    assert (settings.data / "quarantine/.unsaid").exists()
    with Collector(settings) as collector:
        kept = {path.stem for path in (settings.data / "quarantine").glob("*/*.json")}
        said = {line["rec"]["leaf"] for line in own_lines(collector, "quarantine")}
        assert kept == said == {name_of(line) for line in bad}
        assert not (settings.data / "quarantine/.unsaid").exists()
        before = own_lines(collector, "quarantine")
        assert len(before) == (2 if at == "before the ledger" else 4)
        answer = collector.deliver([*other.lines, *bad])
        assert (answer.accepted, len(answer.quarantined)) == (1 if at == "before the ledger" else 0, 2)
        assert own_lines(collector, "quarantine") == before
    with Collector(settings) as collector:
        assert own_lines(collector, "quarantine") == before  # once, and not at every start
    target = folder_target(settings.data, Trust((), ()), [])
    report = verify_logs(target.logs, KEYRING, scope=target.scope)
    assert report.exit_code == 0, report.findings


def test_a_conflict_whose_record_a_crash_prevented_is_on_record_after_the_next_start(tmp_path, monkeypatch):
    settings = settings_for(tmp_path)
    app = App()
    twin = app.seal("request", rec_of(principal={"id": "mallory", "type": "user", "auth": "bearer"}))
    app.request()
    with Collector(settings) as collector:
        collector.deliver(app.lines)
        monkeypatch.setattr(Ledger, "append", lambda *_: raise_(StorageError("the process ends here")))
        with pytest.raises(Problem):
            collector.deliver([twin])
        monkeypatch.undo()
    with Collector(settings) as collector:
        (found,) = own_lines(collector, "conflict")
        assert (found["rec"]["kept"], found["rec"]["other"]) == (name_of(app.lines[1]), name_of(twin))


def raise_(error):
    raise error
