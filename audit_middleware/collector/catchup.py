"""Bring the index to where the ledgers are: after a crash their tail, after its loss everything.

The seals were checked when the lines came; here the streams are followed again, in the order of the ledger, which
leads to the same states.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

from audit_middleware.collector.folder import DataFolder
from audit_middleware.collector.index import Index, remove
from audit_middleware.collector.index_rows import Entry, service_of
from audit_middleware.collector.index_seal import IndexSeal
from audit_middleware.collector.index_settings import SqliteSettings
from audit_middleware.collector.index_store import Aside, Batch, IndexStore
from audit_middleware.collector.ingest import OWN_SERVICE
from audit_middleware.collector.logs import FinishedLog, Log, Logs
from audit_middleware.collector.quarantine import Quarantine
from audit_middleware.collector.settings import CollectorSettings
from audit_middleware.collector.streams import Stream, Streams
from audit_middleware.collector_record import Quarantined
from audit_middleware.errors import ConfigurationError, MalformedLine, StorageError
from audit_middleware.record import Payload
from audit_middleware.sealing.parse import parse_rec
from audit_middleware.sealing.seal import Frame, leaf_hash, parse_frame
from audit_middleware.sealing.stream import Step
from audit_middleware.sealing.text import b64url
from audit_middleware.tlog.merkle import Frontier

CHUNK = 1000
PASSED_OVER = frozenset({"json", "schema"})
"""Reasons of lines with a good seal: their streams moved over them."""

Progress = Callable[[int, int], None]
"""Called with the entries that are indexed and those there are."""


def check_index(index: IndexStore, logs: Logs) -> int:
    """Return how many entries the index lacks.

    Raises `StorageError` when what it holds is not a prefix of these logs: it belongs to others, and must be rebuilt.
    """
    missing = 0
    for log in logs:
        size, root = index.standing(log.origin) or (0, None)
        if size > log.ledger.size:
            raise index.unusable(f"it holds {size} entries of {log.origin}, which has {log.ledger.size}")
        if root is not None and log.root(size) != root:
            raise index.unusable(f"it was made from another {log.origin}")
        missing += log.ledger.size - size
    if strangers := index.own_origins() - {log.origin for log in logs.all}:
        raise index.unusable(f"it names {min(strangers)}, which is not here")
    return missing


def catch_up(index: IndexStore, logs: Logs, quarantine: Quarantine, capacity: int, progress: Progress) -> None:
    """Index what the logs hold beyond the index. Raises `StorageError`, or `BadLedger` for a damaged entry."""
    done, total = 0, check_index(index, logs)
    for log in logs.all:
        if isinstance(log, FinishedLog):
            absorb(index, log, capacity)
            index.forget(log.origin)  # a crash may have come before that
            continue
        replay = _Replay(index, log, quarantine, capacity)
        for count in replay.run():
            done += count
            progress(done, total)
    index.flush()


def rebuild_index(settings: CollectorSettings, progress: Progress = lambda _done, _total: None) -> None:
    """Delete the index and make it again; no collector may have the data folder open.

    Raises `StorageError`, or whatever opening the logs raises.
    """
    if not (settings.data / "collector.json").is_file():
        raise StorageError(f"{settings.data} is no data folder of a collector: it has no collector.json")
    if not isinstance(settings.index, SqliteSettings):
        raise ConfigurationError(
            "several collectors share this index: stop them, run `audit-ready index migrate --anew`, start them again"
        )
    with DataFolder(settings) as folder, Logs(folder) as logs:
        remove(folder.index)
        index = Index(folder.index, IndexSeal(folder.seed))
        try:
            quarantine = Quarantine(folder.quarantine, settings.limits.quarantine_bytes)
            catch_up(index, logs, quarantine, settings.limits.streams_in_memory, progress)
        finally:
            index.close()


def absorb(index: IndexStore, log: FinishedLog, capacity: int) -> None:
    """Take the states of streams from what remains of an expired log, unless the index had them from its entries."""
    if index.standing(log.origin) is not None:
        return
    streams = Streams(index.load_stream, capacity, *index.stream_totals())
    every = log.manifest.streams
    for start in range(0, max(1, len(every)), capacity):
        some = every[start : start + capacity]
        with index.held(expired.stream for expired in some) as states:
            streams.refresh(states)
            for expired in some:
                streams.absorb(expired.stream, expired.service, expired.runs, is_closed=expired.closed)
            _put_finished(index, log, streams)
        streams.trim()


def _put_finished(index: IndexStore, log: FinishedLog, streams: Streams) -> None:
    index.flush()
    number = index.log_number(log.origin)
    index.put(Batch(number, log.origin, log.size, (), log.root, streams.take_moved()))
    index.flush()


class _Replay:
    """The tail of one log on its way into the index."""

    def __init__(self, index: IndexStore, log: Log, quarantine: Quarantine, capacity: int) -> None:
        self._index = index
        self._log = log
        self._quarantine = quarantine
        self._streams = Streams(index.load_stream, capacity, *index.stream_totals())
        self._asides: list[Aside] = []

    def run(self) -> Iterator[int]:
        """Index chunk by chunk; yield how many entries each had."""
        size, _ = self._index.standing(self._log.origin) or (0, b"")
        number = self._index.log_number(self._log.origin)
        frontier = Frontier.read(size, self._log.reader().nodes())
        lines = self._log.ledger.entries(size) if size < self._log.ledger.size else iter(())
        while chunk := list(islice(lines, CHUNK)):
            leaves = [leaf_hash(line) for line in chunk]
            parsed = [_parse(line) for line in chunk]
            frontier.extend(leaves)
            with self._index.held(_streams_of(parsed)) as held:
                self._streams.refresh(held)
                entries = [self._follow(*each, leaf) for each, leaf in zip(parsed, leaves, strict=True)]
                states, asides = self._streams.take_moved(), self._asides
                batch = Batch(number, self._log.origin, size, entries, frontier.root(), states, asides, chunk, leaves)
                self._index.put(batch._replace(is_replayed=True))
            self._asides = []
            size += len(chunk)
            self._trim()
            yield len(chunk)
        self._index.flush()

    def _follow(self, frame: Frame, payload: Payload, leaf: bytes) -> Entry:
        stream = self._move(frame, b64url(leaf))
        stream.service = stream.service or service_of(payload)
        self._pass_over(payload, stream)
        return Entry(stream.number, frame, payload)

    def _move(self, frame: Frame, leaf: bytes) -> Stream:
        stream = self._streams.find(frame.stream) or self._streams.fresh(frame.stream)
        if stream.follower.judge(frame, leaf) not in {Step.SEEN, Step.BROKEN}:
            self._streams.move(stream, frame, leaf)
        return stream

    def _pass_over(self, payload: Payload, speaker: Stream) -> None:
        """Follow a line that is in quarantine with a good seal; the collector's own record says that it is."""
        if not isinstance(payload, Quarantined) or {payload.service, speaker.service} != {OWN_SERVICE}:
            return
        if payload.reason not in PASSED_OVER or payload.state != "kept":
            return
        held = self._quarantine.read(payload.leaf)
        if held is None:
            return
        try:
            frame = parse_frame(held.line)
        except MalformedLine:
            return
        self._move(frame, payload.leaf.encode())
        self._asides.append(Aside(frame.stream, frame.seq, payload.leaf))

    def _trim(self) -> None:
        if self._streams.is_crowded:
            self._index.flush()
            self._streams.trim()


def _parse(line: bytes) -> tuple[Frame, Payload]:
    frame = parse_frame(line)
    return frame, parse_rec(line, frame)


def _streams_of(parsed: list[tuple[Frame, Payload]]) -> Iterator[str]:
    """Name the streams that these entries may move, those of lines in quarantine too."""
    for frame, payload in parsed:
        yield frame.stream
        if isinstance(payload, Quarantined) and payload.stream is not None:
            yield payload.stream


def report_every(seconds: float, clock: Callable[[], float], report: Progress) -> Progress:
    """Return a progress that calls ``report`` at most every ``seconds``, and at the end."""
    last = -seconds

    def progress(done: int, total: int) -> None:
        nonlocal last
        if done == total or clock() - last >= seconds:
            last = clock()
            report(done, total)

    return progress
