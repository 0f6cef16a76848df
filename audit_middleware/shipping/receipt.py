"""What counts as a receipt (wire format, section 5). Pure: bytes in, what may be trimmed out, or an error.

Only this JSON, naming streams and numbers that were sent, moves a cursor, and only after the log's signature and
its consistency with what was seen before were checked. A 200 with anything else is a failure.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import msgspec

from audit_middleware.errors import BadProof, ConfigurationError, ReceiptError, VerificationError
from audit_middleware.journal.segment import peek
from audit_middleware.sealing.seal import leaf_hash
from audit_middleware.sealing.text import b64url
from audit_middleware.tlog.checkpoint import Checkpoint, open_checkpoint
from audit_middleware.tlog.merkle import verify_consistency
from audit_middleware.tlog.note import Verifier, is_log_name

_MAX_LOGS: Final = 64


class Ack(msgspec.Struct):
    """Everything of a stream up to ``seq`` is durable at the collector; ``leaf`` is the hash of that line."""

    seq: int
    leaf: str


class Refusal(msgspec.Struct):
    """A line, counted from 1 within the batch, that is kept in quarantine."""

    line: int
    reason: str


class LogHead(msgspec.Struct):
    """A log after this batch: its signed checkpoint, and the proof that it extends the one seen before."""

    origin: str
    checkpoint: str
    first: int | None = None
    last: int | None = None
    consistency: list[str] | None = None


class Receipt(msgspec.Struct):
    """The collector's answer to a batch."""

    accepted: int
    duplicates: int
    quarantined: list[Refusal]
    acks: dict[str, Ack]
    logs: list[LogHead]


def read_receipt(body: bytes) -> Receipt:
    """Read an answer; raise `ReceiptError` unless it has the shape of a receipt."""
    try:
        return msgspec.json.decode(body, type=Receipt)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ReceiptError(f"200, but not a receipt ({error}): is this a collector?") from error


def covered_lines(lines: Sequence[bytes], receipt: Receipt) -> list[bool]:
    """Say of each line sent whether the receipt covers it.

    Raises `ReceiptError` for a receipt of something else: a stream that was not sent, a number beyond what was
    sent, another line's hash, a quarantined line that does not exist.
    """
    sent = [peek(line) for line in lines]
    _check_acks(lines, sent, receipt.acks)
    refused = {refusal.line for refusal in receipt.quarantined}
    if any(not 1 <= number <= len(lines) for number in refused):
        raise ReceiptError("the receipt quarantines a line that was not sent")
    return [
        number in refused or (named is not None and named[0] in receipt.acks and named[1] <= receipt.acks[named[0]].seq)
        for number, named in enumerate(sent, 1)
    ]


def _check_acks(lines: Sequence[bytes], sent: Sequence[tuple[str, int] | None], acks: Mapping[str, Ack]) -> None:
    hashes = {
        named: b64url(leaf_hash(line)).decode()
        for named, line in zip(sent, lines, strict=True)
        if named is not None and named[0] in acks and acks[named[0]].seq == named[1]
    }
    for stream, ack in acks.items():
        if hashes.get((stream, ack.seq)) != ack.leaf:
            raise ReceiptError(f"the receipt acknowledges {ack.seq} of {stream}, which was not sent like that")


@dataclass(slots=True)
class LogPins:
    """The logs a shipper has come to trust: their keys, and the newest checkpoint seen of each.

    Keys are pinned by configuration, or the first time a collector is met. A log of another period has another
    name and the same Ed25519 key, so it is the key that is pinned.
    """

    verifiers: list[Verifier] = field(default_factory=list)
    newest: dict[str, Checkpoint] = field(default_factory=dict)

    def pin(self, vkeys: Iterable[str]) -> None:
        """Trust these verifier keys, all of them or none; raise `ConfigurationError` for text that is none."""
        self.verifiers.extend([Verifier.parse(vkey) for vkey in vkeys])

    def sizes(self) -> dict[str, int]:
        """Return the size seen last of each log, so that the collector can prove it extended it."""
        return {origin: checkpoint.size for origin, checkpoint in self.newest.items()}

    def check(self, logs: Sequence[LogHead]) -> None:
        """Check signature and consistency of every log of a receipt, then remember them.

        Raises `ReceiptError`: no log at all, no pinned key, a bad signature, or a log that does not extend what was
        seen before, which is a rewritten history.
        """
        if not 1 <= len(logs) <= _MAX_LOGS:
            raise ReceiptError("the receipt names no log: nothing says that these lines were kept")
        checked = {head.origin: self._checked(head) for head in logs}
        self.newest.update(checked)

    def _checked(self, head: LogHead) -> Checkpoint:
        checkpoint = self._opened(head)
        seen = self.newest.get(head.origin)
        if seen is None:
            return checkpoint
        if checkpoint.size < seen.size:
            raise ReceiptError(f"{head.origin} has {checkpoint.size} entries; it had {seen.size}: rolled back")
        try:
            proof = [b64decode(node, validate=True) for node in head.consistency or ()]
            verify_consistency(seen.size, seen.root, checkpoint.size, checkpoint.root, proof)
        except (BadProof, ValueError) as error:
            raise ReceiptError(f"{head.origin} does not extend what was seen at size {seen.size}: {error}") from error
        return checkpoint

    def _opened(self, head: LogHead) -> Checkpoint:
        if not is_log_name(head.origin):
            raise ReceiptError(f"the receipt names a log {head.origin[:80]!a}, which is no name of a log")
        for pinned in self.verifiers:
            try:
                return open_checkpoint(head.checkpoint.encode(), replace(pinned, name=head.origin))
            except (VerificationError, ConfigurationError, UnicodeEncodeError):
                continue
        raise ReceiptError(f"no pinned key signed the checkpoint of {head.origin}; pin it with AUDIT_LOG_KEYS")
