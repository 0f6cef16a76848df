"""Reading a log by its files alone, trusting nothing but one public key.

Where the files lie is the caller's business: a folder, a bucket, HTTP. The log may grow, and may
drop partial tiles it no longer needs, while it is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from audit_middleware.errors import BadLedger, BadProof
from audit_middleware.tlog.checkpoint import Checkpoint, open_checkpoint
from audit_middleware.tlog.merkle import (
    HASH_SIZE,
    Frontier,
    NodeReader,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root_of,
    verify_inclusion,
)
from audit_middleware.tlog.note import Verifier
from audit_middleware.tlog.tiles import (
    ENTRIES,
    WIDTH,
    Tile,
    TileEdge,
    decode_bundle,
    entries_path,
    split_hashes,
    tile_nodes,
    tile_path,
    width_at,
)

ReadFile = Callable[[str], bytes | None]
"""Returns the bytes of a file below the log's folder, or None when there is none."""


class LogReader:
    """A log as its signed checkpoint describes it.

    The checkpoint is read once, at the first use, and everything else is checked against that one:
    `refresh` moves on to a later one. A caller that trusts a checkpoint already may pass it.
    """

    def __init__(self, read: ReadFile, verifier: Verifier, *, checkpoint: Checkpoint | None = None) -> None:
        self._read = read
        self._verifier = verifier
        self._checkpoint = checkpoint

    @property
    def verifier(self) -> Verifier:
        """The key that is trusted to sign this log."""
        return self._verifier

    def checkpoint(self) -> Checkpoint:
        """Return the checkpoint that this reader stands on.

        Raises:
            BadLedger: there is none, or it is malformed.
            BadSignature: it is not signed by the log's key, or for another log.
        """
        if self._checkpoint is None:
            self._checkpoint = self._latest()
        return self._checkpoint

    def refresh(self) -> Checkpoint:
        """Move to the log's present checkpoint and return it; whether it continues is `consistency`'s.

        Raises:
            BadLedger: none, malformed, or of a smaller tree than the one before.
            BadSignature: it is not signed by the log's key, or for another log.
        """
        latest = self._latest()
        if self._checkpoint is not None and latest.size < self._checkpoint.size:
            raise BadLedger(f"shrank from {self._checkpoint.size} to {latest.size}", where="checkpoint")
        self._checkpoint = latest
        return latest

    def entries(self, first: int = 0, last: int | None = None) -> Iterator[tuple[int, bytes]]:
        """Yield index and bytes of the entries from ``first`` to ``last``, both included.

        Without ``last`` to the end of the tree. One bundle is in memory at a time. The bytes are
        as stored: `check_tiles` or an inclusion proof ties them to the checkpoint.

        Raises:
            BadLedger: outside the tree, or a bundle is missing or does not hold what its width says.
        """
        size = self.checkpoint().size
        end = size if last is None else last + 1
        if first < 0 or end > size:
            raise BadLedger(f"lie outside a tree of {size}", where=f"entries {first} to {end - 1}")
        for number in range(first // WIDTH, -(-end // WIDTH)):
            start = number * WIDTH
            bundle = self.bundle(number)
            low, high = max(first - start, 0), end - start
            yield from enumerate(bundle[low:high], start + low)

    def entry(self, index: int) -> bytes:
        """Return one entry as stored.

        Raises:
            BadLedger: outside the tree, or its bundle is missing or malformed.
        """
        if not 0 <= index < self.checkpoint().size:
            raise BadLedger(f"is outside a tree of {self.checkpoint().size}", where=f"entry {index}")
        return self.bundle(index // WIDTH)[index % WIDTH]

    def bundle(self, number: int) -> list[bytes]:
        """Return the entries of one bundle that are in the tree.

        Raises:
            BadLedger: missing, or not exactly as many entries as its width says.
        """
        width = width_at(ENTRIES, number, self.checkpoint().size)
        stored, data = self._fetch(Tile(ENTRIES, number, width))
        try:
            return decode_bundle(data, stored)[:width]
        except BadLedger as error:
            path = entries_path(number, stored)
            raise BadLedger(f"does not hold exactly {stored} entries", where=path) from error

    def tile(self, level: int, index: int, width: int) -> bytes:
        """Return the first ``width`` hashes of a stored tile.

        Raises:
            BadLedger: missing, or not as long as its name says.
        """
        stored, data = self._fetch(Tile(level, index, width))
        if len(data) != stored * HASH_SIZE:
            path = tile_path(level, index, stored)
            raise BadLedger(f"is {len(data)} bytes long, not {stored} hashes", where=path)
        return data[: width * HASH_SIZE]

    def inclusion(self, index: int, size: int | None = None) -> list[bytes]:
        """Return the inclusion proof of an entry, from the stored tiles.

        Raises:
            BadProof: there is no such entry in a tree of ``size``.
            BadLedger: a tile is missing or malformed, or the tree is smaller than ``size``.
        """
        return inclusion_proof(index, self._size(size), self.nodes())

    def consistency(self, old: int, new: int | None = None) -> list[bytes]:
        """Return the consistency proof between two sizes of this log, from the stored tiles.

        Raises:
            BadProof: ``old`` is larger than ``new``.
            BadLedger: a tile is missing or malformed, or the tree is smaller than ``new``.
        """
        return consistency_proof(old, self._size(new), self.nodes())

    def nodes(self) -> NodeReader:
        """Return a reader of the tree's nodes; it keeps what it read, so use a fresh one per task."""
        return tile_nodes(self.checkpoint().size, self.tile)

    def check_tiles(self, leaves: Iterable[bytes] | None = None) -> None:
        """Check every entry and every stored tile against the checkpoint, in one pass, memory flat.

        ``leaves`` are the leaf hashes of the entries from 0 on, for a caller that has computed them
        already; without, the entries are read and hashed here.

        Raises:
            BadLedger: ``where`` names the first entry or tile that is wrong.
        """
        check = TileCheck(self)
        stream = (leaf_hash(entry) for _, entry in self.entries()) if leaves is None else iter(leaves)
        while chunk := list(islice(stream, WIDTH)):
            check.add(chunk)
        check.finish()

    def _latest(self) -> Checkpoint:
        note = self._read("checkpoint")
        if note is None:
            raise BadLedger("is missing", where="checkpoint")
        return open_checkpoint(note, self._verifier)

    def _size(self, size: int | None) -> int:
        present = self.checkpoint().size
        if size is not None and size > present:
            raise BadLedger(f"a tree of {present} does not reach {size}", where="checkpoint")
        return present if size is None else size

    def _fetch(self, tile: Tile) -> tuple[int, bytes]:
        """Return the width found and the bytes; a wider tile stands in for one that was dropped."""
        for width in (tile.width, WIDTH):
            data = self._read(tile_path(tile.level, tile.index, width))
            if data is not None:
                return width, data
        # the log grew while it was read, and has dropped the tiles of the checkpoint we stand on
        note = self._read("checkpoint")
        size = 0 if note is None else open_checkpoint(note, self._verifier).size
        width = width_at(tile.level, tile.index, size)
        data = self._read(tile_path(tile.level, tile.index, width)) if width > tile.width else None
        if data is None:
            raise BadLedger("is missing", where=tile.path)
        return width, data


def check_remains(reader: LogReader) -> None:
    """Check the tiles that remain when entries and leaf hashes have expired: level 1 and above, and the right edge.

    Raises:
        BadLedger: ``where`` names the tile that is missing or does not lead to the checkpoint.
    """
    checkpoint = reader.checkpoint()
    if Frontier.read(checkpoint.size, reader.nodes()).root() != checkpoint.root:
        raise BadLedger("the last tiles do not lead to its root", where="checkpoint")
    tiles, level = checkpoint.size // WIDTH**2, 1
    while tiles:
        for index in range(tiles):
            width = width_at(level + 1, index // WIDTH, checkpoint.size)
            above = split_hashes(reader.tile(level + 1, index // WIDTH, width))
            if above[index % WIDTH] != root_of(split_hashes(reader.tile(level, index, WIDTH))):
                raise BadLedger("does not have the hash that the tile above it has", where=tile_path(level, index))
        tiles, level = tiles // WIDTH, level + 1


class TileCheck:
    """Compares a log's stored tiles with those that its leaves make; fed as the leaves come.

    A full tile is compared when its last leaf arrives, the partial ones and the root by `finish`.
    """

    def __init__(self, reader: LogReader) -> None:
        self._reader = reader
        self._edge = TileEdge()

    def add(self, leaves: Iterable[bytes]) -> None:
        """Add the next leaf hashes.

        Raises:
            BadLedger: a stored tile is missing or differs; ``where`` names it, or the entry at fault.
        """
        for tile, data in self._edge.extend(list(leaves)):
            self._compare(tile, data)

    def finish(self) -> None:
        """Compare what remains, and the root with the checkpoint's.

        Raises:
            BadLedger: a tile differs, or these are not all entries of the checkpoint.
        """
        for tile, data in self._edge.partials():
            self._compare(tile, data)
        checkpoint, size = self._reader.checkpoint(), self._edge.frontier.size
        if size != checkpoint.size:
            raise BadLedger(f"{size} entries, the checkpoint has {checkpoint.size}", where="checkpoint")
        if self._edge.frontier.root() != checkpoint.root:
            raise BadLedger("another root than that of the entries", where="checkpoint")

    def _compare(self, tile: Tile, data: bytes) -> None:
        if tile.width > width_at(tile.level, tile.index, self._reader.checkpoint().size):
            raise BadLedger("lies beyond the checkpoint", where=tile.path)
        stored = self._reader.tile(tile.level, tile.index, tile.width)
        if stored == data:
            return
        if tile.level == 0:
            self._blame_entry(tile, split_hashes(stored), split_hashes(data))
        raise BadLedger("differs from the tile that the entries make", where=tile.path)

    def _blame_entry(self, tile: Tile, stored: list[bytes], computed: list[bytes]) -> None:
        """Raise for the entry if the tile's hash of it leads to the checkpoint: then the tile is right."""
        at = next(number for number, node in enumerate(stored) if node != computed[number])
        index = tile.index * WIDTH + at
        checkpoint = self._reader.checkpoint()
        try:
            path = self._reader.inclusion(index)
            verify_inclusion(stored[at], index, checkpoint.size, path, checkpoint.root)
        except (BadLedger, BadProof):
            return
        width = width_at(ENTRIES, tile.index, checkpoint.size)
        where = f"{entries_path(tile.index, width)} entry {index}"
        raise BadLedger("does not have the hash that the checkpoint covers", where=where)
