"""A real collector without its monitor's threads, a `Watch` that is told of its commits, and a clock that is set by hand."""

from __future__ import annotations

import time

from audit_middleware.collector.auth import OPEN_DOOR
from audit_middleware.collector.collector import Collector
from audit_middleware.collector.group import Batch, Said
from audit_middleware.collector.monitor.clock import Now, spell
from audit_middleware.collector.monitor.heard import group_of
from audit_middleware.collector.monitor.settings import MonitorSettings
from audit_middleware.collector.monitor.watch import Watch
from audit_middleware.collector.monitoring import StreamFinder
from tests.collector.kit import OPEN, App, name_of, settings_for

COUNTERS = {"monotonic_us": 1, "seen": 1, "recorded": 1, "dropped": 0, "spool_bytes": 0}
BEAT_SECONDS = 10


class Stand:
    """The collector, the watch and the clock; `moved` collects every transition."""

    def __init__(self, folder, **monitor):
        self.settings = MonitorSettings(**monitor)
        self.collector = Collector(settings_for(folder, monitor=MonitorSettings(enabled=False))).open()
        self._opened = self.collector._opened
        self.finder = StreamFinder(self._opened.index)
        self.now = Now(time.time(), 1000.0)
        self.moved = []
        self.apps = []
        self._opened.desk.clock = lambda: self.now.wall
        self._opened.desk.on_commit = self._hear
        self.watch = Watch(self.settings, self.finder, self.now)
        self.is_listening = lambda: True

    def close(self):
        self.finder.close()
        self.collector.close()

    def _hear(self, committed):
        self.moved += self.watch.hear(group_of(committed.entries), self.now)
        self.moved += self.watch.judge(committed.entries, self.now)

    def restart(self, *, remembers=True, down=0):
        """Another process life of the watch, after ``down`` seconds, whose monotonic clock begins anew."""
        state = self.watch.remember() if remembers else None
        self.now = Now(self.now.wall + down, 50.0)
        self.watch = Watch(self.settings, self.finder, self.now, state)

    def deliver(self, *lines, caller=OPEN_DOOR):
        return self.collector.deliver(lines, caller)

    def say_all(self):
        """Put what the watch has to say on record."""
        unsaid = list(self.watch.book.unsaid.values())
        batch = Batch([], OPEN_DOOR, said=[Said("review", finding.reviewed()) for finding in unsaid])
        self._opened.committer.submit(batch)
        batch.done.result(5)

    def app(self, **opened):
        """An application whose lines carry the time of this stand; its `open` is delivered."""
        app = Live(self, **opened)
        self.apps.append(app)
        return app

    def pass_seconds(self, seconds, *, beating=(), step=1):
        """Let time pass, second by second; the apps in ``beating`` beat as processes do."""
        for passed in range(1, int(seconds / step) + 1):
            self.now = Now(self.now.wall + step, self.now.mono + step)
            if passed * step % BEAT_SECONDS == 0:
                for app in beating:
                    app.beat()
            self.moved += self.watch.tick(self.now, is_listening=self.is_listening())

    def jump(self, seconds):
        """Nothing runs for a while: the machine sleeps, or the process is stopped."""
        self.now = Now(self.now.wall + seconds, self.now.mono + seconds)
        self.moved += self.watch.tick(self.now)

    def set_clock(self, seconds):
        """Somebody sets the wall clock of this host."""
        self.now = Now(self.now.wall + seconds, self.now.mono)

    def findings(self, kind=None, state=None):
        return [each for each in self.watch.book if kind in (None, each.kind) and state in (None, each.state)]

    def one(self, kind, state="open"):
        (found,) = self.findings(kind)
        assert found.state == state, found
        return found

    def kinds(self, state="open"):
        return sorted(each.kind for each in self.findings(state=state))


class Live(App):
    """An application that speaks at the stand's time."""

    def __init__(self, stand, *, skew=0.0, service="orders", deliver=True, keyring=None, **opened):
        self.stand = stand
        self.skew = skew
        super().__init__(*([keyring] if keyring else []), service=service, opened=False)
        line = self.say("open", {"service": service} | OPEN | opened)
        if deliver:
            stand.deliver(line)

    def seal(self, type_, rec, ts=None):
        return super().seal(type_, rec, ts or spell(self.stand.now.wall + self.skew))

    def beat(self, type_="beat", *, deliver=True, **changes):
        line = self.say(type_, {"service": self.service} | COUNTERS | changes)
        if deliver:
            self.stand.deliver(line)
        return line

    def work(self, count=1):
        lines = [self.request() for _ in range(count)]
        self.stand.deliver(*lines)
        return lines

    def head(self, *, closed=False):
        return {"stream": self.stream, "seq": len(self.lines) - 1, "leaf": name_of(self.lines[-1])} | (
            {"closed": True} if closed else {}
        )
