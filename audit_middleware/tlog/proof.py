"""C2SP tlog-proof: one entry's inclusion proof and the checkpoint it leads to, in one text."""

from __future__ import annotations

from dataclasses import dataclass

from audit_middleware.errors import BadProof
from audit_middleware.tlog.checkpoint import Checkpoint, open_checkpoint
from audit_middleware.tlog.encoding import from_base64, from_decimal, to_base64
from audit_middleware.tlog.merkle import HASH_SIZE, MAX_SIZE, verify_inclusion
from audit_middleware.tlog.note import MAX_NOTE, Verifier

HEADER = "c2sp.org/tlog-proof@v1"
MAX_EXTRA = 64 * 1024

_MAX_HASHES = 63
_MAX_HEAD = MAX_EXTRA * 2 + 64 * 64


@dataclass(frozen=True, slots=True)
class Proof:
    """Entry ``index`` is in the tree of ``checkpoint``, a signed note; ``hashes`` is the path.

    ``extra`` is not authenticated by anything.
    """

    index: int
    hashes: tuple[bytes, ...]
    checkpoint: bytes
    extra: bytes | None = None

    def encode(self) -> bytes:
        """Return the proof as text, the content of a ``.tlog-proof`` file."""
        extra = [f"extra {to_base64(self.extra)}"] if self.extra else []
        lines = [HEADER, *extra, f"index {self.index}", *map(to_base64, self.hashes), "", ""]
        return "\n".join(lines).encode() + self.checkpoint

    @classmethod
    def parse(cls, data: bytes) -> Proof:
        """Return the proof that a text states; its checkpoint is not opened yet.

        Raises:
            BadProof: malformed, or longer than a proof can be.
        """
        if len(data) > _MAX_HEAD + MAX_NOTE:
            raise BadProof("a proof is not as long as this")
        head, separator, checkpoint = data.partition(b"\n\n")
        if not separator or not head.isascii():
            raise BadProof("a proof is some lines, an empty line and a checkpoint")
        lines = head.decode().split("\n")
        if lines.pop(0) != HEADER:
            raise BadProof(f"a proof begins with {HEADER}")
        extra = _parse_extra(lines)
        return cls(_parse_index(lines), tuple(map(_parse_hash, lines)), checkpoint, extra)


def open_proof(proof: Proof, leaf: bytes, verifier: Verifier) -> Checkpoint:
    """Return the checkpoint of ``verifier``'s log that ``leaf`` is proven to be in.

    Raises:
        BadSignature: the checkpoint is not signed by this key.
        BadLedger: the checkpoint is signed but malformed.
        BadProof: the path does not lead from the leaf to the checkpoint's root.
    """
    checkpoint = open_checkpoint(proof.checkpoint, verifier)
    verify_inclusion(leaf, proof.index, checkpoint.size, proof.hashes, checkpoint.root)
    return checkpoint


def _parse_extra(lines: list[str]) -> bytes | None:
    if not lines or not lines[0].startswith("extra "):
        return None
    extra = from_base64(lines.pop(0).removeprefix("extra "))
    if not extra or len(extra) > MAX_EXTRA:
        raise BadProof("the extra data of the proof is empty, too long or not base64")
    return extra


def _parse_index(lines: list[str]) -> int:
    keyword, _, number = lines.pop(0).partition(" ") if lines else ("", "", "")
    index = from_decimal(number, limit=MAX_SIZE)
    if keyword != "index" or index is None or len(lines) > _MAX_HASHES:
        raise BadProof("a proof states its index, then at most 63 hashes")
    return index


def _parse_hash(line: str) -> bytes:
    node = from_base64(line)
    if node is None or len(node) != HASH_SIZE:
        raise BadProof("a line of the proof is not a hash")
    return node
