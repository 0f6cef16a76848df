"""Lines that are wrong, each by one rule; strict JSON; what an application puts in; following a stream."""

import json
import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_middleware.errors import BadSeal, MalformedLine, UnknownKey
from audit_middleware.payloads import json_schema
from audit_middleware.plain import Plainer
from audit_middleware.record import MAX_LINE, AuditRecord, Principal, Resource, Source, Trace
from audit_middleware.sealing.encode import encode_rec
from audit_middleware.sealing.keys import new_key, parse_keys
from audit_middleware.sealing.parse import parse_rec
from audit_middleware.sealing.seal import MAX_REC, Sealer, SealVerifier, leaf_hash, parse_frame
from audit_middleware.sealing.stream import Step, StreamFollower
from audit_middleware.sealing.text import b64url, timestamp

KEYS = parse_keys(f"k1:{'A' * 43}")
TS = b"2026-11-23T07:00:00.000001Z"


def record(**more):
    return AuditRecord(
        service="orders",
        principal=Principal("alice", "user", "session"),
        source=Source("10.0.0.1", "peer", "10.0.0.1"),
        action="GET /",
        outcome="success",
        resource=Resource("order", "1"),
        trace=Trace("r1"),
        **more,
    )


def sealer():
    return Sealer(KEYS, bytes(16))


def seal(rec=b'{"n":1}', type_=b"event"):
    return sealer().seal(type_, TS, rec)


def reseal(body: bytes) -> bytes:
    """Seal any bytes, as a producer with the key and a bug would: what is wrong then is the grammar, not the seal."""
    mac = sealer()._ratchet.mac.copy()
    mac.update(body)
    return b'%b,"mac":"%b"}' % (body, b64url(mac.finalize()))


def check(line, keys=KEYS):
    frame = parse_frame(line)
    SealVerifier(keys).verify_seal(line, frame)
    return parse_rec(line, frame)


HEAD = b'{"v":1,"kid":"k1","stream":"AAAAAAAAAAAAAAAAAAAAAA","seq":0,"prev":"%b","type":"event","ts":"%b","rec":' % (
    b"A" * 43,
    TS,
)


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        (b"", "header"),
        (b"{}", "header"),
        (b"\xff\xfe", "utf-8"),
        (seal().replace(b'"n":1', b'"n":\x0b1'), "control"),
        (seal() + b" ", "tail"),
        (seal()[:-1], "tail"),
        (seal().replace(b'"v":1', b'"v":2'), "header"),
        (seal().replace(b'"seq":0', b'"seq":00'), "header"),
        (seal().replace(b'"seq":0', b'"seq":-1'), "header"),
        (seal().replace(b'"seq":0', b'"seq": 0'), "header"),
        (seal().replace(b"07:00:00", b"7:00:00"), "header"),
        (seal().replace(b'"kid":"k1"', b'"kid":""'), "header"),
        (seal().replace(b'"stream":"AAAAAAAAAAAAAAAAAAAAAA"', b'"stream":"AAAAAAAAAAAAAAAAAAAAAB"'), "header"),
        (seal().replace(b'"rec":{', b'"rec":[{'), "header"),
        (b"x" * (MAX_LINE + 1), "length"),
    ],
)
def test_a_line_that_breaks_the_grammar_is_named_by_its_rule(line, rule):
    with pytest.raises(MalformedLine) as caught:
        parse_frame(line)
    assert caught.value.rule == rule


@given(st.binary(max_size=600))
def test_no_bytes_raise_anything_but_malformed_line(line):
    with pytest.raises(MalformedLine):
        parse_frame(line)


@given(st.integers(0, len(seal()) - 1), st.integers(0, 7))
def test_every_single_bit_flip_is_found(at, bit):
    line = bytearray(seal())
    line[at] ^= 1 << bit
    with pytest.raises((MalformedLine, BadSeal, UnknownKey)):
        check(bytes(line))


def test_a_record_sealed_with_the_wrong_key_does_not_verify():
    other = Sealer(parse_keys(new_key("k1")), bytes(16)).seal(b"event", TS, b'{"n":1}')
    with pytest.raises(BadSeal):
        check(other)


def test_a_line_moved_to_another_stream_does_not_verify():
    with pytest.raises(BadSeal):
        check(seal().replace(b"AAAAAAAAAAAAAAAAAAAAAA", b64url(b"1" * 16)))


def test_a_member_after_mac_is_refused():
    with pytest.raises(MalformedLine, match="does not end with its mac"):
        check(seal()[:-1] + b',"x":1}')


def test_a_second_mac_inside_the_record_is_only_text():
    rec = json.dumps({"text": '","mac":"' + "A" * 43 + '"}'}, separators=(",", ":")).encode()
    assert check(seal(rec, b"later")).members["text"].startswith('","mac"')


def test_a_far_jump_costs_a_bounded_amount_of_work():
    line = seal().replace(b'"seq":0', b'"seq":9007199254740991')
    with pytest.raises(MalformedLine, match="too far ahead"):
        SealVerifier(KEYS).verify_seal(line, parse_frame(line))


@pytest.mark.parametrize(
    ("rec", "message"),
    [
        (b'{"a":1,"a":2}', "'a' is there twice"),
        (b'{"a":{"b":1,"b":1}}', "'b' is there twice"),
        (b'{"a":1.5}', "float"),
        (b'{"a":NaN}', "float"),
        (b'{"a":1e400}', "float"),
        (b'{"a":9007199254740992}', "beyond"),
        (b'{"a":-9007199254740992}', "beyond"),
        (b'{"a":"\\ud800"}', "surrogates"),
        (b'{"a":' * 8 + b"1" + b"}" * 8, "deeper than 8"),
        (b'{"a":' * 3000 + b"1" + b"}" * 3000, "recursion|deeper"),
        (b'{"a":1}{', "Extra data|Expecting"),
        (b'{"a":1},"x":{"b":2}', "Extra data"),
    ],
)
def test_a_record_that_is_not_strict_json_is_refused(rec, message):
    line = reseal(HEAD + rec)
    with pytest.raises(MalformedLine, match=message) as caught:
        check(line)
    assert caught.value.rule == "json"


@pytest.mark.parametrize(
    "broken",
    [
        {"principal": None}, {"principal": {"id": "x", "type": "robot", "auth": "none"}}, {"service": 1},
        {"http": {"method": "GET"}}, {"trace": {}}, {"attempt": -1}, {"defects": "x"},
    ],
)  # fmt: skip
def test_a_record_without_its_required_members_breaks_the_schema(broken):
    members = {**msgspec.to_builtins(record()), **broken}
    with pytest.raises(MalformedLine) as caught:
        check(seal(json.dumps(members, separators=(",", ":")).encode(), b"request"))
    assert caught.value.rule == "schema"


def test_another_producers_spelling_of_the_same_record_is_read_alike():
    members = msgspec.to_builtins(record(details={"a": [1, {"b": None}], "ü": "\u2028"}))
    reordered = dict(reversed(list({**members, "extra": 1}.items())))
    spelled = json.dumps(reordered, separators=(",", ":"), ensure_ascii=True).encode()
    assert check(seal(spelled, b"request")) == check(seal(encode_rec(record(details=members["details"])), b"request"))


def test_an_unlisted_type_of_a_later_version_is_read_as_members():
    assert check(seal(b'{"n":1}', b"later")).members == {"n": 1}


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=3)
    ),
    max_leaves=8,
)
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.decimals()
    | st.complex_numbers(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.integers() | st.text() | st.tuples(st.text()), inner) | st.sets(st.text())
    ),
)


@given(ANYTHING)
def test_whatever_an_application_puts_in_becomes_a_line_that_verifies(value):
    plainer = Plainer()
    details = plainer.value({"value": value}, "details")
    payload = check(seal(encode_rec(record(details=details, defects=plainer.defects or None)), b"request"))
    assert payload.service == "orders"


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), JSON, max_size=3))
def test_plain_values_pass_unchanged(value):
    plainer = Plainer()
    shallow = plainer.value(value, "details")
    if not plainer.defects:
        assert shallow == value


@pytest.mark.parametrize(
    ("value", "becomes"),
    [
        (math.nan, "nan"), (1.5, "1.5"), (2**53, "9007199254740992"), (-(2**60), "-1152921504606846976"),
        ({1: 2}, {"1": 2}), ("\ud800x", "?x"), (b"\x00", "b'\\x00'"), ({"a": {1}}, {"a": [1]}),
    ],
)  # fmt: skip
def test_what_is_not_plain_is_replaced_and_named(value, becomes):
    plainer = Plainer()
    assert plainer.value(value, "details") == becomes
    assert all(where.startswith("details") for where in plainer.defects)
    if becomes != {"a": [1]}:
        assert plainer.defects


def test_deep_nesting_cycles_and_masses_end():
    deep: dict = {}
    deep["self"] = deep
    plainer = Plainer()
    json.dumps(plainer.value(deep, "details"))
    assert plainer.defects
    wide = Plainer().value({"x": list(range(100_000))}, "details")
    assert len(wide["x"]) <= 2_001


def test_hostile_objects_do_not_raise():
    class Hostile(dict):
        def __iter__(self):
            raise RuntimeError

        def __str__(self):
            raise RuntimeError

    plainer = Plainer()
    assert plainer.value(Hostile(a=1), "details") == "unknown"
    assert plainer.value({"x": type("E", (), {"__str__": lambda self: 1 / 0})()}, "details") == {"x": "unknown"}


def test_lines_over_32_kib_are_cut_and_the_cut_is_named_with_the_hash_of_the_original():
    from hashlib import sha256

    text = "ä" * 40_000
    encoded = encode_rec(record(details={"note": text, "n": 1}, reason="r" * 2000))
    assert len(encoded) <= MAX_REC
    payload = check(seal(encoded, b"request"))
    cut = {item.field: item for item in payload.truncated}
    assert cut["details.note"].sha256 == sha256(text.encode()).hexdigest()
    assert cut["details.note"].bytes == 80_000
    assert payload.details["n"] == 1


def test_many_small_values_are_cut_as_a_whole():
    encoded = encode_rec(
        record(details={f"key{n}": n for n in range(1900)} | {f"k{n}" * 30: "v" * 100 for n in range(300)})
    )
    assert len(encoded) <= MAX_REC
    payload = check(seal(encoded, b"request"))
    assert payload.details is None
    assert payload.truncated[0].field == "details"


def test_long_member_names_that_begin_alike_stay_apart_and_are_named():
    details = {"k" * 2000 + str(number): number for number in range(30)}
    payload = msgspec.json.decode(encode_rec(record(details=details)))
    assert sorted(payload["details"].values()) == list(range(30))
    assert len(payload["truncated"]) >= 1


def test_the_longest_header_still_leaves_room():
    keys = parse_keys("k" * 32 + ":" + "A" * 43)
    longest = Sealer(keys, bytes(16))
    longest.seq = 2**22
    line = longest.seal(b"x" * 16, TS, b'{"a":"' + b"x" * (MAX_REC - 8) + b'"}')
    assert len(line) <= MAX_LINE


def test_time_stamps_cross_seconds():
    assert timestamp(1_700_000_000_999_999_999) == b"2023-11-14T22:13:20.999999Z"
    assert timestamp(1_700_000_001_000_000_000) == b"2023-11-14T22:13:21.000000Z"
    assert timestamp(0) == b"1970-01-01T00:00:00.000000Z"


def test_the_schema_names_every_required_member():
    schema = json_schema()["$defs"]["AuditRecord"]
    required = {"service", "principal", "source", "action", "outcome", "resource", "trace"}
    assert set(schema["required"]) == required
    assert set(json_schema()["$defs"]["Principal"]["required"]) == {"id", "type", "auth"}


def chain(count, given_up=()):
    """Lines of one stream; ``given_up`` are numbers the source left out by policy."""
    source, lines = sealer(), {}
    for seq in range(count):
        if seq in given_up:
            source.skip()
            continue
        lines[seq] = source.seal(b"event", TS, b'{"n":%d}' % seq)
        source.commit(lines[seq])
    return lines


def follow(lines, order):
    follower = StreamFollower("AAAAAAAAAAAAAAAAAAAAAA")
    steps = [follower.follow(parse_frame(lines[seq]), b64url(leaf_hash(lines[seq]))) for seq in order]
    return follower, steps


def test_lines_in_order_follow():
    follower, steps = follow(chain(5), range(5))
    assert steps == [Step.NEXT] * 5
    assert (follower.next, follower.gaps) == (5, [])


def test_missing_lines_are_a_gap_that_late_arrivals_fill():
    follower, steps = follow(chain(10), [0, 1, 6, 3, 7])
    assert steps[2:4] == [Step.GAP, Step.LATE]
    assert [(gap.first, gap.last) for gap in follower.gaps] == [(2, 2), (4, 5)]
    follower, _ = follow(chain(10), [0, 1, 6, 3, 7, 2, 5, 4])
    assert follower.gaps == []


def test_numbers_given_up_at_the_source_are_no_gap():
    follower, steps = follow(chain(8, given_up={3, 4}), [0, 1, 2, 5, 6, 7])
    assert steps[3] is Step.GIVEN_UP
    assert follower.gaps == []


@given(st.integers(4, 24), st.data())
def test_any_order_of_arrival_ends_without_gaps(count, data):
    """Whatever was given up at the source, once every line that was written has arrived nothing is missing."""
    given_up = data.draw(st.sets(st.integers(1, count - 2)))
    lines = chain(count, given_up)
    order = data.draw(st.permutations(sorted(lines)))
    follower, steps = follow(lines, order)
    assert follower.gaps == []
    assert not {Step.SEEN, Step.BROKEN} & set(steps)
    assert follower.next == count


def test_a_line_seen_before_does_not_move_the_stream():
    follower, steps = follow(chain(5), [0, 1, 2, 1])
    assert (steps[-1], follower.next) == (Step.SEEN, 3)


def test_a_line_that_does_not_link_is_broken():
    lines, other = chain(5), sealer()
    other.seq, other.prev = 2, b64url(bytes(32))
    forged = other.seal(b"event", TS, b"{}")
    follower, steps = follow({**lines, 2: forged}, [0, 1, 2])
    assert (steps[-1], follower.next) == (Step.BROKEN, 2)


def test_a_late_line_that_does_not_fit_its_gap_is_broken():
    lines = chain(5)
    follower, _ = follow(lines, [0, 1, 3])
    other = sealer()
    other.seq, other.prev = 2, parse_frame(lines[2]).prev
    forged = other.seal(b"event", TS, b'{"n":666}')
    assert follower.follow(parse_frame(forged), b64url(leaf_hash(forged))) is Step.BROKEN
    assert len(follower.gaps) == 1


@pytest.mark.parametrize("reached", [1, 63, 64, 65, 200])
def test_a_sealer_that_goes_on_with_a_stream_seals_what_the_first_one_would_have(reached):
    first, again = Sealer(KEYS, bytes(16)), None
    for number in range(reached + 70):
        line = first.seal(b"event", TS, b'{"n":%d}' % number)
        if number == reached:
            again = Sealer(KEYS, bytes(16), seq=first.seq, prev=first.prev)
        if again is not None:
            assert again.seal(b"event", TS, b'{"n":%d}' % number) == line
            again.commit(line)
        first.commit(line)
