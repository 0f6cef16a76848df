"""Which streams a process delivers: its own, those whose writers died, as a sidecar all that nobody else delivers."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Final

import msgspec

from audit_middleware.config import Settings
from audit_middleware.errors import JournalError
from audit_middleware.journal.outbox import Outbox
from audit_middleware.journal.spool import Spool
from audit_middleware.shipping.delivery import HTTPTransport
from audit_middleware.shipping.receipt import LogPins
from audit_middleware.shipping.shipper import Deliverable, Shipper
from audit_middleware.tlog.checkpoint import Checkpoint

SCAN_EVERY_S: Final = 5.0
_uniform: Final = random.SystemRandom().uniform
_PINS_FILE: Final = "logs.json"
_PINS_BYTES: Final = 64 * 1024


class SeenLog(msgspec.Struct):
    """A checkpoint as the spool remembers it; ``root`` in hex."""

    size: int
    root: str


class SavedPins(msgspec.Struct):
    """What the spool remembers of the logs it delivers to, across restarts."""

    keys: list[str] = []
    newest: dict[str, SeenLog] = {}


class Dispatch:
    """Takes outboxes of a spool, has a shipper deliver them, removes dead streams that are delivered. One thread."""

    def __init__(
        self,
        spool: Spool,
        shipper: Shipper,
        *,
        own_stream: Callable[[], str | None] = lambda: None,
        takes_living: bool = False,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.shipper = shipper
        self.on_adopted: Callable[[str, int], None] = lambda _stream, _torn: None
        """Called with (stream, torn bytes) after a dead stream was delivered whole."""
        self._spool = spool
        self._own_stream = own_stream
        self._takes_living = takes_living
        self._monotonic = monotonic
        self._outboxes: dict[str, Outbox] = {}
        self._scan_at = 0.0

    def turn(self) -> bool:
        """Take what can be taken, deliver one batch; say whether something was delivered."""
        self._take_own()
        if self._monotonic() >= self._scan_at and not self.shipper.backoff.is_open:
            self._scan_at = self._monotonic() + SCAN_EVERY_S * _uniform(0.8, 1.2)
            self.scan()
        return self.shipper.turn(self._in_turn())

    def scan(self) -> None:
        """Take every stream that may be taken now, and retire the dead ones that are delivered."""
        self._spool.sweep()
        for stream in self._spool.streams():
            if stream not in self._outboxes:
                self._take(stream)
        for stream, outbox in list(self._outboxes.items()):
            if stream != self._own_stream() and not outbox.pending(1, 1) and outbox.writer_is_dead():
                self._retire(outbox)

    def waits(self) -> int:
        """Return how many of the streams taken still have lines to deliver."""
        return sum(1 for outbox in self._outboxes.values() if outbox.pending(1, 1))

    def release(self) -> None:
        """Let every outbox go, for whoever delivers next."""
        while self._outboxes:
            self._outboxes.popitem()[1].release()

    def _take_own(self) -> None:
        own = self._own_stream()
        if own is not None and own not in self._outboxes:
            self._take(own)

    def _take(self, stream: str) -> None:
        outbox = self._spool.outbox(stream)
        if outbox is None:
            return
        if self._takes_living or stream == self._own_stream() or outbox.writer_is_dead():
            self._outboxes[stream] = outbox
        else:
            outbox.release()

    def _in_turn(self) -> list[Deliverable]:
        """The own stream first, unless it had the last turn and others wait."""
        own = self._own_stream()
        others: list[Deliverable] = [outbox for stream, outbox in self._outboxes.items() if stream != own]
        mine: list[Deliverable] = [self._outboxes[own]] if own in self._outboxes else []
        own_first = self.shipper.shipped.delivered % 2 == 0
        return mine + others if own_first else others + mine

    def _retire(self, outbox: Outbox) -> None:
        if outbox.pending(1, 1):
            return  # written between the look and the death of the writer
        del self._outboxes[outbox.stream]
        torn = outbox.left_bytes()
        self._spool.retire(outbox)
        self.on_adopted(outbox.stream, torn)


def dispatch_for(
    settings: Settings,
    spool: Spool,
    *,
    own_stream: Callable[[], str | None] = lambda: None,
    takes_living: bool = False,
) -> Dispatch:
    """Return a dispatch that delivers ``spool`` as ``settings`` say; the pinned log keys are remembered in the spool.

    Raises ``ValueError`` or `BadSignature` for a configured log key that is none.
    """
    transport = HTTPTransport(
        settings.collector_url, token=settings.token, compress=settings.gzip, ca_file=settings.ca_file
    )
    pins = load_pins(spool, settings.log_keys)
    shipper = Shipper(transport, pins, spool.keep_aside)
    shipper.on_receipt = lambda _items, pins: save_pins(spool, pins)
    return Dispatch(spool, shipper, own_stream=own_stream, takes_living=takes_living)


def load_pins(spool: Spool, configured: tuple[str, ...]) -> LogPins:
    """Return configured log keys, else those this spool pinned before, and the checkpoints it saw last."""
    try:
        saved = msgspec.json.decode(spool.read_state(_PINS_FILE, _PINS_BYTES), type=SavedPins)
    except (OSError, msgspec.MsgspecError):
        saved = SavedPins()
    pins = LogPins()
    pins.pin(configured or saved.keys)
    pins.newest = {
        origin: Checkpoint(origin, seen.size, bytes.fromhex(seen.root)) for origin, seen in saved.newest.items()
    }
    return pins


def save_pins(spool: Spool, pins: LogPins) -> None:
    """Remember keys and checkpoints in the spool; a full disk only makes the next process remember less."""
    newest = {origin: SeenLog(seen.size, seen.root.hex()) for origin, seen in pins.newest.items()}
    saved = SavedPins([verifier.vkey for verifier in pins.verifiers], newest)
    try:
        spool.write_state(_PINS_FILE, msgspec.json.encode(saved))
    except (OSError, JournalError):
        return
