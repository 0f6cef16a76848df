"""Several monitors on one index: who hears what, who watches, whose absence is known; a simulated index that fails."""

import threading
import time

import pytest

from audit_middleware.collector.index_store import OtherLine, OtherLog, Presence
from audit_middleware.collector.monitor.clock import Now
from audit_middleware.collector.monitor.findings import Finding, FindingBook, Observation
from audit_middleware.collector.monitor.fleet import FRESH_SECONDS, Fleet
from audit_middleware.collector.monitor.peers import AWAY_SECONDS, Peers
from audit_middleware.collector.monitor.said import on_gap_now
from audit_middleware.collector.monitor.settings import MonitorSettings
from audit_middleware.errors import StoreUnavailable
from tests.collector.kit import App

LOG = OtherLog(7, "two.test/default/2026H2", "two.test", 3)
NOW = Now(time.time(), 1000.0)
WHEN = NOW.text


class Simulated:
    """An index that others share; `away` says that it answers nothing."""

    def __init__(self, lines=()):
        self.lines = list(lines)
        self.away = False
        self.is_free = True
        self.met = []

    def meet(self, mine):
        self._answer()
        self.met.append(mine)
        return {"two.test": Presence(1, False)}

    def logs(self):
        self._answer()
        return [LOG._replace(size=len(self.lines))]

    def lives(self, log, first):
        self._answer()
        return [OtherLine(at, line) for at, line in enumerate(self.lines[: log.size]) if at >= first][:2]

    def missing(self, stream):
        self._answer()
        return [(3, 4)]

    def claim(self, *, wants):
        self._answer()
        return wants and self.is_free

    def close(self):
        pass

    def _answer(self):
        if self.away:
            raise StoreUnavailable("away")


def hear(fleet, sizes, *, heard_for=100.0, is_listening=True, is_last=False):
    told = fleet.listen(sizes, NOW, heard_for, is_listening=is_listening, is_last=is_last, stopping=threading.Event())
    return list(told)


def finding(kind, log=None):
    book = FindingBook()
    book.observe(Observation(kind, "it", {"log": log} if log else {}), WHEN)
    (found,) = book
    return found


def test_every_line_of_others_is_heard_once_page_by_page():
    app = App()
    lines = [*app.lines, app.say("close", COUNTERS)]
    index, sizes = Simulated(lines * 2), {}
    fleet = Fleet(index)
    groups = [told.group for told in hear(fleet, sizes)]
    assert [[frame.type for frame, _ in group.lives] for group in groups] == [["open", "close"]] * 2
    assert sizes == {LOG.origin: 4}
    assert hear(fleet, sizes) == []


COUNTERS = {"service": "orders", "monotonic_us": 1, "seen": 1, "recorded": 1, "dropped": 0, "spool_bytes": 0}


def test_a_line_that_was_changed_in_the_index_is_evidence_of_that_and_not_heard():
    index = Simulated([None, *App().lines])
    (told,) = hear(Fleet(index), {})
    assert [frame.type for frame, _ in told.group.lives] == ["open"]
    (altered,) = told.altered
    assert (altered.kind, altered.about, altered.evidence["first"]) == ("tampering", f"index of {LOG.origin}", 0)


def test_one_that_listens_for_a_moment_or_takes_nothing_does_not_watch():
    fleet = Fleet(Simulated())
    hear(fleet, {}, heard_for=FRESH_SECONDS - 1)
    assert not fleet.is_watching
    hear(fleet, {}, heard_for=FRESH_SECONDS)
    assert fleet.is_watching
    hear(fleet, {}, heard_for=0.0)
    assert fleet.is_watching
    hear(fleet, {}, is_listening=False)
    assert not fleet.is_watching


def test_one_that_commits_nothing_watches_if_nobody_else_is_there_to():
    fleet = Fleet(Simulated())
    assert hear(fleet, {}, is_listening=False, is_last=True) == []
    assert fleet.is_watching
    hear(fleet, {}, is_listening=False)
    assert not fleet.is_watching


def test_without_the_index_nobody_watches_and_nothing_is_known_of_gaps():
    index = Simulated()
    fleet = Fleet(index)
    hear(fleet, {})
    assert (fleet.is_watching, fleet.is_hearing, fleet.missing("s")) == (True, True, [(3, 4)])
    index.away = True
    hear(fleet, {})
    assert (fleet.is_watching, fleet.is_hearing, fleet.missing("s")) == (False, False, None)
    index.away = False
    hear(fleet, {})
    assert (fleet.is_watching, fleet.is_hearing) == (True, True)


def test_a_collector_that_ends_says_goodbye_and_one_that_takes_nothing_keeps_silent():
    index = Simulated()
    fleet = Fleet(index)
    hear(fleet, {}, is_listening=False)
    hear(fleet, {})
    fleet.end(NOW)
    assert [each if each is None else each.is_closed for each in index.met] == [None, False, True]


@pytest.mark.parametrize("is_free", [True, False])
def test_what_is_found_in_a_store_its_collector_tells_and_of_the_rest_who_watches(is_free):
    index = Simulated()
    index.is_free = is_free
    fleet = Fleet(index)
    hear(fleet, {})
    assert fleet.tells(finding("gap")) == is_free
    assert fleet.tells(finding("tampering", "one.test/default/2026H2"))
    assert not fleet.tells(finding("tampering", LOG.origin))


def test_alone_a_monitor_tells_everything():
    fleet = Fleet(None)
    assert hear(fleet, {}) == []
    assert fleet.is_watching
    assert fleet.missing is None
    assert fleet.tells(finding("gap"))
    assert fleet.tells(finding("tampering", LOG.origin))


def test_a_collector_is_away_when_it_says_nothing_new_and_back_when_it_does():
    peers = Peers(MonitorSettings(silence_seconds=30.0))
    at = lambda seconds: Now(NOW.wall + seconds, NOW.mono + seconds)  # noqa: E731 - a moment
    said = {"two.test": Presence(1, False)}
    assert peers.meet(said, at(0)) == []
    assert peers.meet(said, at(AWAY_SECONDS)) == []
    assert peers.meet(said, at(AWAY_SECONDS + 1)) == ["two.test"]
    assert peers.meet(said, at(29)) == []
    assert peers.absences(at(29)) == []
    (absent,) = peers.absences(at(30))
    assert (absent.kind, absent.about, absent.service) == ("silence", "collector two.test", "audit-collector")
    assert peers.are_away
    assert peers.meet({"two.test": Presence(2, False)}, at(31)) == ["two.test"]
    assert peers.absences(at(31)) == []
    assert not peers.are_away
    assert not Peers(MonitorSettings()).are_away


def test_a_collector_that_said_goodbye_is_not_waited_for_but_its_streams_get_time():
    peers = Peers(MonitorSettings())
    peers.meet({"two.test": Presence(1, False)}, NOW)
    assert peers.meet({"two.test": Presence(2, True)}, NOW) == ["two.test"]
    assert peers.absences(Now(NOW.wall + 999, NOW.mono + 999)) == []


def test_a_gap_is_what_the_index_lacks_in_whatever_order_it_is_told():
    book = FindingBook()
    assert on_gap_now(book, "s", [], "orders", WHEN) == []
    assert [each.change for each in on_gap_now(book, "s", [(3, 4), (9, 9)], "orders", WHEN)] == ["opened"]
    assert on_gap_now(book, "s", [(3, 3)], "orders", WHEN) == []
    assert book.find("gap", "s").evidence == {"missing": [[3, 3]], "lines": 1}
    assert [each.change for each in on_gap_now(book, "s", [], "orders", WHEN)] == ["resolved"]
    assert on_gap_now(book, "s", [], "orders", WHEN) == []
    assert book.unsaid == {}


def test_what_another_collector_put_on_record_need_not_be_said_again():
    mine, other = FindingBook(), FindingBook()
    for book in (mine, other):
        book.observe(Observation("drop", "s", {"records": 1}), WHEN)
    decided = other.decision(next(iter(other)).id, "acknowledged", "ops", None)
    mine.follow(decided.reviewed())
    assert mine.unsaid == {}
    assert [each.change for each in mine.recall(decided.reviewed())] == ["acknowledged"]
    found: Finding = mine.find("drop", "s")
    assert (found.state, found.acknowledged_by) == ("acknowledged", "ops")


def test_a_collector_that_was_away_before_is_found_again_before_its_absence_could_seem_over():
    settings = MonitorSettings(settle_seconds=45.0, silence_by_service={"audit-collector": 90.0})
    peers = Peers(settings)
    peers.meet({"two.test": Presence(1, False)}, NOW)
    assert len(peers.absences(Now(NOW.wall + 45, NOW.mono + 45))) == 1
    peers.meet({"two.test": Presence(2, False)}, NOW)
    assert peers.absences(Now(NOW.wall + 45, NOW.mono + 45)) == []
    assert len(peers.absences(Now(NOW.wall + 90, NOW.mono + 90))) == 1
