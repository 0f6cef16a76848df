"""The matrix service x entry point: what is declared, what was seen, and what that comes to."""

import json
import random
import secrets
import time

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_middleware.collector.auth import Caller
from audit_middleware.collector.index_rows import Entry
from audit_middleware.collector.monitor import halves, matrix
from audit_middleware.collector.monitor.clock import Now, spell
from audit_middleware.collector.monitor.covered import coverage_of
from audit_middleware.collector.monitor.matrix import Matrix, Matrixed
from audit_middleware.collector.monitor.sightings import sightings_of
from audit_middleware.inventory_record import Inventory, reached
from audit_middleware.record import AuditRecord
from audit_middleware.sealing.seal import Frame
from tests.collector.kit import App, rec_of
from tests.collector.monitor.kit import Stand

START = 1_800_000_000
NOW = Now(START + 1_000_000.0, 5.0)


def point(route, method="GET", kind="http", **more):
    return {"kind": kind, "method": method, "route": route} | more


def inventory(*points, service="orders", component="fastapi", **changes):
    """The `rec` of a coverage record."""
    return {
        "service": service,
        "component": component,
        "digest": "d" + str(hash(json.dumps(points))),
        "part": 1,
        "parts": 1,
        "version": "1",
        "policy": "p1",
        "versions": {"python": "3.13"},
        "entry_points": list(points),
    } | changes


def http(route, method="GET", **more):
    return {"http": {"method": method, "route": route, "path": "/x"} | more}


def frame(type_, at, stream="s1"):
    """Only what the matrix looks at."""
    return Frame(
        **dict.fromkeys(Frame.__struct_fields__ if hasattr(Frame, "__struct_fields__") else Frame._fields, None)
        | {"stream": stream, "seq": 0, "type": type_, "ts": spell(START + at)}
    )


def entry(type_, at, rec, stream="s1"):
    return Entry(1, frame(type_, at, stream), msgspec.convert(rec, Inventory if type_ == "coverage" else AuditRecord))


def play(steps, now=NOW, memory=None):
    """A matrix that heard these entries, each a group of its own or several."""
    found = Matrix(now, memory)
    for group in steps:
        for _, head, payload in group:
            if isinstance(payload, Inventory):
                found.hear(head, payload, now)
        for sighting in sightings_of(group):
            found.see(sighting, now)
    return found


def shown(found, now=NOW):
    return msgspec.to_builtins(coverage_of(found, now).services)


def states(found, service="orders", now=NOW):
    (row,) = [each for each in coverage_of(found, now).services if each.service == service]
    return {(each.method, each.route): each.state for each in row.entry_points}


def test_each_entry_point_stands_as_the_gate_has_it():
    declared = inventory(
        point("/a"),
        point("/b"),
        point("/c", "*"),
        point("/d", exempt="health"),
        point("/never", exempt="x", until="2020-01-01"),
    )
    seen = [
        entry("request", 10, rec_of(**http("/a"))),
        entry("request", 11, rec_of(**http("/c", "POST"), defects=["principal"])),
        entry("request", 12, rec_of(**http("/new"))),
        entry("attempt", 13, rec_of(**http("/b"))),
        entry("request", 14, rec_of(**http("none"))),
    ]
    found = play([[entry("coverage", 1, declared)], seen])
    assert states(found) == {
        ("GET", "/a"): "audited",
        ("GET", "/b"): "unseen",
        ("*", "/c"): "defects",
        ("GET", "/d"): "exempt",
        ("GET", "/never"): "expired",
        ("GET", "/new"): "undeclared",
    }
    (service,) = shown(found)
    assert service["percent"] == 40.0
    assert [each["state"] for each in service["entry_points"]] == [
        "undeclared", "expired", "defects", "unseen", "exempt", "audited",
    ]  # fmt: skip


def test_what_a_framework_answers_by_itself_is_no_entry_point_that_nobody_declares():
    declared = inventory(point("/a"), point("/b", "POST"))
    seen = [
        entry("request", 10, rec_of(**http("/a", "HEAD"))),
        entry("request", 11, rec_of(**http("/b", "OPTIONS"))),
        entry("request", 12, rec_of(**http("/b", "DELETE", status=405))),
        entry("request", 13, rec_of(**http("/c", "HEAD"))),
    ]
    found = play([[entry("coverage", 1, declared)], seen])
    assert states(found) == {("GET", "/a"): "unseen", ("POST", "/b"): "unseen", ("HEAD", "/c"): "undeclared"}


def test_tasks_commands_and_models_are_matched_by_their_names():
    declared = inventory(
        point("shop.mail", "*", "task"),
        point("Order", "read", "model"),
        point("Order", "delete", "model"),
        component="celery",
    )
    task = rec_of(task={"name": "shop.mail", "kind": "task"})
    read = rec_of(action="data.read", resource={"type": "Order", "id": "7"})
    other = rec_of(task={"name": "tidy", "kind": "function"})
    found = play(
        [[entry("coverage", 1, declared), entry("task", 2, task), entry("event", 3, read), entry("task", 4, other)]]
    )
    assert states(found) == {
        ("*", "shop.mail"): "audited",
        ("read", "Order"): "audited",
        ("delete", "Order"): "unseen",
        ("*", "tidy"): "audited",
    }


def test_a_defect_is_forgiven_after_a_day_of_records_without_one():
    bad, good = rec_of(**http("/a"), defects=["source.ip"]), rec_of(**http("/a"))
    declared = entry("coverage", 1, inventory(point("/a")))
    steps = [[declared, entry("request", 10, bad)], [entry("request", 10 + 86_399, good)]]
    assert states(play(steps)) == {("GET", "/a"): "defects"}
    assert states(play([*steps, [entry("request", 10 + 86_400, good)]])) == {("GET", "/a"): "audited"}


def test_what_is_gone_is_not_shown_and_what_is_seen_after_that_is():
    first, second = inventory(point("/a"), point("/old")), inventory(point("/a"))
    steps = [
        [entry("coverage", 1, first), entry("request", 5, rec_of(**http("/old")))],
        [entry("coverage", 10, second, "s2")],
        [entry("coverage", 20, second, "s3")],
    ]
    assert states(play(steps)) == {("GET", "/a"): "unseen"}
    again = [*steps, [entry("request", 11, rec_of(**http("/old")))]]
    assert states(play(again)) == {("GET", "/a"): "unseen", ("GET", "/old"): "undeclared"}


def test_a_time_in_the_future_makes_no_inventory_the_newest_for_ever():
    future = entry("coverage", 10**8, inventory(point("/forged")), "s2")
    found = play([[future]], now=Now(START + 10.0, 1.0))
    head, payload = entry("coverage", 20, inventory(point("/a")), "s1")[1:]
    found.hear(head, payload, Now(START + 20.0, 2.0))
    assert states(found) == {("GET", "/a"): "unseen"}


ROUTES = ["/a", "/b", "/c", "none"]
RECORDS = st.tuples(
    st.integers(0, 200_000),
    st.sampled_from(["orders", "billing"]),
    st.sampled_from(ROUTES),
    st.sampled_from(["GET", "POST"]),
    st.sampled_from([None, ["principal"], ["source.ip", "principal"]]),
)
DECLARATIONS = st.tuples(
    st.integers(0, 200_000),
    st.sampled_from(["orders", "billing"]),
    st.sampled_from(["fastapi", "celery"]),
    st.lists(st.sampled_from(ROUTES[:3]), min_size=1, max_size=4),
    st.integers(1, 3),
    st.sampled_from(["p1", "p2"]),
)


def entries_of(records, declarations):
    for at, service, route, method, defects in records:
        yield entry("request", at, rec_of(service, **http(route, method)) | ({"defects": defects} if defects else {}))
    for number, (at, service, component, routes, parts, policy) in enumerate(declarations):
        points = [point(route, exempt="x" if route == "/c" else None) for route in routes]
        digest = f"{routes}"
        for part in range(1, parts + 1):
            given = points[part - 1 :: parts]
            rec = inventory(
                *given, service=service, component=component, digest=digest, part=part, parts=parts, policy=policy
            )
            yield entry("coverage", at + part, rec, f"s{number}")


@settings(max_examples=150, deadline=None)
@given(
    st.lists(RECORDS, max_size=12),
    st.lists(DECLARATIONS, max_size=6),
    st.randoms(use_true_random=False),
    st.integers(1, 5),
)
def test_neither_order_nor_groups_nor_repetition_nor_a_restart_change_the_outcome(records, declarations, chance, size):
    everything = list(entries_of(records, declarations))
    expected = shown(play([everything]))
    again = [each for each in everything if each.frame.type == "coverage" and chance.random() < 0.5]
    shuffled = everything + again
    chance.shuffle(shuffled)
    groups = [shuffled[start : start + size] for start in range(0, len(shuffled), size)]
    half = chance.randrange(len(groups) + 1)
    before = play(groups[:half])
    memory = msgspec.json.decode(msgspec.json.encode(before.remember()), type=Matrixed)
    assert shown(play(groups[half:], memory=memory)) == expected


def test_an_inventory_counts_when_its_last_part_is_there():
    parts = [inventory(point(f"/{part}"), digest="d", part=part, parts=3) for part in (1, 2, 3)]
    found = play([[entry("coverage", 1, parts[2])], [entry("coverage", 1, parts[0])]])
    assert coverage_of(found, NOW).services == ()
    assert found.remember().halves[0].parts == 3
    head, payload = entry("coverage", 1, parts[1])[1:]
    assert found.hear(head, payload, NOW) is not None
    assert states(found) == {("GET", f"/{part}"): "unseen" for part in (1, 2, 3)}
    assert found.remember().halves == []


@pytest.mark.parametrize(("part", "parts"), [(0, 1), (2, 1), (1, 257), (1, 2**53 - 1), (0, 0)])
def test_a_part_that_cannot_be_is_given_up(part, parts):
    found = play([[entry("coverage", 1, inventory(point("/a"), part=part, parts=parts))]])
    assert (coverage_of(found, NOW).services, found.remember().halves) == ((), [])


def test_halves_that_never_become_whole_cost_bounded_memory():
    points = [point(f"/{number}") for number in range(300)]
    groups = [
        [
            entry(
                "coverage",
                number,
                inventory(*points, digest=f"{number}", part=number % 7 + 1, parts=9),
                secrets.token_hex(8),
            )
        ]
        for number in range(500)
    ]
    found = play(groups)
    waiting = found.remember().halves
    assert len(waiting) <= halves.MAX_HALVES
    assert sum(len(each.points) for each in waiting) <= halves.MAX_WAITING
    found.forget(Now(NOW.wall + 7200, NOW.mono + 7200), lambda _stream: False)
    assert found.remember().halves == []


def test_invented_routes_are_bounded_and_leave_room_for_what_is_declared():
    invented = [
        [entry("request", 5, rec_of(**http(f"/{number}"))) for number in range(start, start + 1000)]
        for start in range(0, 100_000, 1000)
    ]
    found = play(invented)
    (service,) = found.remember().services
    assert len(service.seen) == halves.MAX_OF_SERVICE
    assert service.beyond == 100_000 - halves.MAX_OF_SERVICE
    for step in ([entry("coverage", 6, inventory(point("/real")))], [entry("request", 7, rec_of(**http("/real")))]):
        for _, head, payload in step:
            if isinstance(payload, Inventory):
                found.hear(head, payload, NOW)
        for sighting in sightings_of(step):
            found.see(sighting, NOW)
    assert states(found)["GET", "/real"] == "audited"
    assert len(found.remember().services[0].seen) == halves.MAX_OF_SERVICE


def test_methods_that_a_client_invents_count_as_one():
    group = [entry("request", 5, rec_of(**http("/a", f"M{number}"))) for number in range(1000)]
    found = play([[entry("coverage", 1, inventory(point("/a", "*")))], group])
    (row,) = shown(found)[0]["entry_points"]
    assert (row["state"], row["records"]) == ("audited", 1000)
    assert len(found.remember().services[0].seen) <= matrix.MAX_METHODS + 1


def test_too_many_services_are_counted_and_not_kept():
    group = [entry("request", 5, rec_of(f"s{number}", **http("/a"))) for number in range(1500)]
    found = play([group])
    assert (len(found.remember().services), found.beyond) == (1000, 500)


def test_what_is_exempt_is_not_pushed_out_by_what_is_not():
    points = [*(point(f"/{number}") for number in range(6000)), point("/hidden", exempt="quietly")]
    parts = [inventory(*points[start::40], digest="d", part=start + 1, parts=40) for start in range(40)]
    found = play([[entry("coverage", 1, each)] for each in parts])
    assert states(found)["GET", "/hidden"] == "exempt"
    (service,) = shown(found)
    assert service["components"][0]["entry_points"] == halves.MAX_OF_SERVICE
    assert service["components"][0]["beyond"] == 6001 - halves.MAX_OF_SERVICE


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=4000), st.text(max_size=3000), st.text(max_size=200))
def test_hostile_text_is_cut_and_kept_apart(route, reason, name):
    rec = inventory(point(route, exempt=reason, until=name, name=name), component=name, version=reason, policy=reason)
    found = play([[entry("coverage", 1, rec), entry("request", 2, rec_of(**http(route), defects=[reason]))]])
    size = len(msgspec.json.encode(found.remember()))
    assert size < 60_000
    assert coverage_of(found, NOW).services[0].components


def test_what_is_over_for_a_month_is_forgotten_and_a_living_component_is_not():
    late = Now(NOW.wall + 40 * 86_400, NOW.mono + 40 * 86_400)
    steps = [
        [
            entry("coverage", 1, inventory(point("/a"), component="old"), "dead"),
            entry("request", 2, rec_of(**http("/gone"))),
        ],
        [entry("coverage", 1, inventory(point("/w"), component="worker"), "alive")],
        [entry("coverage", 2, inventory(point("/b"), component="new"), "dead")],
    ]
    found = play(steps)
    found.forget(late, lambda stream: stream == "alive")
    assert [each["component"] for each in shown(found)[0]["components"]] == ["new", "worker"]
    assert ("GET", "/gone") not in states(found, now=late)


def test_sightings_are_what_reached_says_of_each_record():
    recs = [
        ("request", rec_of(**http("/a"))), ("request", rec_of(**http("/a", protocol="websocket"))), ("attempt", rec_of(**http("/a"))),
        ("task", rec_of(task={"name": "/a", "kind": "schedule"})), ("event", rec_of(action="data.read")), ("event", rec_of()),
        ("request", rec_of()), ("call", rec_of(call={"kind": "http", "method": "GET", "host": "b"})), ("request", rec_of(**http("unknown"))),
    ]  # fmt: skip
    entries = [entry(type_, number, rec) for number, (type_, rec) in enumerate(recs * 2)]
    random.Random(7).shuffle(entries)
    expected = {reached(each.frame.type, each.payload) for each in entries} - {None}
    found = sightings_of(entries)
    assert {each.reached for each in found} == expected
    assert {each.records for each in found} == {2}


# What a collector makes of it


@pytest.fixture
def stand(tmp_path):
    stand = Stand(tmp_path, settle_seconds=1.0)
    yield stand
    stand.close()


def declare(stand, app, *points, **changes):
    stand.deliver(app.say("coverage", inventory(*points, service=app.service, **changes)))
    stand.pass_seconds(1)


def test_a_newly_exempt_entry_point_is_a_finding_until_it_is_exempt_no_more(stand):
    old = stand.app()
    declare(stand, old, point("/a"), point("/health", exempt="probe"))
    assert stand.findings() == []
    new = stand.app()
    declare(
        stand, new, point("/a", exempt="too loud", until="2030-01-01"), point("/health", exempt="probe"), version="2"
    )
    found = stand.one("uncovered")
    assert (found.service, found.about) == ("orders", "orders http GET /a")
    evidence = {"route": "/a", "exempt": "too loud", "until": "2030-01-01", "version_before": "1", "version_after": "2"}
    assert evidence.items() <= found.evidence.items()
    assert found.evidence["stream"] == new.stream
    declare(stand, stand.app(), point("/a"), point("/health", exempt="probe"), version="3")
    assert stand.one("uncovered", "resolved").resolved_by == "monitor"


def test_a_component_under_another_name_hides_nothing(stand):
    app = stand.app()
    stand.deliver(app.request(**http("/seen")))
    declare(stand, app, point("/declared"))
    declare(
        stand,
        stand.app(),
        *(point(f"/{each}", exempt="x") for each in ("seen", "declared", "unknown")),
        component="other",
    )
    assert sorted(each.evidence["route"] for each in stand.findings("uncovered")) == ["/declared", "/seen"]


def test_many_newly_exempt_entry_points_are_told_in_bounded_number(stand):
    routes = [f"/{number}" for number in range(120)]
    app = stand.app()
    declare(stand, app, *map(point, routes))
    declare(stand, app, *(point(each, exempt="x") for each in routes))
    found = stand.findings("uncovered", "open")
    (others,) = [each for each in found if "entry_points" in each.evidence]
    assert (len(found), others.evidence["exempt"]) == (51, 70)
    declare(stand, app, *map(point, routes))
    assert stand.findings("uncovered", "open") == []


def test_a_change_of_settings_is_one_finding_that_a_person_resolves(stand):
    old, new = stand.app(), stand.app()
    was, becomes = {"attempts": "unsafe", "on_failure": "auto"}, {"attempts": "none", "on_failure": "auto"}
    declare(stand, old, point("/a"), settings=was)
    declare(stand, new, point("/a"), policy="p2", settings=becomes)
    assert stand.one("policy").evidence["changed"] == {"attempts": ["unsafe", "none"]}
    for _ in range(3):  # a rolling deployment; of a release that does not say its settings
        declare(stand, new, point("/a"), policy="p2")
        declare(stand, old, point("/a"))
    found = stand.one("policy")
    assert (found.occurrence, {found.evidence["policy_before"], found.evidence["policy_after"]}) == (1, {"p1", "p2"})
    stand.watch.book.recall(stand.watch.book.decision(found.id, "resolved", "ops", "wanted").reviewed())
    declare(stand, new, point("/a"), policy="p2")
    assert stand.one("policy", "resolved").occurrence == 1
    declare(stand, new, point("/a"), policy="p2", rules="r")
    assert stand.one("policy").occurrence == 2


def test_findings_and_counts_survive_a_restart(stand):
    app = stand.app()
    declare(stand, app, point("/a"), point("/b"))
    stand.deliver(app.request(**http("/a")))
    declare(stand, app, point("/a"), point("/b", exempt="x"))
    before = coverage_of(stand.watch.matrix, stand.now)
    stand.restart(down=60)
    assert coverage_of(stand.watch.matrix, stand.now) == before
    declare(stand, app, point("/a"), point("/b", exempt="x"))
    assert stand.one("uncovered").occurrence == 1


def test_a_token_for_one_service_declares_for_no_other(stand):
    caller = Caller("orders", frozenset({"orders"}), frozenset({"ingest"}))
    app = App(service="orders")
    answer = stand.deliver(
        *app.lines, app.say("coverage", inventory(point("/a", exempt="x"), service="billing")), caller=caller
    )
    assert [each.reason for each in answer.quarantined] == ["service"]
    assert list(stand.watch.matrix.services()) == [] or all(
        each.service != "billing" for each in stand.watch.matrix.services()
    )


def test_a_line_full_of_entry_points_is_taken_whole(stand):
    app = stand.app()
    points = [point(f"/{number:04d}/" + "x" * 40) for number in range(350)]
    line = app.say("coverage", inventory(*points))
    assert 28_000 < len(line) <= 32_768
    stand.deliver(line)
    assert len(states(stand.watch.matrix)) == 350


def test_counting_costs_little_of_each_record():
    """Not a benchmark: it only notices when the way of counting becomes another one."""
    entries = [entry("request", number % 60, rec_of(**http(f"/{number % 50}"))) for number in range(1000)]
    best = min(timed(entries) for _ in range(5))
    assert best / len(entries) < 5e-6


def timed(entries):
    began = time.perf_counter()
    sightings_of(entries)
    return time.perf_counter() - began
