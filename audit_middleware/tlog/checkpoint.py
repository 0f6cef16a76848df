"""C2SP tlog-checkpoint: origin, size and root hash of a tree, as the text of a signed note.

Extension lines: this package has no place for them and so never writes one. A checkpoint that has
some is read, because the specification allows them and the signature covers them; they are dropped.
"""

from __future__ import annotations

from dataclasses import dataclass

from audit_middleware.errors import BadLedger, BadSignature
from audit_middleware.tlog.encoding import from_base64, from_decimal, to_base64
from audit_middleware.tlog.merkle import HASH_SIZE, MAX_SIZE
from audit_middleware.tlog.note import Signer, Verifier, open_note, sign

_WHERE = "checkpoint"
_LINES = 3


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a log claims to be: ``size`` entries under ``root``, 32 bytes."""

    origin: str
    size: int
    root: bytes

    def encode(self) -> str:
        """Return the note text."""
        return f"{self.origin}\n{self.size}\n{to_base64(self.root)}\n"

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """Return the checkpoint that a note text states.

        Raises:
            BadLedger: fewer than three lines, an empty line, a number or hash not in its one spelling.
        """
        lines = text.split("\n")
        if len(lines) <= _LINES or lines.pop() or not all(lines):
            raise BadLedger("is not origin, size and root hash, a line each", where=_WHERE)
        size, root = from_decimal(lines[1], limit=MAX_SIZE), from_base64(lines[2])
        if size is None:
            raise BadLedger("the size is not a decimal number", where=_WHERE)
        if root is None or len(root) != HASH_SIZE:
            raise BadLedger("the root hash is not 32 bytes in base64", where=_WHERE)
        return cls(lines[0], size, root)


def sign_checkpoint(checkpoint: Checkpoint, signer: Signer) -> bytes:
    """Return the signed note. Ed25519 is deterministic: equal checkpoints give equal bytes.

    Raises:
        BadSignature: the checkpoint's origin is not the signer's name.
    """
    if checkpoint.origin != signer.name:
        raise BadSignature(f"the key {signer.name} does not sign for {checkpoint.origin}")
    return sign(checkpoint.encode(), signer)


def open_checkpoint(note: bytes, verifier: Verifier) -> Checkpoint:
    """Return the checkpoint of a note that ``verifier`` signed for the log of its own name.

    Raises:
        BadSignature: not signed by this key, or for another log.
        BadLedger: signed, but not a checkpoint.
    """
    checkpoint = Checkpoint.parse(open_note(note, [verifier]))
    if checkpoint.origin != verifier.name:
        raise BadSignature(f"this is a checkpoint of {checkpoint.origin}, not of {verifier.name}")
    return checkpoint
