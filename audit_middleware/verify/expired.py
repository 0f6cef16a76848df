"""What remains of a log whose entries have expired: checkpoints, upper tiles, and what was there of each stream.

The file ``expired`` in the log's folder is written before the entries go; a ``retention`` record in the collector's
own stream carries its hash. One line says which log, then one line for each stream, in order of their ids.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from typing import Final, NamedTuple

import msgspec

from audit_middleware.collector_record import Retained
from audit_middleware.errors import BadLedger
from audit_middleware.record import COLLECTOR_CLASS, Count, LeafHash, StreamId
from audit_middleware.sealing.seal import Frame
from audit_middleware.sealing.stream import Segment, Step, StreamFollower
from audit_middleware.tlog.encoding import to_base64
from audit_middleware.tlog.reader import LogReader, check_remains
from audit_middleware.verify.lines import LineVerifier, StreamSeen
from audit_middleware.verify.report import Severity

FILE: Final = "expired"
MAX_FILE: Final = 256 * 1024 * 1024


class ExpiredLog(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The first line: which log it was, and the tree it had."""

    v: int
    origin: str
    size: Count
    root: str


class ExpiredStream(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the log held of one stream; ``segments`` are first, last, prev of the first, leaf of the last."""

    stream: StreamId
    service: str
    opened_by: str | None
    closed: bool
    segments: list[tuple[Count, Count, LeafHash, LeafHash]]

    @property
    def runs(self) -> list[Segment]:
        """The segments, to be followed."""
        return [Segment(first, last, prev.encode(), leaf.encode()) for first, last, prev, leaf in self.segments]


class Manifest(msgspec.Struct, frozen=True):
    """The file, parsed; ``digest`` is the SHA-256 of its bytes in hex."""

    log: ExpiredLog
    streams: list[ExpiredStream]
    digest: str


def order_of(path: str) -> tuple[str, bool, str]:
    """Return what logs are sorted by: half-year, and the collector's own first, for it speaks of the others'."""
    class_, _, period = path.rpartition("/")
    return period, class_ != COLLECTOR_CLASS, class_


_log_decoder: Final = msgspec.json.Decoder(ExpiredLog)
_stream_decoder: Final = msgspec.json.Decoder(ExpiredStream)
_encoder: Final = msgspec.json.Encoder()


def encode_manifest(log: ExpiredLog, streams: Iterable[ExpiredStream]) -> bytes:
    """Return the bytes of an ``expired`` file."""
    lines = [log, *sorted(streams, key=lambda stream: stream.stream)]
    return b"".join(_encoder.encode(line) + b"\n" for line in lines)


def parse_manifest(data: bytes) -> Manifest:
    """Read an ``expired`` file; raise `BadLedger` for anything that is none."""
    first, _, rest = data.partition(b"\n")
    try:
        log = _log_decoder.decode(first)
        streams = [_stream_decoder.decode(line) for line in rest.splitlines()]
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadLedger(f"is no list of what has expired: {error}", where=FILE) from error
    if log.v != 1:
        raise BadLedger(f"has version {log.v}, this program knows version 1", where=FILE)
    return Manifest(log, streams, sha256(data).hexdigest())


class _Remains(NamedTuple):
    name: str
    manifest: Manifest


class ExpiredLogs:
    """Follows streams over logs whose entries have expired, and asks on which record they went."""

    def __init__(self, lines: LineVerifier, *, is_part: bool) -> None:
        self._lines = lines
        self._is_part = is_part
        self._remains: list[_Remains] = []
        self._records: dict[str, list[tuple[Retained, Frame]]] = {}

    def take(self, name: str, reader: LogReader, data: bytes) -> None:
        """Check what remains of a log; raise `BadLedger` for what does not lead to its checkpoint."""
        manifest, checkpoint = parse_manifest(data), reader.checkpoint()
        said = manifest.log
        if (said.origin, said.size, said.root) != (reader.verifier.name, checkpoint.size, to_base64(checkpoint.root)):
            raise BadLedger("is of another log, or of another size of it", where=FILE)
        check_remains(reader)
        self._remains.append(_Remains(name, manifest))
        for stream in manifest.streams:
            self._follow(name, stream)
        self._lines.report.count("expired logs")

    def note_record(self, record: Retained, frame: Frame) -> None:
        """Remember a collector's own `retention` record."""
        self._records.setdefault(record.origin, []).append((record, frame))

    def finish(self) -> None:
        """Say of each log whether its entries were allowed to go."""
        for name, manifest in self._remains:
            said = [pair for pair in self._records.get(manifest.log.origin, []) if _is_of(pair[0], manifest)]
            if not said:
                severity = Severity.UNCHECKED if self._is_part else Severity.TAMPERING
                message = "no retention record of this collector names what was here"
                self._lines.note(severity, "deleted", f"{name}/{FILE}", message)
                continue
            record, frame = said[0]
            if frame.ts[:10] < record.expires:
                message = f"was deleted on {frame.ts[:10]}, and expired on {record.expires}"
                self._lines.note(Severity.TAMPERING, "deleted", f"{name}/{FILE}", message, frame)
            else:
                message = (
                    f"{record.size} entries expired on {record.expires} (keep {record.keep}), deleted by {record.by}"
                )
                self._lines.note(Severity.NOTE, "expired", name, message, frame)

    def _follow(self, name: str, stream: ExpiredStream) -> None:
        runs = stream.runs
        if not runs:
            return
        seen = self._lines.streams.get(stream.stream)
        if seen is None:
            seen = self._lines.streams[stream.stream] = StreamSeen(StreamFollower(stream.stream), runs[0].first)
        seen.service = stream.service
        seen.opened_by = seen.opened_by or stream.opened_by
        reached = seen.follower.next
        for run in runs:
            if seen.follower.follow_segment(run) in {Step.BROKEN, Step.SEEN}:
                message = f"{run.first} to {run.last} of {stream.stream} do not link to what is there of it"
                self._lines.note(Severity.TAMPERING, "broken", f"{name}/{FILE}", message)
        if seen.follower.next > reached:
            seen.is_closed = stream.closed


def _is_of(record: Retained, manifest: Manifest) -> bool:
    log = manifest.log
    return (record.size, record.root, record.manifest) == (log.size, log.root, manifest.digest)
