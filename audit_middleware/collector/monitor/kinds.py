"""Every kind of finding there is: how grave, how it ends, what it means and what to do (wire format, section 5)."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

Severity = Literal["critical", "warning", "info"]
Ends = Literal["itself", "person"]

SEVERITIES: Final[tuple[Severity, ...]] = ("critical", "warning", "info")


class Kind(NamedTuple):
    """One kind of finding.

    ``lasts`` says that it is a condition, which holds until it does not; else it is an event, and each further one is
    news. ``ends`` says whether the monitor may resolve it, or only a person. ``is_own`` says that the collector sees it
    by itself, so that no producer can bring about any number of them.
    """

    severity: Severity
    lasts: bool
    ends: Ends
    meaning: str
    remedy: str
    is_own: bool = False


KINDS: Final[dict[str, Kind]] = {
    "gap": Kind(
        "critical",
        False,
        "itself",
        "lines of a stream are missing: late, lost or removed",
        "look for them in the spool of that host (`audit-ready spool status`); they resolve it when they arrive",
    ),
    "conflict": Kind(
        "critical",
        False,
        "person",
        "two different lines carry one number: a forgery, or a cloned process",
        "compare the line in the ledger with the one in quarantine; find out whether a machine was cloned",
    ),
    "seal": Kind(
        "critical",
        False,
        "itself",
        "delivered lines were altered after they were sealed, or do not continue their stream",
        "look at the lines in quarantine and at the host and the network they came from; a person resolves it, "
        "unless all of them are admitted later with the right key",
    ),
    "unknown_key": Kind(
        "warning",
        False,
        "itself",
        "lines are sealed with a key that this collector does not have",
        "give the collector that key and restart it: it admits the lines and this is resolved",
    ),
    "quarantine": Kind(
        "warning",
        False,
        "itself",
        "lines were set aside: malformed, against their schema, or of a service that the token is not for",
        "look at the lines in quarantine; correct the token's services or the application",
    ),
    "silence": Kind(
        "warning",
        True,
        "itself",
        "a service, an instance or a stream that has not said goodbye is not heard any more",
        "look whether it runs and whether it reaches the collector; it ends when it is heard, closes or proves dead",
    ),
    "unclosed": Kind(
        "warning",
        False,
        "itself",
        "a stream ended without goodbye: its process was killed, crashed, or lost its host",
        "find out why it died; look for lines left in its spool, then resolve it",
    ),
    "lag": Kind(
        "warning",
        True,
        "itself",
        "records arrive later than the objective",
        "look at the shipper of the service, the network, and the load of the collector",
    ),
    "skew": Kind(
        "warning",
        True,
        "itself",
        "the clock of a producer is ahead of the collector's, or behind it; or the collector's own was set",
        "check the time synchronisation of that host and of the collector",
    ),
    "spool": Kind(
        "warning",
        True,
        "itself",
        "the spool of an instance is near its bound",
        "find out why it is not delivered; at its bound requests are refused or go unrecorded",
    ),
    "drop": Kind(
        "critical",
        False,
        "person",
        "an application gave records up by its stated policy",
        "the records are lost: find out why its journal failed, and note it",
    ),
    "missing_service": Kind(
        "critical",
        True,
        "itself",
        "an expected service was never heard, or has ended and was not started again",
        "start it, correct `expected_services`, or its name",
        is_own=True,
    ),
    "unmatched_call": Kind(
        "critical",
        False,
        "itself",
        "a service called another one, which has no record of it; or a context was believed a second time",
        "look at the callee: auditing switched off, a route that is exempt, `context.*` defects in its records, lines "
        "in its spool; they resolve it when they arrive. A context that came again was replayed, or a proxy retried",
    ),
    "volume": Kind(
        "warning",
        True,
        "itself",
        "a service records far less than it always did at this hour",
        "look for routes that are exempt, middleware that was removed, traffic that goes elsewhere",
    ),
    "tampering": Kind(
        "critical",
        True,
        "person",
        "a file of the stored ledger was altered, cut or removed",
        "stop whoever can write there, keep the disk as evidence, restore the file from a copy, then "
        "run `audit-ready verify`",
        is_own=True,
    ),
    "rollback": Kind(
        "critical",
        True,
        "person",
        "a checkpoint or its guard was replaced by an older or another one while the collector runs",
        "stop whoever can write there; do not restart before a newer copy is back, see After restoring a backup",
        is_own=True,
    ),
    "worm": Kind(
        "critical",
        True,
        "itself",
        "the store no longer keeps what is written from being changed",
        "restore the store's lock settings; what was written meanwhile is only as safe as the disk",
        is_own=True,
    ),
    "store": Kind(
        "critical",
        True,
        "itself",
        "the store does not answer, has no room, or failed at a commit: nothing is kept there now",
        "look at the disk, or network and credentials, and restart a collector that stopped; lines wait in spools",
        is_own=True,
    ),
    "uncovered": Kind(
        "warning",
        True,
        "itself",
        "an entry point that was recorded, or is new, was declared exempt: what it does is not on record any more",
        "look who exempted it and why; acknowledge it if that is wanted, else take the exemption back",
    ),
    "policy": Kind(
        "warning",
        False,
        "person",
        "the settings or the rules that decide what a service records were changed",
        "look under `changed` which they are, who changed them and what is not recorded any more, and note it",
    ),
    "rules": Kind(
        "warning",
        False,
        "person",
        "records of an action break the organisation's own rules: something is missing, or the name may not be used",
        "correct the application, or the rules file; the records are kept, and name it among their defects",
    ),
}
