"""What a collector needs of an index, whichever it is: where streams stand, who has a place, what a search finds.

Nothing in an index is evidence: all of it is read from the ledgers, and made again from them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, NamedTuple, Protocol

from audit_middleware.collector.index_rows import Entry
from audit_middleware.collector.streams import StreamState
from audit_middleware.sealing.keys import Keyring

if TYPE_CHECKING:
    from audit_middleware.collector.query import Query


class Aside(NamedTuple):
    """A line with a good seal that is not in a ledger: its place in the stream is taken by ``leaf``."""

    stream: str
    seq: int
    leaf: str


class Batch(NamedTuple):
    """What one group commit added to log ``log`` from entry ``first`` on, and the root this led to.

    ``is_replayed`` says that the entries are read from the ledger again: another collector may have admitted the same
    lines meanwhile.
    """

    log: int
    origin: str
    first: int
    entries: Sequence[Entry]
    root: bytes
    streams: Sequence[StreamState] = ()
    asides: Sequence[Aside] = ()
    lines: Sequence[bytes] = ()
    leaves: Sequence[bytes] = ()
    is_replayed: bool = False


class Totals(NamedTuple):
    """All streams together: numbers for new ones, how many gaps are open, how many streams were ever seen."""

    numbers: Iterator[int]
    open_gaps: int
    seen: int


class Place(NamedTuple):
    """Where the line of a place is; ``leaf`` is its leaf hash where the index itself vouches for it."""

    log: int
    at: int
    leaf: bytes | None = None


class Hit(NamedTuple):
    """What a search found; ``line`` is given where this collector has no ledger to read it from."""

    ts: int
    id: int
    origin: str
    line: bytes | None = None


class Double(NamedTuple):
    """Two lines for one place in two ledgers, found when one of them was read again."""

    stream: str
    seq: int
    kept: str
    other: str


class OtherLog(NamedTuple):
    """A log of another collector: its number in the index, and up to which entry it is indexed."""

    number: int
    origin: str
    collector: str
    size: int


class OtherLine(NamedTuple):
    """Entry ``at`` of the log of another collector; ``line`` is None when somebody changed it in the index."""

    at: int
    line: bytes | None


class Presence(NamedTuple):
    """When a collector said last that it takes deliveries, by its own clock in microseconds, or that it ends."""

    at: int
    is_closed: bool


class Elsewhere(Protocol):
    """What other collectors do, as the index tells that they share; one thread at a time.

    Every method raises `StorageError`, `StoreUnavailable` when nobody can tell now.
    """

    def meet(self, mine: Presence | None) -> dict[str, Presence]:
        """Say that this collector is there, unless ``mine`` is None, and return who else was, by name."""

    def logs(self) -> list[OtherLog]:
        """Return the logs of all other collectors."""

    def lives(self, log: OtherLog, first: int) -> list[OtherLine]:
        """Return the next lines from entry ``first`` on that are no application's records; none when there are none."""

    def missing(self, stream: str) -> list[tuple[int, int]]:
        """Return the ranges of a stream, both ends included, that no collector has."""

    def claim(self, *, wants: bool) -> bool:
        """Become, or stay, the one that watches for all, or let go of that; say whether it is this one.

        It is one at a time; when that one ends, freezes or loses the index, another may be it within seconds.
        """

    def close(self) -> None:
        """Close the connection; the next call opens one."""


class Lookup(Protocol):
    """Looks streams up beside everything else, with a connection of its own; one thread at a time."""

    def find(self, stream: str) -> tuple[int, bool] | None:
        """Return the number the next line gets and whether the stream was closed.

        None for a stream that was never seen, or when nobody can tell now.
        """

    def close(self) -> None:
        """Close the connection; the next look-up opens one."""


class IndexStore(Protocol):
    """The index of the logs of one collector, or of several that share it. The committer owns it.

    `flush`, `forget`, `select` and `lookup` may be called from any thread. Every method raises `StorageError` when the
    index is broken and has to be rebuilt, `StoreUnavailable` when it is away and may be asked again.
    """

    @property
    def label(self) -> str:
        """What it is, for people; no secrets."""

    @property
    def lag(self) -> int:
        """Commits that are handed over and not yet in the index."""

    @property
    def is_there(self) -> bool:
        """Whether it still is where it was opened."""

    def held(self, streams: Iterable[str]) -> AbstractContextManager[Mapping[str, StreamState | None]]:
        """Keep others from moving these streams until `put`, or the end of the block; give what others moved.

        An index that nobody shares keeps nobody off, and gives nothing.
        """

    def put(self, *batches: Batch) -> None:
        """Take what one commit added to its logs: all of it or nothing."""

    def flush(self, timeout: float | None = None) -> None:
        """Wait until everything handed over so far is in the index."""

    def require_sound(self) -> None:
        """Raise unless everything handed over so far was, or can still be written, and what is held still is."""

    def recover(self) -> None:
        """Get ready to go on after the store took nothing; raise as `require_sound` does if that cannot be."""

    def close(self) -> None:
        """Write what is waiting and close."""

    def unusable(self, why: str) -> Exception:
        """Return the error that asks for a rebuild."""

    def log_number(self, origin: str) -> int:
        """Return the number of a log, a new one if it was never indexed."""

    def standing(self, origin: str) -> tuple[int, bytes] | None:
        """Return the size up to which a log is indexed and the root of that size."""

    def origins(self) -> dict[int, str]:
        """Return the origin of every log by its number."""

    def own_origins(self) -> set[str]:
        """Return the origins of this collector's logs."""

    def load_stream(self, stream: str) -> StreamState | None:
        """Return the state of a stream; the caller sees to it that it is written."""

    def last_stream_of(self, service: str) -> StreamState | None:
        """Return the newest stream of a service that this collector has followed."""

    def stream_totals(self) -> Totals:
        """Return what is known of all streams together."""

    def has_judged(self, keyring: Keyring) -> bool:
        """Say whether the lines in quarantine were judged with these keys since the index was made."""

    def note_judged(self, keyring: Keyring) -> None:
        """Remember that they were."""

    def doubles(self) -> list[Double]:
        """Return what was found twice, by two collectors, and is not on record yet."""

    def note_doubles(self) -> None:
        """Remember that it is."""

    def locate(self, stream: str, seq: int) -> Place | None:
        """Return where the line (stream, seq) is."""

    def aside(self, stream: str, seq: int) -> str | None:
        """Return the leaf of the line with a good seal that was set aside at (stream, seq)."""

    def forget(self, origin: str) -> None:
        """Drop the rows of a log whose entries have expired; where streams stand is kept."""

    def select(self, query: Query) -> list[Hit]:
        """Return the newest matches, one more than asked for; raises `Problem` 503 when that takes too long."""

    def lookup(self) -> Lookup:
        """Return what looks up streams."""

    def elsewhere(self) -> Elsewhere | None:
        """Return what tells of other collectors; None for an index that nobody shares."""
