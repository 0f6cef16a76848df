import json

import pytest

from audit_middleware.collector.auth import Caller
from audit_middleware.collector.collector import Collector
from audit_middleware.collector.limits import Limits
from audit_middleware.collector.problems import Problem
from audit_middleware.errors import StorageError, VerificationError
from audit_middleware.sealing.seal import leaf_hash
from audit_middleware.tlog.checkpoint import open_checkpoint
from audit_middleware.tlog.encoding import from_base64
from audit_middleware.tlog.merkle import verify_consistency
from tests.collector.kit import PERIOD, App, admitted, name_of, own_lines, rec_of, settings_for


def reasons(answer):
    return [(item.line, item.reason) for item in answer.quarantined]


def test_the_ack_is_the_leaf_of_the_last_line_delivered(collector):
    app = App()
    app.requests(3)
    answer = collector.deliver(app.lines)
    assert (answer.accepted, answer.duplicates, answer.quarantined) == (4, 0, [])
    assert [(name, ack.seq, ack.leaf) for name, ack in answer.acks.items()] == [(app.stream, 3, name_of(app.lines[-1]))]


def test_the_receipt_covers_the_lines_it_speaks_of(collector):
    app = App()
    app.requests(2)
    told = collector.deliver(app.lines).logs[0]
    log = collector.logs.by_origin(told.origin)
    assert [log.ledger.entry(index) for index in range(told.first, told.last + 1)] == app.lines
    assert open_checkpoint(told.checkpoint.encode(), log.verifier).size > told.last


def test_lost_answer_and_resend_stores_each_record_once(collector):
    app = App()
    app.requests(5)
    collector.deliver(app.lines)
    again = collector.deliver(app.lines)
    assert (again.accepted, again.duplicates, again.quarantined) == (0, 6, [])
    assert again.acks[app.stream].seq == 5
    assert admitted(collector, app.stream) == app.lines


def test_the_receipt_of_a_redelivery_is_a_checkpoint_that_covers_it(collector):
    app = App()
    first = collector.deliver(app.lines)
    again = collector.deliver(app.lines)
    (told,) = again.logs
    assert (told.first, told.last) == (None, None)
    log = collector.logs.by_origin(told.origin)
    assert open_checkpoint(told.checkpoint.encode(), log.verifier).size > first.logs[0].last


def test_a_redelivery_of_nothing_new_leaves_the_log_as_it_is(collector):
    app = App()
    collector.deliver(app.lines)
    size = next(iter(collector.logs)).ledger.size
    for _ in range(3):
        collector.deliver(app.lines)
    assert next(iter(collector.logs)).ledger.size == size


def test_part_old_part_new_is_counted_apart(collector):
    app = App()
    app.requests(2)
    collector.deliver(app.lines)
    app.requests(2)
    answer = collector.deliver(app.lines)
    assert (answer.accepted, answer.duplicates) == (2, 3)


def test_dedupe_is_exact_after_a_restart(settings):
    app = App()
    app.requests(20)
    with Collector(settings) as collector:
        collector.deliver(app.lines)
    with Collector(settings) as collector:
        app.request()
        answer = collector.deliver(app.lines)
        assert (answer.accepted, answer.duplicates) == (1, 21)
        assert admitted(collector, app.stream) == app.lines


def test_two_batches_of_two_streams_each_get_their_own_place(collector):
    one, two = App(), App()
    first, second = collector.deliver(one.lines), collector.deliver(two.lines)
    assert first.logs[0].last < second.logs[0].first


def test_several_streams_in_one_batch_are_acked_each(collector):
    apps = [App() for _ in range(3)]
    answer = collector.deliver([line for app in apps for line in app.lines])
    assert {stream: ack.leaf for stream, ack in answer.acks.items()} == {
        app.stream: name_of(app.lines[0]) for app in apps
    }


def test_a_batch_of_a_thousand_streams_is_named_in_ingest_records_that_fit(collector):
    apps = [App() for _ in range(400)]
    answer = collector.deliver([app.lines[0] for app in apps])
    assert answer.accepted == 400
    named = [part["stream"] for line in own_lines(collector, "ingest") for part in line["rec"]["deliveries"]]
    assert sorted(named) == sorted(app.stream for app in apps)


def test_the_ingest_record_says_who_delivered_what(collector):
    app = App()
    app.requests(2)
    collector.deliver(app.lines, Caller("shipper-1", frozenset({"*"}), frozenset({"ingest"})))
    (record,) = own_lines(collector, "ingest")
    assert record["rec"]["deliverer"] == "shipper-1"
    assert record["rec"]["deliveries"] == [{"stream": app.stream, "first": 0, "last": 2, "count": 3}]


def test_gap_then_late_fill(collector):
    app = App()
    app.requests(5)
    collector.deliver(app.lines[:2] + app.lines[4:])
    late = collector.deliver(app.lines[2:4])
    assert late.accepted == 2
    said = [(line["rec"]["first"], line["rec"]["last"], line["rec"]["state"]) for line in own_lines(collector, "gap")]
    assert said == [(2, 3, "open"), (2, 3, "filled")]
    assert collector._open.desk.streams.open_gaps == 0


def test_a_gap_is_filled_across_a_restart(settings):
    app = App()
    app.requests(5)
    with Collector(settings) as collector:
        collector.deliver(app.lines[:2] + app.lines[4:])
    with Collector(settings) as collector:
        assert collector._open.desk.streams.open_gaps == 1
        assert collector.deliver([app.lines[3]]).accepted == 1
        assert collector.deliver([app.lines[2]]).accepted == 1
        said = [(line["rec"]["first"], line["rec"]["last"]) for line in own_lines(collector, "gap")]
        assert said == [(2, 3), (3, 3), (2, 2)]
        assert collector._open.desk.streams.open_gaps == 0


def test_a_hole_given_up_at_the_source_is_no_gap(collector):
    app = App()
    app.request()
    app.sealer.skip()
    app.request()
    assert collector.deliver(app.lines).accepted == 3
    assert own_lines(collector, "gap") == []


def test_a_late_line_does_not_reopen_a_closed_stream(settings):
    app = App()
    app.requests(2)
    counters = {"monotonic_us": 1, "seen": 1, "recorded": 1, "dropped": 0, "spool_bytes": 0}
    app.say("close", {"service": "orders"} | counters)
    with Collector(settings) as collector:
        assert collector.deliver([app.lines[0], *app.lines[2:]]).accepted == 3
        assert collector.deliver([app.lines[1]]).accepted == 1
        collector._open.index.flush()
        assert collector._open.index.load_stream(app.stream).closed


def test_reordered_lines_all_arrive(collector):
    app = App()
    app.requests(6)
    assert collector.deliver(app.lines[::-1]).accepted == 7
    assert collector._open.desk.streams.open_gaps == 0


def test_conflict_is_kept_named_and_does_not_block_the_sender(collector):
    app = App()
    app.request()
    other = app.seal("request", rec_of(action="other"))
    app.request()
    collector.deliver(app.lines)
    answer = collector.deliver([other])
    assert reasons(answer) == [(1, "conflict")]
    assert answer.acks[app.stream].leaf == name_of(other)
    (found,) = own_lines(collector, "conflict")
    assert (found["rec"]["kept"], found["rec"]["other"]) == (name_of(app.lines[2]), name_of(other))
    assert own_lines(collector, "quarantine")[0]["rec"]["leaf"] == name_of(other)


def test_two_lines_for_one_place_in_one_batch_are_a_conflict(collector):
    app = App()
    twin = app.seal("request", rec_of(action="twin"))
    app.request()
    answer = collector.deliver([*app.lines, twin])
    assert (answer.accepted, reasons(answer)) == (2, [(3, "conflict")])


def test_a_conflict_is_found_after_a_restart(settings):
    app = App()
    twin = app.seal("request", rec_of(action="twin"))
    app.request()
    with Collector(settings) as collector:
        collector.deliver(app.lines)
    with Collector(settings) as collector:
        assert reasons(collector.deliver([twin])) == [(1, "conflict")]
        assert len(own_lines(collector, "conflict")) == 1


def test_a_resent_conflict_is_named_once(collector):
    app = App()
    twin = app.seal("request", rec_of(action="twin"))
    app.request()
    collector.deliver(app.lines)
    for _ in range(3):
        assert reasons(collector.deliver([twin])) == [(1, "conflict")]
    assert len(own_lines(collector, "conflict")) == 1


def test_a_line_for_a_place_given_up_at_the_source_is_set_aside(collector):
    app = App()
    forged = app.seal("request", rec_of())
    app.sealer.skip()
    app.request()
    collector.deliver(app.lines)
    assert reasons(collector.deliver([forged])) == [(1, "sequence")]


def test_consistency_leads_from_the_size_the_sender_knows(collector):
    app = App()
    before = collector.deliver(app.lines).logs[0]
    log = collector.logs.by_origin(before.origin)
    old = open_checkpoint(before.checkpoint.encode(), log.verifier)
    app.requests(10)
    after = collector.deliver(app.lines, sizes={before.origin: old.size}).logs[0]
    new = open_checkpoint(after.checkpoint.encode(), log.verifier)
    proof = [from_base64(node) for node in after.consistency]
    verify_consistency(old.size, old.root, new.size, new.root, proof)


@pytest.mark.parametrize(("known", "expected"), [(0, []), (10_000, None)])
def test_no_proof_from_nothing_and_none_from_the_future(collector, known, expected):
    app = App()
    origin = next(iter(collector.logs)).origin
    assert collector.deliver(app.lines, sizes={origin: known}).logs[0].consistency == expected


def test_a_new_half_year_begins_a_new_log_and_duplicates_in_the_old_one_are_receipted(settings):
    app = App()
    app.request()
    with Collector(settings) as collector:
        collector.deliver(app.lines[:1])
        collector._open.desk.clock = lambda: 4_102_444_800.0  # 2100-01-01
        answer = collector.deliver(app.lines)
        assert [log.origin.rpartition("/")[2] for log in answer.logs] == [PERIOD, "2100h1"]
        assert answer.logs[0].first is None
        assert answer.logs[1].first == 0
        assert (settings.data / "log.vkey").read_text().count("\n") == 2
    with Collector(settings) as collector:
        assert collector.deliver(app.lines).duplicates == 2
        assert [log.path for log in collector.logs] == [f"default/{PERIOD}", "default/2100h1"]


def test_a_clock_set_back_does_not_write_into_a_period_that_has_ended(settings):
    with Collector(settings) as collector:
        collector._open.desk.clock = lambda: 0.0
        app = App()
        assert collector.deliver(app.lines).logs[0].origin.endswith(PERIOD)


def test_own_stream_opens_closes_and_names_the_one_before(settings):
    with Collector(settings) as collector:
        first = own_lines(collector)[0]["stream"]
    with Collector(settings) as collector:
        lines = own_lines(collector)
    assert [line["type"] for line in lines] == ["open", "close", "open"]
    previous = lines[2]["rec"]["previous"]
    assert (previous["stream"], previous["seq"], previous["closed"]) == (first, 1, True)


def test_a_collector_that_was_killed_leaves_a_stream_without_close(settings):
    crashed = Collector(settings).open()
    crashed._open.committer._work = _Silent()
    crashed.close()
    with Collector(settings) as collector:
        assert "closed" not in own_lines(collector)[-1]["rec"]["previous"]


class _Silent:
    def stop(self):
        pass


def test_beats_come_while_something_happens_and_slowly_when_idle(tmp_path):
    limits = Limits(beat_seconds=0.05, idle_beat_seconds=60.0)
    with Collector(settings_for(tmp_path, limits=limits)) as collector:
        app = App()
        collector.deliver(app.lines)
        _wait(lambda: own_lines(collector, "beat"))
        (beat,) = own_lines(collector, "beat")
        assert (beat["rec"]["seen"], beat["rec"]["recorded"]) == (1, 1)


def test_a_failed_commit_stops_the_collector_rather_than_forking_its_chain(settings):
    app = App()
    collector = Collector(settings).open()
    (settings.data / "log/default").rename(settings.data / "log/gone")
    with pytest.raises(Problem, match="how far"):
        collector.deliver(app.lines)
    _wait(lambda: collector.state == "failed")
    with pytest.raises(Problem) as refused:
        collector.deliver(app.lines)
    assert (refused.value.status, refused.value.kind) == (503, "collector-failed")
    (settings.data / "log/gone").rename(settings.data / "log/default")
    collector.close()
    with Collector(settings) as again:
        answer = again.deliver(app.lines)
        assert answer.accepted + answer.duplicates == 1
        assert admitted(again, app.stream) == app.lines


def test_a_collector_that_cannot_get_ready_says_so(settings):
    with Collector(settings) as collector:
        collector.deliver(App().lines)
    for path in settings.data.glob("index.sqlite*"):
        path.unlink()
    (bundle,) = (settings.data / "log").glob("*/*/tile/entries/000.p/4")
    damaged = bytearray(bundle.read_bytes())
    damaged[40] ^= 1
    bundle.chmod(0o600)
    bundle.write_bytes(damaged)
    with pytest.raises(VerificationError):
        Collector(settings).open()


def test_a_second_collector_on_one_folder_is_refused(settings, collector):
    with pytest.raises(StorageError, match="another collector"):
        Collector(settings).open()


def test_every_line_of_the_ledger_is_the_line_that_was_sent(collector):
    app = App()
    line = app.request(details={"text": 'zürich \u2028 \\u0000 "},"mac":"x'})
    collector.deliver(app.lines)
    assert leaf_hash(admitted(collector, app.stream)[1]) == leaf_hash(line)


def test_own_records_verify_like_everybody_elses(collector):
    from audit_middleware.sealing.parse import parse_rec
    from audit_middleware.sealing.seal import SealVerifier, parse_frame
    from tests.collector.kit import KEYRING

    collector.deliver([*App().lines, b"rubbish"])
    verifier = SealVerifier(KEYRING)
    for line in next(iter(collector.logs)).ledger.entries():
        frame = parse_frame(line)
        verifier.verify_seal(line, frame)
        parse_rec(line, frame)
    assert {json.loads(line)["type"] for line in next(iter(collector.logs)).ledger.entries()} == {
        "open",
        "quarantine",
        "ingest",
    }


def _wait(condition, seconds=5.0):
    import time

    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
