"""What one commit adds to a ledger: every file, computed before the first one is written. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from audit_middleware.errors import StorageError, VerificationError
from audit_middleware.tlog.tiles import WIDTH, TileEdge, decode_bundle, encode_bundle, entries_path, new_tiles

_MAGIC = "audit-ready-write-ahead/1"


@dataclass(frozen=True, slots=True)
class WriteAhead:
    """One commit before it is applied: entries ``first`` to ``end - 1``, and the root they lead to.

    ``previous`` is the size before ``first``, whose partial tiles this commit makes superfluous.
    """

    previous: int
    first: int
    end: int
    root: bytes
    bundle: bytes

    @property
    def entries(self) -> list[bytes]:
        """The entries of the commit."""
        return decode_bundle(self.bundle, self.end - self.first)

    def encode(self) -> bytes:
        """Return the file's content: a line of numbers, then the entries as one long bundle."""
        header = f"{_MAGIC} {self.previous} {self.first} {self.end} {self.root.hex()}\n"
        return header.encode() + self.bundle

    @classmethod
    def parse(cls, data: bytes, path: Path) -> WriteAhead:
        """Return the commit that a file describes.

        Raises:
            StorageError: damaged. A crash cannot do that: the file is replaced as a whole.
        """
        header, _, bundle = data.partition(b"\n")
        try:
            magic, previous, first, end, root = header.decode().split(" ")
            found = cls(int(previous), int(first), int(end), bytes.fromhex(root), bundle)
            whole = magic == _MAGIC and encode_bundle(found.entries) == bundle and found.encode() == data
        except (ValueError, VerificationError):
            whole = False
        if not whole:
            raise StorageError(
                f"{path} is damaged; restore it from the disk's own backup, or, if the commit it described was "
                "never acknowledged, move it away"
            )
        return found


@dataclass(frozen=True, slots=True)
class Growth:
    """A commit and its files in the order of writing: bundles, then tiles level by level.

    ``edge`` and ``tail`` are the tree's last tiles and its partial bundle once the commit is applied.
    """

    write_ahead: WriteAhead
    files: list[tuple[str, bytes]]
    edge: TileEdge
    tail: bytes


def grow(edge: TileEdge, tail: bytes, entries: Sequence[bytes], leaves: Sequence[bytes], *, previous: int) -> Growth:
    """Return what appending ``entries`` makes of a tree; ``edge`` and ``tail`` stay as they are.

    Raises:
        BadLedger: an entry is longer than 65,535 bytes.
    """
    first, end = edge.frontier.size, edge.frontier.size + len(entries)
    parts = _split(entries, first)
    edge = edge.copy()
    tiles = _tiles(edge, leaves)
    write_ahead = WriteAhead(previous, first, end, edge.frontier.root(), b"".join(parts))
    parts[0] = tail + parts[0]
    numbers = range(first // WIDTH, first // WIDTH + len(parts))
    paths = [entries_path(number, min(WIDTH, end - number * WIDTH)) for number in numbers]
    bundles = zip(paths, parts, strict=True)
    return Growth(write_ahead, [*bundles, *tiles], edge, parts[-1] if end % WIDTH else b"")


def _split(entries: Sequence[bytes], first: int) -> list[bytes]:
    """Encode entries from index ``first`` on, a part for every bundle they lie in."""
    borders = [0, *range(WIDTH - first % WIDTH, len(entries), WIDTH), len(entries)]
    return [encode_bundle(entries[start:stop]) for start, stop in pairwise(borders)]


def _tiles(edge: TileEdge, leaves: Sequence[bytes]) -> list[tuple[str, bytes]]:
    """Extend the edge; return the tiles that are new, full and partial, bottom up."""
    before = edge.frontier.size
    contents = dict(edge.extend(leaves))
    contents |= dict(edge.partials())
    return [(tile.path, contents[tile]) for tile in new_tiles(before, edge.frontier.size)]
