"""What the time brings out: silence, lag, skew, spools, expected services, volume. Pure.

Every rule returns all that it sees at a moment, so that what it does not see any more is over.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

from audit_middleware.collector.monitor.clock import Now
from audit_middleware.collector.monitor.findings import SHOWN, Observation
from audit_middleware.collector.monitor.heard import Hearing, Service, Stream
from audit_middleware.collector.monitor.settings import MonitorSettings
from audit_middleware.record import COLLECTOR_SERVICE

STEADY_SECONDS: Final = 2.0
"""Delays of several deliveries that differ by less are a clock's, not a queue's."""

STEADY_SPAN: Final = 20.0
"""Seconds that those deliveries have to be apart."""

STEP_SHOWN_SECONDS: Final = 60.0

HOUR: Final = 3600
DAY: Final = 24
PAST_DAYS: Final = 14
FEWEST_DAYS: Final = 7
FEWEST_RECORDS: Final = 50
HEARD_SHARE: Final = 0.99
"""Part of an hour that this collector has to have listened for the hour to count."""


def silences(hearing: Hearing, now: Now) -> list[Observation]:
    """Return who is silent, each as widely as it is true: a service, one of its instances, or a stream.

    A stream that another process of its spool follows is not waited for: it is *unclosed* when it is silent. A service
    is down when nobody of it is left who speaks, and stays so until somebody does.
    """
    found: list[Observation] = []
    by_service: dict[str, list[Stream]] = defaultdict(list)
    for stream in hearing.streams.values():
        if not stream.is_closed and stream.service is not None:
            by_service[stream.service].append(stream)
    for name, service in hearing.services.items():
        awaited = [stream for stream in by_service.get(name, []) if not stream.is_given_up]
        quiet = [stream for stream in awaited if hearing.is_silent(stream, now)]
        silent = [stream for stream in quiet if stream.successor is None]
        if silent and len(quiet) == len(awaited):
            service.is_down = True
        if service.is_down:
            lost = [stream for stream in by_service.get(name, []) if stream.is_given_up or stream in quiet]
            found.append(_silence(f"service {name}", "service", lost, service.heard_at, name))
        elif silent:
            found += _silent_parts(name, awaited, silent)
    return found


def _silent_parts(service: str, awaited: list[Stream], silent: list[Stream]) -> Iterator[Observation]:
    by_instance: dict[str, list[Stream]] = defaultdict(list)
    for stream in silent:
        by_instance[stream.instance].append(stream)
    for instance, some in by_instance.items():
        if len(some) > 1 and len(some) == sum(stream.instance == instance for stream in awaited):
            heard_at = max(stream.heard_at for stream in some)
            yield _silence(f"instance {service} {instance}", "instance", some, heard_at, service)
        else:
            for stream in some:
                yield _silence(f"stream {stream.stream}", "stream", [stream], stream.heard_at, service)


def _silence(about: str, scope: str, silent: list[Stream], heard_at: str, service: str) -> Observation:
    evidence: dict[str, Any] = {
        "scope": scope,
        "last_heard": heard_at,
        "streams": [stream.stream for stream in silent][:SHOWN],
        "instances": sorted({stream.instance for stream in silent})[:SHOWN],
    }
    stream = silent[0].stream if scope == "stream" else None
    return Observation("silence", about, evidence, service, stream, "critical" if scope == "service" else None)


def given_up(hearing: Hearing, settings: MonitorSettings, now: Now) -> Iterator[Stream]:
    """Yield the streams that are *unclosed* from now on.

    One that another process of its spool follows is not waited for once it is silent; any other is, for longer.
    """
    for stream in hearing.streams.values():
        if stream.is_closed or stream.is_given_up or not hearing.is_silent(stream, now):
            continue
        silent_for = now.mono - max(stream.heard, hearing.since.mono)
        wait = max(settings.unclosed_seconds, settings.silence_of(stream.service))
        if stream.successor is not None or silent_for >= wait:
            yield stream


def lags(hearing: Hearing, settings: MonitorSettings, now: Now) -> list[Observation]:
    """Return the services whose newest lines come late, by more than this collector's own absence explains."""
    worst: dict[str, tuple[float, Stream]] = {}
    for stream in _fresh(hearing, now):
        delay = min(stream.delays[-1][1], stream.delays[-1][0] - hearing.since.mono)
        name = stream.service or ""
        if delay > settings.lag_seconds and not _is_steady(stream) and delay > worst.get(name, (0.0,))[0]:
            worst[name] = (delay, stream)
    return [
        Observation("lag", name, {"seconds": int(delay), "stream": stream.stream, "instance": stream.instance}, name)
        for name, (delay, stream) in worst.items()
    ]


def skews(hearing: Hearing, settings: MonitorSettings, now: Now) -> list[Observation]:
    """Return the instances whose clock is off: a line from the future, or a delay that never changes."""
    found = {}
    for stream in _fresh(hearing, now):
        delay = stream.delays[-1][1]
        if delay < -settings.skew_seconds or (_is_steady(stream) and delay > settings.skew_seconds):
            evidence = {"ahead_seconds": -round(delay), "instance": stream.instance, "stream": stream.stream}
            about = f"{stream.service} {stream.instance}"
            found[about] = Observation("skew", about, evidence, stream.service)
    return list(found.values())


class Step(NamedTuple):
    """The wall clock of this machine moved by ``seconds`` at a moment ``mono`` of the one that never steps."""

    mono: float
    seconds: float


def steps(step: Step, now: Now) -> Iterator[Observation]:
    """Yield the step of this collector's own clock, for a while: its times before and after do not compare."""
    if now.mono - step.mono < STEP_SHOWN_SECONDS:
        evidence = {"stepped_seconds": round(step.seconds)}
        yield Observation("skew", COLLECTOR_SERVICE, evidence, COLLECTOR_SERVICE)


def _fresh(hearing: Hearing, now: Now) -> Iterator[Stream]:
    """Yield the streams that were heard lately: of the others the delay says nothing any more."""
    for stream in hearing.streams.values():
        if stream.delays and not stream.is_given_up and not hearing.is_silent(stream, now):
            yield stream


def _is_steady(stream: Stream) -> bool:
    """Whether the delay is a clock's: it is the same every time, however far apart the deliveries are."""
    delays = [delay for _, delay in stream.delays]
    span = stream.delays[-1][0] - stream.delays[0][0]
    return span >= STEADY_SPAN and max(delays) - min(delays) < STEADY_SECONDS


def spools(hearing: Hearing, settings: MonitorSettings, now: Now) -> list[Observation]:
    """Return the instances whose last beat says that their spool is over the objective."""
    found = {}
    for stream in hearing.streams.values():
        is_over = stream.is_closed or stream.is_given_up or hearing.is_silent(stream, now)
        if stream.spool_bytes >= settings.spool_bytes and not is_over:
            evidence = {"bytes": stream.spool_bytes, "objective": settings.spool_bytes, "instance": stream.instance}
            about = f"{stream.service} {stream.instance}"
            found[about] = Observation("spool", about, evidence, stream.service)
    return list(found.values())


def missing_services(hearing: Hearing, settings: MonitorSettings) -> list[Observation]:
    """Return the expected services that were never heard, or whose streams have all said goodbye."""
    open_ = {stream.service for stream in hearing.streams.values() if not stream.is_closed}
    found = []
    for name in dict.fromkeys(settings.expected_services):
        service = hearing.services.get(name)
        if service is None:
            found.append(Observation("missing_service", name, {"last_heard": None}, name))
        elif name not in open_ and not service.is_down:
            evidence = {"last_heard": service.heard_at, "ended": "every stream was closed"}
            found.append(Observation("missing_service", name, evidence, name))
    return found


def volumes(hearing: Hearing, settings: MonitorSettings, now: Now) -> list[Observation]:
    """Return the services whose last whole hour is far below what is usual at this hour of the day.

    Usual is the second lowest count of this hour in the last `PAST_DAYS` days, so that one bad day, and the weekends,
    are in it; days on which this collector did not listen do not count. No opinion on fewer than `FEWEST_DAYS` of them.
    """
    hour = int(now.wall) // HOUR - 1
    if not _listened(hearing, hour):
        return []
    past = [each for day in range(1, PAST_DAYS + 1) if _listened(hearing, each := hour - day * DAY)]
    found = []
    for service in hearing.services.values():
        usual = _usual(service, past)
        count = service.hours.get(hour, 0)
        if usual is not None and count * 100 < usual * settings.volume_percent:
            evidence = {"hour": hour * HOUR, "records": count, "usual": usual}
            found.append(Observation("volume", service.service, evidence, service.service))
    return found


def _usual(service: Service, past: list[int]) -> int | None:
    """Return what is usual, None for a service that was not there often enough, or never says much."""
    since = min(service.hours, default=None)
    counts = sorted(service.hours.get(hour, 0) for hour in past if since is not None and hour >= since)
    if len(counts) < FEWEST_DAYS or counts[1] < FEWEST_RECORDS:
        return None
    return counts[1]


def _listened(hearing: Hearing, hour: int) -> bool:
    return hearing.hours.get(hour, 0.0) >= HOUR * HEARD_SHARE


def forget_hours(hearing: Hearing, now: Now) -> None:
    """Let go of counts that no rule looks at any more."""
    oldest = int(now.wall) // HOUR - (PAST_DAYS + 1) * DAY
    books: Iterable[dict[int, Any]] = [hearing.hours, *(service.hours for service in hearing.services.values())]
    for book in books:
        for hour in [hour for hour in book if hour < oldest]:
            del book[hour]
