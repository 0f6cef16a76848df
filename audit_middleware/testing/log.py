"""A transparency log in memory: the tree, its signature and its proofs are real, only the disk is missing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from audit_middleware.tlog.checkpoint import Checkpoint, sign_checkpoint
from audit_middleware.tlog.encoding import to_base64
from audit_middleware.tlog.merkle import Frontier, consistency_proof, leaf_hash, tree_root
from audit_middleware.tlog.note import Signer


class SimulatedLog:
    """Entries, their tree, and what a receipt says of it."""

    def __init__(self, signer: Signer, entries: list[bytes] | None = None) -> None:
        self.signer = signer
        self.entries: list[bytes] = []
        self._tree = Frontier()
        self._levels: list[list[bytes]] = []
        self.extend(entries or [])

    def extend(self, entries: list[bytes]) -> range:
        """Append entries; return the indexes they got."""
        first = len(self.entries)
        for level, nodes in enumerate(self._tree.extend(leaf_hash(entry) for entry in entries)):
            if level == len(self._levels):
                self._levels.append([])
            self._levels[level].extend(nodes)
        self.entries.extend(entries)
        return range(first, len(self.entries))

    def checkpoint(self, size: int | None = None) -> str:
        """Return the signed note of the tree, or of what it was at ``size``."""
        size = len(self.entries) if size is None else size
        root = tree_root(size, self._node)
        return sign_checkpoint(Checkpoint(self.signer.name, size, root), self.signer).decode()

    def head(self, placed: range, tree_sizes: Mapping[str, int]) -> dict[str, Any]:
        """Return what a receipt says of this log (wire format, section 5); ``placed`` are the new entries."""
        head: dict[str, Any] = {
            "origin": self.signer.name,
            "first": placed[0] if placed else None,
            "last": placed[-1] if placed else None,
            "checkpoint": self.checkpoint(),
        }
        seen = tree_sizes.get(self.signer.name)
        if seen is not None and seen <= len(self.entries):
            proof = consistency_proof(seen, len(self.entries), self._node)
            head["consistency"] = [to_base64(node) for node in proof]
        return head

    def _node(self, level: int, index: int) -> bytes:
        return self._levels[level][index]
