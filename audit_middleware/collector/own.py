"""The collector's own stream: what it does and finds, sealed like everybody else's (wire format, section 3)."""

from __future__ import annotations

import os
import platform
import secrets
import time
from pathlib import Path

from audit_middleware._version import __version__
from audit_middleware.collector.ingest import OWN_SERVICE
from audit_middleware.record import UNKNOWN, Counters, Opened, Payload, StreamHead
from audit_middleware.sealing.encode import encode_rec
from audit_middleware.sealing.keys import Keyring
from audit_middleware.sealing.seal import STREAM_BYTES, Frame, Sealer, parse_frame
from audit_middleware.sealing.text import timestamp, unb64url


class OwnStream:
    """Seals the collector's own lines, in one stream for the life of the process.

    A line that was sealed must be committed before the next one is; after a commit that failed `go_on` takes the stream
    back to where the ledgers have it. ``seen`` and ``recorded`` count lines delivered and lines admitted.
    """

    def __init__(self, keyring: Keyring) -> None:
        self.seen = self.recorded = 0
        self.keyring = keyring
        self._started = timestamp(time.time_ns()).decode()
        self.begin()

    @property
    def stream(self) -> str:
        """The stream's id."""
        return self._sealer.stream

    @property
    def is_open(self) -> bool:
        """Whether the first line was sealed."""
        return self._sealer.seq > 0

    def begin(self) -> None:
        """Begin a stream under a new name: of the one before it nothing came into a ledger."""
        self._sealer = Sealer(self.keyring, secrets.token_bytes(STREAM_BYTES))

    def go_on(self, seq: int, head: str) -> None:
        """Go on behind the last line that is in a ledger; what was sealed after it is nowhere, and will never be."""
        self._sealer = Sealer(self.keyring, unb64url(self.stream.encode()), seq=seq, prev=head.encode())

    def seal(self, type_: str, payload: Payload) -> tuple[bytes, Frame]:
        """Return the next line of the stream, which has moved behind it."""
        line = self._sealer.seal(type_.encode(), timestamp(time.time_ns()), encode_rec(payload))
        self._sealer.commit(line)
        return line, parse_frame(line)

    def opened(self, name: str, previous: StreamHead | None) -> Opened:
        """Return the payload of ``open`` for the collector of the logs under ``name``."""
        return Opened(
            service=OWN_SERVICE,
            version=__version__,
            instance=name,
            env=os.environ.get("AUDIT_ENV", UNKNOWN),
            host=platform.node() or UNKNOWN,
            boot_id=_boot_id(),
            pid=os.getpid(),
            started=self._started,
            library=f"audit-ready/{__version__}",
            policy="collector",
            durability="fsync",
            previous=previous,
        )

    def counters(self, checkpoint: int) -> Counters:
        """Return the payload of ``beat`` and ``close``; ``checkpoint`` is the size of the log."""
        return Counters(
            service=OWN_SERVICE,
            monotonic_us=time.monotonic_ns() // 1000,
            seen=self.seen,
            recorded=self.recorded,
            dropped=0,
            spool_bytes=0,
            checkpoint=checkpoint,
        )


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return UNKNOWN
