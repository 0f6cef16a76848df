"""C2SP tlog-tiles: where the nodes of a tree and its entries lie, and how a bundle of entries reads.

Tiles are 256 hashes wide (height 8). Level ``L`` holds the nodes of level ``8 * L`` of the tree; its
tile ``N`` the 256 of them from ``256 * N`` on. Only the last tile of a level may be narrower.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from audit_middleware.errors import BadLedger
from audit_middleware.tlog.merkle import HASH_SIZE, Frontier, NodeReader, root_of

HEIGHT = 8
WIDTH = 1 << HEIGHT
MAX_LEVEL = 63
MAX_ENTRY = 0xFFFF
ENTRIES = -1
"""The ``level`` of an entry bundle, which lies below the leaf hashes."""

_BYTES = WIDTH * HASH_SIZE

ReadTile = Callable[[int, int, int], bytes]

_PATH = re.compile(r"tile/(entries|[0-9]{1,2})/((?:x[0-9]{3}/){0,6}[0-9]{3})(?:\.p/([0-9]{1,3}))?")


@dataclass(frozen=True, slots=True)
class Tile:
    """Position of a tile, or of an entry bundle when ``level`` is `ENTRIES`; ``width`` 1 to 256."""

    level: int
    index: int
    width: int

    @property
    def path(self) -> str:
        """The tile's path below the log's folder."""
        return tile_path(self.level, self.index, self.width)


def tile_path(level: int, index: int, width: int = WIDTH) -> str:
    """Return the path of a tile below the log's folder, with ``.p/W`` when it is partial."""
    name = f"{index % 1000:03d}"
    while index := index // 1000:
        name = f"x{index % 1000:03d}/{name}"
    folder = "entries" if level == ENTRIES else str(level)
    return f"tile/{folder}/{name}" + (f".p/{width}" if width < WIDTH else "")


def entries_path(index: int, width: int = WIDTH) -> str:
    """Return the path of an entry bundle below the log's folder."""
    return tile_path(ENTRIES, index, width)


def parse_path(path: str) -> Tile:
    """Return the position that a tile's path names; the only accepted spelling is `tile_path`'s.

    Raises:
        BadLedger: not the canonical path of a tile or bundle.
    """
    match = _PATH.fullmatch(path)
    if match is None:
        raise BadLedger("not the path of a tile", where=path)
    folder, name, width = match.groups()
    level = ENTRIES if folder == "entries" else int(folder)
    tile = Tile(level, int(name.replace("/", "").replace("x", "")), int(width or WIDTH))
    if tile.path != path or not 1 <= tile.width <= WIDTH or tile.level > MAX_LEVEL:
        raise BadLedger("not the canonical path of a tile", where=path)
    return tile


def width_at(level: int, index: int, size: int) -> int:
    """Return how wide a tile or bundle is in a tree of ``size``; 0 when there is none."""
    nodes = size >> HEIGHT * max(level, 0)
    return min(WIDTH, max(0, nodes - index * WIDTH))


def last_tiles(size: int) -> list[Tile]:
    """Return the last tile of every level in a tree of ``size``, bottom up; bundles are not listed."""
    tiles, level = [], 0
    while nodes := size >> HEIGHT * level:
        index = (nodes - 1) // WIDTH
        tiles.append(Tile(level, index, nodes - index * WIDTH))
        level += 1
    return tiles


def partial_tiles(size: int) -> set[Tile]:
    """Return the partial tiles and the partial bundle that a checkpoint of ``size`` needs."""
    partial = {tile for tile in last_tiles(size) if tile.width < WIDTH}
    return partial | {replace(tile, level=ENTRIES) for tile in partial if tile.level == 0}


def new_tiles(old_size: int, new_size: int) -> list[Tile]:
    """Return the tiles that a growth writes, bottom up and from left to right; without bundles."""
    tiles: list[Tile] = []
    level = 0
    while (new := new_size >> HEIGHT * level) > (old := old_size >> HEIGHT * level):
        span = range(old // WIDTH, (new - 1) // WIDTH + 1)
        tiles += [Tile(level, index, width_at(level, index, new_size)) for index in span]
        level += 1
    return tiles


def encode_bundle(entries: Sequence[bytes]) -> bytes:
    """Return entries as a bundle: each with its length before it, uint16 big-endian.

    Raises:
        BadLedger: an entry is longer than 65,535 bytes.
    """
    if any(len(entry) > MAX_ENTRY for entry in entries):
        raise BadLedger(f"an entry is longer than {MAX_ENTRY} bytes", where="entry bundle")
    pack = struct.Struct(">H").pack
    return b"".join([part for entry in entries for part in (pack(len(entry)), entry)])


def decode_bundle(data: bytes, width: int) -> list[bytes]:
    """Return the ``width`` entries of a bundle.

    Raises:
        BadLedger: fewer entries, more entries, or bytes behind the last one.
    """
    entries, at, end = [], 0, len(data)
    try:
        for _ in range(width):
            start = at + 2
            at = start + (data[at] << 8 | data[at + 1])
            entries.append(data[start:at])
    except IndexError:
        at = end + 1
    if at > end:
        raise BadLedger(f"holds fewer than {width} entries", where="entry bundle")
    if at < end:
        raise BadLedger(f"holds more than {width} entries", where="entry bundle")
    return entries


def tile_nodes(size: int, read_tile: ReadTile) -> NodeReader:
    """Return a reader of the nodes of a tree of ``size`` from its tiles; every tile is read once.

    ``read_tile(level, index, width)`` returns the tile's bytes; what it raises passes through.

    Raises:
        BadLedger: from the reader, when a tile is not as long as its width says.
    """
    seen: dict[tuple[int, int], bytes] = {}

    def tile(level: int, index: int) -> bytes:
        if (level, index) not in seen:
            seen[level, index] = _checked(read_tile, Tile(level, index, width_at(level, index, size)))
        return seen[level, index]

    def node(level: int, index: int) -> bytes:
        height, below = divmod(level, HEIGHT)
        number, start = divmod(index << below, WIDTH)
        hashes = split_hashes(tile(height, number)[start * HASH_SIZE : (start + (1 << below)) * HASH_SIZE])
        return root_of(hashes)

    return node


def split_hashes(data: bytes) -> list[bytes]:
    """Return the hashes of a tile's bytes."""
    return [data[at : at + HASH_SIZE] for at in range(0, len(data), HASH_SIZE)]


def _checked(read_tile: ReadTile, tile: Tile) -> bytes:
    data = read_tile(tile.level, tile.index, tile.width)
    if len(data) != tile.width * HASH_SIZE:
        raise BadLedger(f"is {len(data)} bytes long, not {tile.width} hashes", where=tile.path)
    return data


class TileEdge:
    """The right edge of a tiled tree: its `Frontier` and the last, still partial tile of every level.

    The one place that turns leaves into tiles; a writer stores what it yields, a verifier compares.
    """

    def __init__(self) -> None:
        self.frontier = Frontier()
        self._rows: list[bytes] = []

    @classmethod
    def read(cls, size: int, read_tile: ReadTile) -> TileEdge:
        """Return the edge of a stored tree of ``size``, from its last tiles.

        Raises:
            BadLedger: a tile is not as long as its width says.
        """
        edge = cls()
        edge.frontier = Frontier.read(size, tile_nodes(size, read_tile))
        for tile in last_tiles(size):
            edge._rows.append(_checked(read_tile, tile) if tile.width < WIDTH else b"")
        return edge

    def copy(self) -> TileEdge:
        """Return an independent edge of the same tree."""
        other = TileEdge()
        other.frontier, other._rows = self.frontier.copy(), self._rows.copy()
        return other

    def extend(self, leaves: Sequence[bytes]) -> list[tuple[Tile, bytes]]:
        """Add leaf hashes; return every tile that this completed, bottom up, with its bytes."""
        before = self.frontier.size
        completed: list[tuple[Tile, bytes]] = []
        for level, nodes in enumerate(self.frontier.extend(leaves)[::HEIGHT]):
            if level == len(self._rows):
                self._rows.append(b"")
            row = self._rows[level] + b"".join(nodes)
            first = (before >> HEIGHT * level) // WIDTH
            full, rest = divmod(len(row), _BYTES)
            self._rows[level] = row[len(row) - rest :]
            completed += [
                (Tile(level, first + number, WIDTH), row[number * _BYTES : (number + 1) * _BYTES])
                for number in range(full)
            ]
        return completed

    def partials(self) -> list[tuple[Tile, bytes]]:
        """Return the partial tiles of the present size, bottom up, with their bytes."""
        last = last_tiles(self.frontier.size)
        return [(tile, self._rows[tile.level]) for tile in last if tile.width < WIDTH]
