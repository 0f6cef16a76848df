"""Every record that this process makes, in a spool of its own: sealed, journalled and verified for real."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from audit_middleware.config import Settings
from audit_middleware.journal.recorder import Recorder
from audit_middleware.pipeline import Pipeline, divert
from audit_middleware.record import APPLICATION_TYPES, AuditRecord
from audit_middleware.sealing.keys import Keyring, new_key, parse_keys
from audit_middleware.sealing.parse import parse_rec
from audit_middleware.sealing.seal import parse_frame
from audit_middleware.verify import Report, verify_spool

_NO_BOUND: Final = 1 << 50


class Recording:
    """Records of one stretch of a test run; use `recording`."""

    def __init__(self, folder: Path) -> None:
        self.spool = folder / "audit-spool"
        self._keys = new_key("test")
        self._keyring: Keyring = parse_keys(self._keys)
        self._recorders: dict[str, Recorder] = {}

    @property
    def records(self) -> list[AuditRecord]:
        """The ``request``, ``event``, ``task`` and ``call`` records so far, stream by stream in their order."""
        return [record for type_, record in self.lines() if type_ != "attempt"]

    @property
    def attempts(self) -> list[AuditRecord]:
        """The ``attempt`` records so far."""
        return [record for type_, record in self.lines() if type_ == "attempt"]

    def lines(self) -> Iterator[tuple[str, AuditRecord]]:
        """Yield type and record of everything the application did, read from the sealed lines."""
        for segment in sorted(self.spool.glob("streams/*/seg-*"), key=lambda path: (path.stat().st_ctime_ns, path)):
            for line in segment.read_bytes().splitlines():
                frame = parse_frame(line)
                payload = parse_rec(line, frame)
                if frame.type in APPLICATION_TYPES and isinstance(payload, AuditRecord):
                    yield frame.type, payload

    def verify(self) -> Report:
        """Verify every seal and chain; before the first record there is nothing to verify."""
        return verify_spool(self.spool, self._keyring) if self.spool.exists() else Report()

    def recorder(self, pipeline: Pipeline) -> Recorder:
        """Return where a pipeline writes meanwhile: one stream for each service."""
        if pipeline.service not in self._recorders:
            self._recorders[pipeline.service] = self._make(pipeline.settings, pipeline.service)
        return self._recorders[pipeline.service]

    def close(self) -> None:
        """Close the streams."""
        for recorder in self._recorders.values():
            recorder.close()

    def _make(self, settings: Settings, service: str) -> Recorder:
        changed = dataclasses.replace(
            settings,
            keys=self._keys,
            key_file=None,
            spool_dir=self.spool,
            durability="journal",
            collector_url=(),
            spool_max=_NO_BOUND,
            spool_min_free=0,
        )
        return Recorder(changed, self._keyring, service=service)


@contextmanager
def recording(folder: Path) -> Iterator[Recording]:
    """Divert every pipeline of this process, those there are and those to come, to a spool below ``folder``.

    Nothing is delivered, no thread is started. A recording inside another one takes over until it ends.
    """
    taken = Recording(folder)
    before = divert(taken.recorder)
    try:
        yield taken
    finally:
        divert(before)
        taken.close()
