"""Every error this package raises, split by whose it is.

::

    AuditError
    ├── ConfigurationError      the operator's: a setting is missing, wrong or contradicts another
    ├── JournalError            this host's: the local journal cannot take a record
    │   └── RequestRefused      a view did not run, because its record could not be kept
    ├── DeliveryError           the network's: not confirmed, may have arrived
    │   └── ReceiptError        the collector answered, and its receipt cannot be trusted
    ├── StorageError            the collector's store: broken, full, or holding other bytes
    │   ├── AlreadyStored       a create-only key holds other bytes
    │   ├── StoreUnavailable    it did not do it now; what it holds is not in doubt
    │   │   └── StoreFull       there is no room, until somebody makes some
    │   └── RollbackDetected    the ledger is older than what was signed before
    └── VerificationError       the evidence's
        ├── MalformedLine       .line .rule      not a sealed line, or not strict JSON
        ├── BadSeal             .line            the MAC does not match
        ├── UnknownKey          .kid             unverifiable, which is not tampered
        ├── BadProof                             a Merkle proof does not lead to the root
        ├── BadSignature                         no signature of a pinned key on this note
        └── BadLedger           .where           a ledger file contradicts its checkpoint
"""

from __future__ import annotations


class AuditError(Exception):
    """Base of every error of this package."""


class ConfigurationError(AuditError):
    """A setting is missing, wrong, or contradicts another; the message says which and what to do."""


class JournalError(AuditError):
    """The local journal cannot take a record; ``errno`` is the operating system's reason, if any."""

    def __init__(self, message: str, *, errno: int | None = None) -> None:
        super().__init__(message)
        self.errno = errno


class RequestRefused(JournalError):
    """A view whose policy is ``deny`` did not run, because its record could not be kept; the client gets a 503."""


class DeliveryError(AuditError):
    """A batch was not confirmed; it may have arrived."""


class ReceiptError(DeliveryError):
    """The collector answered, but what it answered is not a receipt to be trusted."""


class StorageError(AuditError):
    """The collector's store is broken, full or inconsistent."""


class AlreadyStored(StorageError):
    """A create-only key holds other bytes than the ones to be written."""


class StoreUnavailable(StorageError):
    """The store is away, slow, full or refuses; what it holds is not in doubt, and it may be asked again later."""


class StoreFull(StoreUnavailable):
    """The disk has no room; when somebody has made some, it may be asked again."""


class RollbackDetected(StorageError):
    """The ledger on disk is older than, or differs from, what was signed before."""


class VerificationError(AuditError):
    """Evidence does not verify."""


class MalformedLine(VerificationError):
    """``line`` breaks ``rule`` of the wire format, before any question of tampering."""

    def __init__(self, message: str, *, line: bytes, rule: str) -> None:
        super().__init__(message)
        self.line = line
        self.rule = rule


class BadSeal(VerificationError):
    """The MAC of ``line`` does not match its bytes."""

    def __init__(self, message: str, *, line: bytes) -> None:
        super().__init__(message)
        self.line = line


class UnknownKey(VerificationError):
    """``kid`` is not in the keyring: the line is unverifiable, not tampered."""

    def __init__(self, message: str, *, kid: str) -> None:
        super().__init__(message)
        self.kid = kid


class BadProof(VerificationError):
    """A Merkle proof does not lead to the root it was given for."""


class BadSignature(VerificationError):
    """A signed note carries no valid signature of a key that is trusted."""


class BadLedger(VerificationError):
    """A file of a ledger contradicts the checkpoint; ``where`` names the file or entry."""

    def __init__(self, message: str, *, where: str) -> None:
        super().__init__(f"{where}: {message}")
        self.where = where


class BadContext(VerificationError):
    """A sealed context proves nothing; ``reason`` is one word of `audit_middleware.sealing.context.REASONS`."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
