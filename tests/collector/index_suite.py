"""What every index answers, whichever it is: the same operations on a list of Python's give the same."""

import os
from typing import NamedTuple

import msgspec
from hypothesis import strategies as st

from audit_middleware.collector.index_rows import Entry, entry_id
from audit_middleware.collector.index_store import Aside, Batch
from audit_middleware.collector.query import parse_query
from audit_middleware.collector.streams import StreamState
from audit_middleware.sealing.parse import parse_rec
from audit_middleware.sealing.seal import Sealer, leaf_hash, parse_frame
from audit_middleware.sealing.text import timestamp
from tests.collector.kit import KEYRING, rec_of

BEGAN = 1_795_500_000
LOGS = ("one.test/default/2026h2", "one.test/pci/2026h2", "one.test/default/2027h1")


class Said(NamedTuple):
    """One line: its second, who, what, to which resource."""

    second: int
    principal: str
    action: str
    resource: str
    outcome: str


SAID = st.builds(
    Said,
    st.integers(0, 30),
    st.sampled_from(("alice", "bob", "a\0b", "x" * 3000)),
    st.sampled_from(("orders.read", "orders.refund")),
    st.sampled_from(("41", "42", "43")),
    st.sampled_from(("success", "denied")),
)
COMMITS = st.lists(st.tuples(st.sampled_from(LOGS), st.lists(SAID, min_size=1, max_size=12)), min_size=1, max_size=8)
FILTERS = ("principal", "action", "resource", "outcome")


@st.composite
def questions(draw):
    """Parameters of a search."""
    like = draw(SAID)
    asked = {name: getattr(like, name) for name in draw(st.sets(st.sampled_from(FILTERS)))}
    for name in draw(st.sets(st.sampled_from(("from", "to")))):
        asked[name] = moment(draw(st.integers(0, 31)))
    return asked | {"limit": str(draw(st.sampled_from((1, 3, 100))))}


def moment(second):
    return timestamp((BEGAN + second) * 10**9).decode()


class Model:
    """An index, and beside it the list of all that it was told."""

    def __init__(self, index):
        self.index = index
        self.rows = []
        self.numbers, self.sizes, self.roots = {}, {}, {}
        self.sealer = Sealer(KEYRING, os.urandom(16))
        self.number = next(index.stream_totals().numbers)
        self.state = None
        self.places = {}

    def commit(self, origin, said):
        index = self.index
        if origin not in self.numbers:
            self.numbers[origin] = index.log_number(origin)
        number, first = self.numbers[origin], self.sizes.get(origin, 0)
        lines = [self.seal(each) for each in said]
        frames = [parse_frame(line) for line in lines]
        entries = [Entry(self.number, frame, parse_rec(line, frame)) for line, frame in zip(lines, frames, strict=True)]
        sealer, self.roots[origin] = self.sealer, os.urandom(32)
        self.state = StreamState(self.number, sealer.stream, "orders", sealer.seq, sealer.prev.decode(), "[]", 0, 0)
        with index.held([sealer.stream]):
            batch = Batch(number, origin, first, entries, self.roots[origin], [self.state], [], lines)
            index.put(batch._replace(leaves=[leaf_hash(line) for line in lines]))
        index.flush()
        for at, (one, frame) in enumerate(zip(said, frames, strict=True), first):
            self.rows.append(((BEGAN + one.second) * 10**6, entry_id(number, at), origin, one))
            self.places[frame.seq] = (number, at)
        self.sizes[origin] = first + len(lines)

    def seal(self, said):
        principal = {"id": said.principal, "type": "user", "auth": "bearer"}
        resource = {"type": "order", "id": said.resource}
        rec = rec_of(principal=principal, action=said.action, resource=resource, outcome=said.outcome)
        rec = msgspec.json.encode(rec)
        line = self.sealer.seal(b"request", timestamp((BEGAN + said.second) * 10**9), rec)
        self.sealer.commit(line)
        return line

    def expected(self, asked, before=None):
        wanted = [
            (ts, number, origin)
            for ts, number, origin, said in self.rows
            if all(getattr(said, name) == asked[name] for name in FILTERS if name in asked)
            and asked.get("from", "") <= moment(said.second) < asked.get("to", "9")
            and (before is None or (ts, number) < before)
        ]
        return sorted(wanted, reverse=True)[: int(asked["limit"]) + 1]

    def asked(self, asked, before=None):
        items = asked | ({"cursor": f"{before[0]}.{before[1]}"} if before else {})
        return [hit[:3] for hit in self.index.select(parse_query(items.items()))]

    def check(self, questions):
        for asked in questions:
            found = self.asked(asked)
            assert found == self.expected(asked)
            if found:
                before = found[-1][:2]
                assert self.asked(asked, before) == self.expected(asked, before)
        for origin, number in self.numbers.items():
            assert self.index.standing(origin) == (self.sizes[origin], self.roots[origin])
            assert self.index.log_number(origin) == number
        assert self.index.load_stream(self.sealer.stream) == self.state
        for seq, place in self.places.items():
            assert self.index.locate(self.sealer.stream, seq)[:2] == place
        assert self.index.locate(self.sealer.stream, self.sealer.seq) is None

    def forget(self, origin):
        """Its rows go, where it and the stream stand is kept."""
        self.index.forget(origin)
        number = self.numbers[origin]
        self.rows = [each for each in self.rows if each[2] != origin]
        self.places = {seq: place for seq, place in self.places.items() if place[0] != number}


def run(index, commits, asked):
    """Tell an index of commits, ask it after each half, have it forget a log, ask again."""
    model = Model(index)
    assert index.stream_totals()[1:] == (0, 0)
    for half in (commits[: len(commits) // 2], commits[len(commits) // 2 :]):
        for origin, said in half:
            model.commit(origin, said)
        if model.state is not None:
            model.check(asked)
    assert index.stream_totals()[1:] == (0, 1)
    assert index.own_origins() == set(model.numbers)
    model.forget(commits[0][0])
    model.check(asked)


def set_aside(index):
    """A line that was set aside is known by its place, as it was told first."""
    model = Model(index)
    model.commit(LOGS[0], [Said(0, "alice", "orders.read", "42", "success")])
    stream = model.sealer.stream
    for leaf in ("first", "second"):
        first = model.sizes[LOGS[0]]
        batch = Batch(model.numbers[LOGS[0]], LOGS[0], first, (), b"r" * 32, asides=[Aside(stream, 7, leaf)])
        with index.held([stream]):
            index.put(batch)
        index.flush()
    assert index.aside(stream, 7) == "first"
    assert index.aside(stream, 8) is None
