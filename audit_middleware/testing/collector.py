"""A collector in memory, behind the shipper's own `Transport` protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from audit_middleware.errors import MalformedLine
from audit_middleware.sealing.seal import leaf_hash, parse_frame
from audit_middleware.sealing.text import b64url
from audit_middleware.shipping.delivery import Answer
from audit_middleware.testing.faults import Behaviour, accept
from audit_middleware.testing.log import SimulatedLog
from audit_middleware.tlog.note import Signer

ORIGIN: Final = "simulated.example/default/2026h2"


class Post(NamedTuple):
    """One request as it arrived, or would have."""

    lines: list[bytes]
    tree_sizes: dict[str, int]


class SimulatedCollector:
    """Stores lines once per (stream, seq, leaf), answers with real receipts, and fails as it is told to.

    ``script`` holds the behaviour of the next requests, in order; behind its end comes ``usually``. Behaviours are
    functions of `audit_middleware.testing.faults`. What arrived is in ``posts``, what was kept in ``stored``.
    Seals are not checked: ``verdict`` may say of a line why it belongs into quarantine. Not thread-safe.
    """

    def __init__(self, *, seed: bytes = bytes(range(32)), origin: str = ORIGIN) -> None:
        self.log = SimulatedLog(Signer(origin, seed))
        self.posts: list[Post] = []
        self.script: list[Behaviour] = []
        self.usually: Behaviour = accept
        self.verdict: Callable[[bytes], str | None] = lambda _line: None
        self.quarantined: list[bytes] = []
        self.key_requests = 0
        self.is_closed = False
        self._known: dict[tuple[str, int], bytes] = {}

    @property
    def stored(self) -> list[bytes]:
        """The lines in the log, in its order."""
        return self.log.entries

    @property
    def vkey(self) -> str:
        """The verifier key of the log."""
        return self.log.signer.verifier.vkey

    def post(self, body: bytes, tree_sizes: Mapping[str, int]) -> Answer:
        """Deliver NDJSON, as the script says."""
        self.posts.append(Post(body.split(b"\n")[:-1], dict(tree_sizes)))
        behaviour = self.script.pop(0) if self.script else self.usually
        return behaviour(self, self.posts[-1].lines, tree_sizes)

    def log_keys(self) -> list[str]:
        """Name the keys, for pinning on first use."""
        self.key_requests += 1
        return [self.vkey]

    def close(self) -> None:
        """Note that connections were let go."""
        self.is_closed = True

    def keep(self, lines: list[bytes], tree_sizes: Mapping[str, int]) -> dict[str, Any]:
        """Store what is new; return the receipt as the wire format has it."""
        fresh: list[bytes] = []
        refused: list[dict[str, Any]] = []
        acks: dict[str, dict[str, Any]] = {}
        for number, line in enumerate(lines, 1):
            reason = self._judge(line, acks, fresh)
            if reason is not None:
                refused.append({"line": number, "reason": reason})
                self.quarantined.append(line)
        placed = self.log.extend(fresh)
        return {
            "accepted": len(fresh),
            "duplicates": len(lines) - len(fresh) - len(refused),
            "quarantined": refused,
            "acks": acks,
            "logs": [self.log.head(placed, tree_sizes)],
        }

    def roll_back(self, size: int) -> None:
        """Forget what came after ``size`` entries, as a restored backup does."""
        self._replace(self.log.entries[:size])

    def rewrite(self, change: Callable[[list[bytes]], list[bytes]]) -> None:
        """Change history: the log is signed anew over what ``change`` returns."""
        self._replace(change(list(self.log.entries)))

    def change_key(self, seed: bytes) -> None:
        """Sign with another key from now on."""
        self.log = SimulatedLog(Signer(self.log.signer.name, seed), self.log.entries)

    def begin_period(self, origin: str) -> None:
        """Go on with an empty log of another name, signed by the same key."""
        self.log = SimulatedLog(Signer(origin, self.log.signer.seed))

    def _replace(self, entries: list[bytes]) -> None:
        self.log = SimulatedLog(self.log.signer, entries)
        self._known = {}
        for line in entries:
            frame = parse_frame(line)
            self._known[frame.stream, frame.seq] = leaf_hash(line)

    def _judge(self, line: bytes, acks: dict[str, dict[str, Any]], fresh: list[bytes]) -> str | None:
        """Sort a line in; return the reason when it belongs into quarantine."""
        try:
            frame = parse_frame(line)
        except MalformedLine as error:
            return error.rule
        leaf, name = leaf_hash(line), (frame.stream, frame.seq)
        if acks.get(frame.stream, {"seq": -1})["seq"] <= frame.seq:
            acks[frame.stream] = {"seq": frame.seq, "leaf": b64url(leaf).decode()}
        reason = self.verdict(line)
        if reason is not None:
            return reason
        if name not in self._known:
            self._known[name] = leaf
            fresh.append(line)
        return None if self._known[name] == leaf else "conflict"
