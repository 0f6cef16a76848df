"""Read the store again: every tile against the one above it, every bundle against its tile, up to the signed root.

One unit is one file and what stands above it. The newest part is looked at all the time, the rest in passes from the
top down: what is good above is what the rest is compared with.

A file that cannot be read is damaged; a store that does not answer, `StoreUnavailable`, says nothing about its files:
every check here raises it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple, Protocol

from audit_middleware.collector.storage import Store, read_cost
from audit_middleware.errors import BadLedger, BadSignature, StorageError, StoreUnavailable, VerificationError
from audit_middleware.tlog.checkpoint import Checkpoint, open_checkpoint
from audit_middleware.tlog.merkle import HASH_SIZE, leaf_hash, root_of, tree_root
from audit_middleware.tlog.note import Verifier
from audit_middleware.tlog.reader import LogReader
from audit_middleware.tlog.tiles import ENTRIES, HEIGHT, WIDTH, Tile, TileEdge, split_hashes, tile_path, width_at

TRIES: Final = 10

NEWEST: Final = 16
"""Bundles at the end of a log that are looked at again and again, `AT_ONCE` of them at a time, the last one always."""

AT_ONCE: Final = 5
FEW_AT_ONCE: Final = 3
"""Where reads cost what a busy collector needs itself."""


class Damage(NamedTuple):
    """A file of a log is not what was signed: its entries ``first`` to ``last`` are in doubt."""

    kind: str
    log: str
    path: str
    message: str
    first: int | None = None
    last: int | None = None

    @property
    def about(self) -> str:
        """What the finding of it is about."""
        return f"{self.log} {self.path}"


class PatrolledLog(Protocol):
    """A log as a patrol needs it."""

    @property
    def origin(self) -> str:
        """Its name."""

    @property
    def store(self) -> Store:
        """Where its files lie."""

    @property
    def verifier(self) -> Verifier:
        """Its key."""

    def checkpoint(self) -> Checkpoint:
        """Return what was published last, from the memory of the process that signed it."""

    def signed(self) -> Checkpoint:
        """Return what was signed last; the files may hold that before it is published, for as long as a disk takes."""

    def kept_notes(self) -> tuple[bytes | None, bytes | None]:
        """Return checkpoint and guard as their files hold them."""


class Unit(NamedTuple):
    """One step of a pass: a tile of ``level``, or with level 0 a tile and its bundle."""

    level: int
    number: int

    def span(self, size: int) -> tuple[int, int]:
        """Return the first and last entry below it in a log of ``size``."""
        width = WIDTH << HEIGHT * self.level
        return self.number * width, min((self.number + 1) * width, size) - 1


def units(size: int, start: Unit | None = None) -> Iterator[Unit]:
    """Yield the units of a log of ``size`` from the top down, which a pass may take up where the last one ended."""
    top = 0
    while size >> HEIGHT * (top + 2):
        top += 1
    for level in range(top if start is None else min(start.level, top), -1, -1):
        nodes = size >> HEIGHT * level
        count = nodes // WIDTH if level else -(-nodes // WIDTH)
        begin = start.number if start is not None and start.level == level else 0
        yield from (Unit(level, index) for index in range(begin, count))


class Spent(NamedTuple):
    """What looking cost: the bytes that were read, and those that the reads themselves are worth besides."""

    bytes: int
    overhead: int


def check_unit(
    log: PatrolledLog, unit: Unit, suspects: set[Unit], known: dict[str, bytes] | None = None
) -> tuple[Damage | None, Spent]:
    """Return what is wrong with a unit, None when it is good, and what that cost.

    ``known`` are files that were read just now, for whoever looks at several units at once.

    ``suspects`` are tiles that are damaged: what they say of those below is no evidence. A damaged tile joins them.
    """
    meter = _Meter(log.store, known)
    above = Unit(unit.level + 1, unit.number // WIDTH)

    def check(reader: LogReader) -> None:
        is_full = width_at(unit.level, unit.number, reader.checkpoint().size) == WIDTH
        if is_full and above not in suspects:
            _check_tile(reader, unit.level, unit.number)
        if unit.level == 0:
            _check_bundle(reader, unit.number)

    damage = _tried(log, meter, unit, check)
    suspects.discard(unit)
    if damage is not None and unit.level:
        suspects.add(unit)
    return damage, Spent(meter.bytes, meter.reads * read_cost(log.store))


def check_edge(log: PatrolledLog, known: dict[str, bytes] | None = None) -> list[Damage]:
    """Return what is wrong at the growing end: the last tiles against the root, the notes against what was signed."""
    size = log.checkpoint().size

    def check(reader: LogReader) -> None:
        checkpoint = reader.checkpoint()
        edge = TileEdge.read(checkpoint.size, reader.tile)
        if edge.frontier.root() != checkpoint.root:
            raise BadLedger(f"the last tiles do not lead to the root of size {checkpoint.size}", where="tile")

    top = Unit(0, max(0, size - 1) // WIDTH)
    found = [_tried(log, _Meter(log.store, known), top, check), *_check_notes(log)]
    return [damage for damage in found if damage is not None]


def check_archived(log: PatrolledLog, key: str, suspects: set[Unit]) -> Damage | None:
    """Return what is wrong with a checkpoint that was archived; damaged tiles prove nothing of its root."""
    try:
        note = log.store.get(key)
        archived = open_checkpoint(note or b"", log.verifier)
        reader = LogReader(log.store.get, log.verifier, checkpoint=log.checkpoint())
        if key != f"checkpoints/{archived.size}":
            raise BadLedger(f"is the checkpoint of size {archived.size}", where=key)
        if archived.size > reader.checkpoint().size:
            raise BadLedger(f"is of size {archived.size}, the log has {reader.checkpoint().size}", where=key)
        if not suspects and tree_root(archived.size, reader.nodes()) != archived.root:
            raise BadLedger("is signed, and of another history", where=key)
    except StoreUnavailable:
        raise
    except (VerificationError, StorageError) as error:
        where = error.where if isinstance(error, BadLedger) else key
        return Damage("tampering", log.origin, where if where.startswith("tile/") else key, str(error))
    return None


def newest(size: int, turn: int, count: int = AT_ONCE) -> list[Unit]:
    """Return ``count`` bundles at the end of a log to look at this time; all of them in four times, of few in eight."""
    last = (size - 1) // WIDTH
    others = min(NEWEST - 1, last)
    behind = [last - 1 - (turn * (count - 1) + number) % others for number in range(count - 1)] if others else []
    return [Unit(0, number) for number in dict.fromkeys([last, *behind])]


def _check_notes(log: PatrolledLog) -> Iterator[Damage]:
    """Compare the files that are replaced with what this process signed and published, before they were read and after.

    It signs before it writes and publishes after that: they are never behind the one, nor ahead of the other.
    """
    published = log.checkpoint()
    notes = dict(zip(("checkpoint", "guard"), log.kept_notes(), strict=True))
    signed = log.signed()
    for name, note in notes.items():
        damage = _check_note(log, name, note, published, signed)
        if damage is not None:
            yield damage


def _check_note(
    log: PatrolledLog, name: str, note: bytes | None, published: Checkpoint, signed: Checkpoint
) -> Damage | None:
    if note is None:
        return Damage("rollback", log.origin, name, f"is missing; size {published.size} was signed")
    try:
        found = open_checkpoint(note, log.verifier)
    except (BadSignature, BadLedger) as error:
        return Damage("rollback", log.origin, name, str(error))
    if found.size < published.size:
        return Damage("rollback", log.origin, name, f"is of size {found.size}; size {published.size} was signed")
    if any(found.size == known.size and found.root != known.root for known in (published, signed)):
        return Damage("rollback", log.origin, name, f"has another root for size {found.size}")
    if found.size > signed.size:
        return Damage("rollback", log.origin, name, f"is of size {found.size}, this process signed {signed.size}")
    return None


class _Meter:
    """Reads from a store and counts; what is ``known`` is not read again, for a file is written once."""

    def __init__(self, store: Store, known: dict[str, bytes] | None) -> None:
        self._store = store
        self._known = known if known is not None else {}
        self.bytes = 0
        self.reads = 0

    def get(self, key: str) -> bytes | None:
        if key in self._known:
            return self._known[key]
        data = self._store.get(key)
        self.reads += 1
        if data is not None:
            self._known[key] = data
        self.bytes += len(data or b"")
        return data


class _Check(Protocol):
    def __call__(self, reader: LogReader, /) -> None: ...


def _tried(log: PatrolledLog, meter: _Meter, unit: Unit, check: _Check) -> Damage | None:
    """Check against the log as it is; a fault counts unless the log has grown meanwhile, and may have dropped tiles."""
    damage = None
    for _ in range(TRIES):
        checkpoint = log.checkpoint()
        damage = _faulty(log, LogReader(meter.get, log.verifier, checkpoint=checkpoint), unit, check)
        if damage is None or log.checkpoint() is checkpoint:
            break
    return damage


def _faulty(log: PatrolledLog, reader: LogReader, unit: Unit, check: _Check) -> Damage | None:
    span = unit.span(reader.checkpoint().size)
    try:
        check(reader)
    except _Altered as error:
        return Damage("tampering", log.origin, error.where, str(error), error.first, error.last)
    except BadLedger as error:
        return Damage("tampering", log.origin, error.where, str(error), *span)
    except StoreUnavailable:
        raise
    except (BadSignature, StorageError) as error:
        return Damage("tampering", log.origin, tile_path(unit.level, unit.number), str(error), *span)
    return None


class _Altered(BadLedger):
    """Entries of a bundle are not those that the tile has the hashes of."""

    def __init__(self, message: str, *, where: str, first: int, last: int) -> None:
        super().__init__(message, where=where)
        self.first = first
        self.last = last


def _check_bundle(reader: LogReader, number: int) -> None:
    """Compare the hashes of a bundle's entries with those in the tile above it."""
    width = width_at(0, number, reader.checkpoint().size)
    stored = split_hashes(reader.tile(0, number, width))
    hashes = [leaf_hash(entry) for entry in reader.bundle(number)]
    wrong = [number * WIDTH + at for at, (one, other) in enumerate(zip(hashes, stored, strict=True)) if one != other]
    if wrong:
        where = Tile(ENTRIES, number, width).path
        message = f"entries {wrong[0]} to {wrong[-1]} do not have the hashes that were signed"
        raise _Altered(message, where=where, first=wrong[0], last=wrong[-1])


def _check_tile(reader: LogReader, level: int, index: int) -> None:
    """Compare the root of a full tile with its hash in the tile above."""
    size = reader.checkpoint().size
    node = root_of(split_hashes(reader.tile(level, index, WIDTH)))
    above, at = divmod(index, WIDTH)
    parent = reader.tile(level + 1, above, width_at(level + 1, above, size))
    if parent[at * HASH_SIZE : (at + 1) * HASH_SIZE] != node:
        raise BadLedger("does not lead to its hash in the tile above", where=tile_path(level, index))
