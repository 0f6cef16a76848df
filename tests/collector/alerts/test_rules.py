"""What is told to a sink, and when: against a real book of findings, with a clock that is set by hand."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_middleware.collector.alerts.rules import STEP_SECONDS, Announcer, Rules
from audit_middleware.collector.monitor.clock import Now
from audit_middleware.collector.monitor.findings import FindingBook, Observation, Undecided

REPEAT, INTERVAL = 3600.0, 30.0
PLAIN = Rules(severity="info", repeat_seconds=REPEAT, interval_seconds=INTERVAL)


class Site:
    """A book, an announcer and a receiver that believes what it is told."""

    def __init__(self, rules=PLAIN, told=None, book=None):
        self.book = book or FindingBook()
        self.rules = rules
        self.now = Now(1_800_000_000.0, 1000.0)
        self.announcer = Announcer(rules, "audit.test", told)
        self.received = []
        self.look()  # a sink that is new knows nothing of the past

    def see(self, about, kind="silence", severity=None):
        self.book.observe(Observation(kind, about, {"n": 1}, "orders", severity=severity), self.now.text)
        return self.book.find(kind, about)

    def end(self, about, kind="silence"):
        self.book.end(kind, about, self.now.text)

    def decide(self, about, state, kind="silence"):
        self.book.recall(self.book.decision(self.book.find(kind, about).id, state, "alice", "seen").reviewed())

    def pass_seconds(self, seconds):
        self.now = Now(self.now.wall + seconds, self.now.mono + seconds)

    def look(self, *, arrives=True, confirms=True):
        draft = self.announcer.draft(tuple(self.book), self.now)
        if draft is not None and arrives:
            self.received.append((self.now.mono, draft.message))
        if draft is not None and confirms:
            self.announcer.confirm(draft, self.now)
        return draft

    def changes(self):
        return [(each.change, each.finding.about) for _, message in self.received for each in message.news]

    def restart(self, *, remembers=True):
        self.announcer = Announcer(self.rules, "audit.test", self.announcer.told if remembers else None)


def test_a_finding_is_told_once_repeated_while_it_is_open_and_its_end_is_told():
    site = Site()
    site.see("a")
    site.look()
    for _ in range(10):
        site.pass_seconds(INTERVAL)
        site.see("a")
        site.look()
    assert site.changes() == [("opened", "a")]
    site.pass_seconds(REPEAT)
    site.look()
    site.pass_seconds(INTERVAL)
    site.end("a")
    site.look()
    assert site.changes() == [("opened", "a"), ("repeated", "a"), ("resolved", "a")]


def test_what_was_acknowledged_is_silent_until_it_ends():
    site = Site()
    site.see("a")
    site.look()
    site.decide("a", "acknowledged")
    for _ in range(100):
        site.pass_seconds(REPEAT)
        site.look()
    site.end("a")
    site.look()
    assert site.changes() == [("opened", "a"), ("acknowledged", "a"), ("resolved", "a")]


def test_an_occurrence_that_was_acknowledged_or_over_before_it_could_be_told_is_told_all_the_same():
    site = Site()
    site.see("a")
    site.look()
    for about in ("b", "c"):
        site.see(about)
    site.decide("b", "acknowledged")
    site.end("c")
    site.look()
    site.pass_seconds(INTERVAL)
    site.look()
    news = site.received[-1][1].news
    assert {(each.finding.about, each.change, each.is_first) for each in news} == {
        ("b", "acknowledged", True),
        ("c", "resolved", True),
    }


def test_the_next_occurrence_is_news_and_the_same_one_is_not():
    site = Site()
    for _ in range(3):
        site.see("a")
        site.look()
        site.pass_seconds(INTERVAL)
        site.end("a")
        site.look()
        site.pass_seconds(INTERVAL)
    assert site.changes() == [("opened", "a"), ("resolved", "a")] * 3


def test_severity_and_kinds_decide_who_is_told_and_a_finding_that_becomes_graver_is_told_then():
    site = Site(PLAIN._replace(severity="critical", kinds=frozenset({"silence"})))
    site.see("a", severity="warning")
    site.see("t", kind="tampering")
    site.look()
    assert site.received == []
    site.see("a", severity="critical")
    site.look()
    assert site.changes() == [("opened", "a")]


def test_a_finding_that_becomes_graver_is_told_again_at_once():
    site = Site()
    site.see("a", severity="warning")
    site.look()
    site.pass_seconds(INTERVAL)
    site.see("a", severity="critical")
    site.look()
    assert site.changes() == [("opened", "a"), ("repeated", "a")]


def test_ten_thousand_findings_make_two_messages_and_the_gravest_are_named():
    site = Site()
    site.see("first")
    site.look()
    for number in range(10_000):
        site.see(str(number), severity="critical" if number >= 9_990 else "warning")
        site.look()
    site.pass_seconds(INTERVAL)
    site.look()
    assert len(site.received) == 2
    _, message = site.received[1]
    assert len(message.news) == PLAIN.named - 1
    assert sum(each.finding.severity == "critical" for each in message.news) == 10
    (crowd,) = message.crowds
    assert (crowd.opened, crowd.open) == (10_000 - len(message.news),) * 2
    for number in range(10_000):
        site.end(str(number))
    for _ in range(5):
        site.pass_seconds(INTERVAL)
        site.look()
    resolved = [crowd for _, message in site.received[2:] for crowd in message.crowds]
    assert (sum(each.resolved for each in resolved), resolved[-1].open, resolved[-1].unresolved) == (9_981, 0, 0)
    assert len(site.received) <= 4


def test_the_end_of_a_finding_that_the_book_forgot_is_told():
    site = Site()
    site.see("a")
    site.look()
    site.book = FindingBook()
    site.pass_seconds(INTERVAL)
    site.look()
    site.pass_seconds(INTERVAL)
    site.look()
    assert site.changes() == [("opened", "a"), ("resolved", "a")]


def test_nothing_is_told_twice_after_a_restart_and_nothing_is_lost():
    site = Site()
    site.see("a")
    site.see("b")
    site.look()
    site.end("b")
    site.see("c")
    site.restart()
    site.look()
    assert sorted(site.changes()[2:]) == [("opened", "c"), ("resolved", "b")]


def test_without_its_memory_open_findings_are_told_again_and_the_past_is_not():
    site = Site()
    for about in ("a", "b", "c"):
        site.see(about)
    site.look()
    site.end("b")
    site.decide("c", "acknowledged")
    site.restart(remembers=False)
    site.look()
    assert site.changes()[3:] == [("opened", "a")]
    site.end("c")
    site.pass_seconds(INTERVAL)
    site.look()
    assert site.changes()[4:] == [("resolved", "c")]


@pytest.mark.parametrize("step", [-100_000.0, -STEP_SECONDS / 2, 100_000.0])
def test_a_clock_that_is_set_costs_one_repetition_at_most(step):
    site = Site()
    site.see("a")
    site.look()
    site.now = Now(site.now.wall + step, site.now.mono + 1)
    for _ in range(40):
        site.pass_seconds(INTERVAL)
        site.look()
    assert len(site.changes()) <= 2


def test_a_message_that_is_sent_again_has_the_same_id_and_one_that_says_more_has_another():
    site = Site()
    site.see("a")
    lost = site.look(confirms=False)
    again = site.look(confirms=False)
    assert lost.message.id == again.message.id
    site.see("b")
    more = site.look()
    assert more.message.id != lost.message.id
    assert lost.message.news[0].id in {each.id for each in more.message.news}


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("see"), st.sampled_from("abcdef"), st.sampled_from(["critical", "warning", "info"])),
        st.tuples(st.just("end"), st.sampled_from("abcdef")),
        st.tuples(st.sampled_from(["acknowledged", "resolved"]), st.sampled_from("abcdef")),
        st.tuples(st.just("pass"), st.sampled_from([1.0, INTERVAL, REPEAT])),
        st.tuples(st.just("restart")),
        st.tuples(st.just("look"), st.booleans(), st.booleans()),
    ),
    max_size=60,
)


def play(site, steps):
    for step, *arguments in steps:
        if step == "see":
            site.see(arguments[0], severity=arguments[1])
        elif step == "end":
            site.end(arguments[0])
        elif step in {"acknowledged", "resolved"}:
            try:
                site.decide(arguments[0], step)
            except (Undecided, AttributeError):  # there is no such finding, or it is beyond that
                continue
        elif step == "pass":
            site.pass_seconds(arguments[0])
        elif step == "restart":
            site.restart()
        else:
            arrives, confirms = arguments
            site.look(arrives=arrives or confirms, confirms=confirms)


@settings(max_examples=300, deadline=None)
@given(STEPS, st.integers(min_value=1, max_value=4))
def test_in_the_end_the_receiver_knows_what_is_open_whatever_was_lost(steps, named):
    site = Site(PLAIN._replace(named=named))
    play(site, steps)
    site.pass_seconds(INTERVAL)
    site.look()
    told = site.announcer.told
    assert {id_: (each.finding.occurrence, each.finding.state) for id_, each in told.items()} == {
        each.id: (each.occurrence, each.state) for each in site.book
    }
    assert sum(each.is_named and each.finding.state != "resolved" for each in told.values()) <= named
    crowded = [each.finding for each in told.values() if not each.is_named]
    last = {}
    for _, message in site.received:
        last |= {crowd.kind: crowd for crowd in message.crowds}
    if crowded:
        assert last["silence"].open == sum(each.state == "open" for each in crowded)


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_nothing_is_told_twice_by_a_receiver_that_confirms_and_no_more_often_than_agreed(steps):
    site = Site(PLAIN._replace(named=100))
    play(site, [step for step in steps if step[0] not in {"look", "restart"} or step[0] == "restart"])
    for step in steps:
        play(site, [step if step[0] != "look" else ("look", True, True)])
    said = [(each.change, each.finding.id, each.finding.occurrence) for _, m in site.received for each in m.news]
    once = [each for each in said if each[0] != "repeated"]
    assert len(once) == len(set(once))
    ids = [each.id for _, message in site.received for each in message.news]
    assert len(ids) == len(set(ids))
    acknowledged = set()
    for _, message in site.received:
        for each in message.news:
            key = (each.finding.id, each.finding.occurrence)
            assert not (each.change == "repeated" and key in acknowledged)
            if each.change in {"acknowledged", "resolved"}:
                acknowledged.add(key)


@settings(max_examples=200, deadline=None)
@given(STEPS.map(lambda steps: [step for step in steps if step[0] != "restart"]))
def test_between_two_messages_is_the_interval(steps):
    site = Site()
    play(site, [step if step[0] != "look" else ("look", True, True) for step in steps])
    times = [at for at, _ in site.received]
    assert all(after - before >= INTERVAL for before, after in pairwise(times))


class OneOfTwo:
    """Two collectors whose monitors share a book; the first one tells."""

    def __init__(self):
        self.sites = [Site(told={}), Site(told={})]
        self.sites[1].book = self.sites[0].book
        self.teller = 0
        for number, site in enumerate(self.sites):
            site.announcer = Announcer(PLAIN, "audit.test", {}, lambda _, number=number: number == self.teller)

    def look(self):
        for site in self.sites:
            site.pass_seconds(INTERVAL)
            site.look()

    def changes(self):
        return [site.changes() for site in self.sites]


def test_of_collectors_that_share_an_index_one_tells_and_the_next_tells_again_what_is_open():
    two = OneOfTwo()
    two.sites[0].see("past")
    two.look()
    two.sites[0].end("past")
    two.look()
    two.sites[0].see("a")
    two.look()
    told = [("opened", "past"), ("resolved", "past"), ("opened", "a")]
    assert two.changes() == [told, []]
    two.teller = 1
    two.look()
    assert two.changes() == [told, [("opened", "a")]]


def test_an_end_that_comes_while_nobody_tells_is_told_by_whoever_told_the_beginning():
    two = OneOfTwo()
    two.sites[0].see("a")
    two.look()
    two.teller = None
    two.sites[0].end("a")
    two.look()
    two.teller = 1
    two.look()
    assert two.changes() == [[("opened", "a"), ("resolved", "a")], []]
