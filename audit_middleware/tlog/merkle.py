"""The Merkle tree of RFC 6962 section 2.1 and RFC 9162 section 2.1, over plain hashes.

A *node* ``(level, index)`` is the hash of the complete subtree of ``2**level`` leaves that begins at
leaf ``index << level``. Proofs and roots need complete subtrees only, so a `NodeReader` is all the
tree these functions ever see.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256

from audit_middleware.errors import BadProof

NodeReader = Callable[[int, int], bytes]

HASH_SIZE = 32
MAX_SIZE = 2**63 - 1
EMPTY_ROOT = sha256(b"").digest()


def leaf_hash(entry: bytes) -> bytes:
    """Return the hash of one entry, SHA-256(0x00 || entry) (RFC 6962 section 2.1)."""
    return sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an interior node, SHA-256(0x01 || left || right) (RFC 6962 section 2.1)."""
    return sha256(b"\x01" + left + right).digest()


class Frontier:
    """The right edge of a growing tree: its size and the complete subtrees that make it up.

    At most 64 hashes, one for every bit that is set in ``size``. Not thread-safe.
    """

    __slots__ = ("_nodes", "size")

    def __init__(self) -> None:
        self.size = 0
        self._nodes: list[bytes] = []

    @classmethod
    def restore(cls, size: int, hashes: Sequence[bytes]) -> Frontier:
        """Return the frontier that had this ``size`` and these ``hashes``.

        Raises:
            BadProof: the number or length of the hashes does not fit the size.
        """
        if not 0 <= size <= MAX_SIZE or len(hashes) != size.bit_count():
            raise BadProof(f"{len(hashes)} hashes cannot be the frontier of a tree of {size}")
        _require_hashes(hashes)
        frontier, remaining = cls(), iter(reversed(hashes))
        frontier.size = size
        frontier._nodes = [next(remaining) if size >> level & 1 else b"" for level in range(size.bit_length())]
        return frontier

    @classmethod
    def read(cls, size: int, read_node: NodeReader) -> Frontier:
        """Return the frontier of the first ``size`` leaves of a stored tree."""
        return cls.restore(size, [read_node(*node) for node in _subtrees(0, size)])

    @property
    def hashes(self) -> list[bytes]:
        """The complete subtrees from left to right, largest first; the input of `restore`."""
        return [node for node in reversed(self._nodes) if node]

    def copy(self) -> Frontier:
        """Return an independent frontier of the same tree."""
        other = Frontier()
        other.size, other._nodes = self.size, self._nodes.copy()
        return other

    def append(self, leaf: bytes) -> None:
        """Add one leaf hash."""
        level, node = 0, leaf
        while self.size >> level & 1:
            node = node_hash(self._nodes[level], node)
            self._nodes[level] = b""
            level += 1
        self._put(level, node)
        self.size += 1

    def extend(self, leaves: Iterable[bytes]) -> list[list[bytes]]:
        """Add leaf hashes; return the nodes that this completed, one list per level.

        List ``n`` holds the nodes of level ``n`` from index ``old_size >> n`` on; list 0 is ``leaves``.
        """
        completed: list[list[bytes]] = []
        level, fresh = 0, list(leaves)
        grown = self.size + len(fresh)
        while fresh:
            completed.append(fresh)
            pending = [self._nodes[level], *fresh] if self.size >> level & 1 else fresh
            self._put(level, pending[-1] if len(pending) & 1 else b"")
            pairs = iter(pending)
            # node_hash, written out: one call per node is a third of the time
            fresh = [sha256(b"\x01" + left + right).digest() for left, right in zip(pairs, pairs, strict=False)]
            level += 1
        self.size = grown
        return completed

    def root(self) -> bytes:
        """Return the root of the tree; `EMPTY_ROOT` when it has no leaves."""
        return _fold(self.hashes)

    def _put(self, level: int, node: bytes) -> None:
        if level == len(self._nodes):
            self._nodes.append(node)
        else:
            self._nodes[level] = node


def root_of(leaves: Sequence[bytes]) -> bytes:
    """Return the root of the tree over these leaf hashes."""
    frontier = Frontier()
    frontier.extend(leaves)
    return frontier.root()


def tree_root(size: int, read_node: NodeReader) -> bytes:
    """Return the root of the first ``size`` leaves of a stored tree."""
    return _range_root(0, size, read_node)


def inclusion_proof(index: int, size: int, read_node: NodeReader) -> list[bytes]:
    """Return the path from leaf ``index`` to the root of ``size`` leaves, leaf's sibling first.

    Raises:
        BadProof: there is no such leaf in a tree of this size.
    """
    if not 0 <= index < size:
        raise BadProof(f"index {index} is outside a tree of {size}")
    path: list[bytes] = []
    low, high = 0, size
    while high - low > 1:
        middle = low + _split(high - low)
        if index < middle:
            path.append(_range_root(middle, high, read_node))
            high = middle
        else:
            path.append(_range_root(low, middle, read_node))
            low = middle
    return path[::-1]


def consistency_proof(old: int, new: int, read_node: NodeReader) -> list[bytes]:
    """Return the proof that the tree of ``new`` leaves continues the one of ``old`` (RFC 6962 2.1.2).

    Raises:
        BadProof: ``old`` is larger than ``new`` or negative.
    """
    if not 0 <= old <= new:
        raise BadProof(f"a tree of {new} does not continue one of {old}")
    path: list[bytes] = []
    low, high = 0, new
    while old not in {0, high}:
        middle = low + _split(high - low)
        if old <= middle:
            path.append(_range_root(middle, high, read_node))
            high = middle
        else:
            path.append(_range_root(low, middle, read_node))
            low = middle
    if old and low:  # a subtree that begins at leaf 0 is the old root, which the verifier has
        path.append(_range_root(low, high, read_node))
    return path[::-1]


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Check that ``leaf`` is entry ``index`` of the tree with this ``root`` (RFC 9162 section 2.1.3.2).

    Raises:
        BadProof: it is not, or the proof is malformed.
    """
    if not 0 <= index < size:
        raise BadProof(f"index {index} is outside a tree of {size}")
    _require_hashes(proof)
    here, last, node = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise BadProof("the inclusion proof is too long")
        if here & 1 or here == last:
            node = node_hash(sibling, node)
            here, last = _climb(here, last)
        else:
            node = node_hash(node, sibling)
        here, last = here >> 1, last >> 1
    if last or node != root:
        raise BadProof(f"the inclusion proof of entry {index} does not lead to the root of {size}")


def verify_consistency(old_size: int, old_root: bytes, new_size: int, new_root: bytes, proof: Sequence[bytes]) -> None:
    """Check that the new tree begins with all entries of the old one (RFC 9162 section 2.1.4.2).

    An empty old tree is consistent with every tree, by an empty proof.

    Raises:
        BadProof: it does not, or the proof is malformed.
    """
    if not 0 <= old_size <= new_size:
        raise BadProof(f"a tree of {new_size} does not continue one of {old_size}")
    _require_hashes(proof)
    if old_size in {0, new_size}:
        _verify_trivial(old_size, old_root, new_size, new_root, proof)
        return
    path = list(proof)
    if old_size.bit_count() == 1:
        path.insert(0, old_root)
    if not path or _replay(old_size, new_size, path) != (old_root, new_root):
        raise BadProof(f"the tree of {new_size} does not continue the one of {old_size}")


def _replay(old_size: int, new_size: int, path: Sequence[bytes]) -> tuple[bytes, bytes]:
    """Return the old and the new root that a consistency path leads to."""
    here, last = old_size - 1, new_size - 1
    while here & 1:
        here, last = here >> 1, last >> 1
    old = new = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise BadProof("the consistency proof is too long")
        if here & 1 or here == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            here, last = _climb(here, last)
        else:
            new = node_hash(new, sibling)
        here, last = here >> 1, last >> 1
    if last:
        raise BadProof("the consistency proof is too short")
    return old, new


def _verify_trivial(old_size: int, old_root: bytes, new_size: int, new_root: bytes, proof: Sequence[bytes]) -> None:
    if proof:
        raise BadProof("the consistency proof is too long")
    if (old_size == 0 and old_root != EMPTY_ROOT) or (old_size == new_size and old_root != new_root):
        raise BadProof(f"two roots for one tree of {old_size}")


def _climb(here: int, last: int) -> tuple[int, int]:
    """Skip the levels at which a rightmost node has no sibling."""
    while here and not here & 1:
        here, last = here >> 1, last >> 1
    return here, last


def _require_hashes(hashes: Sequence[bytes]) -> None:
    if any(len(node) != HASH_SIZE for node in hashes):
        raise BadProof("a hash is not 32 bytes long")


def _split(count: int) -> int:
    """Return the largest power of two below ``count`` (RFC 6962 section 2.1)."""
    return 1 << (count - 1).bit_length() - 1


def _subtrees(low: int, high: int) -> list[tuple[int, int]]:
    """Return the nodes that make up leaves ``low`` to ``high``, largest first; ``low`` is aligned."""
    nodes = []
    while low < high:
        level = (high - low).bit_length() - 1
        nodes.append((level, low >> level))
        low += 1 << level
    return nodes


def _range_root(low: int, high: int, read_node: NodeReader) -> bytes:
    return _fold([read_node(*node) for node in _subtrees(low, high)])


def _fold(nodes: Sequence[bytes]) -> bytes:
    """Return the root over complete subtrees from left to right, largest first."""
    if not nodes:
        return EMPTY_ROOT
    root = nodes[-1]
    for left in reversed(nodes[:-1]):
        root = node_hash(left, root)
    return root
