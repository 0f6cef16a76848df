"""Which streams a process delivers: its own, those whose writers died, as a sidecar all that nobody else delivers."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import Final

import msgspec

from audit_middleware.config import Settings
from audit_middleware.errors import ConfigurationError, JournalError
from audit_middleware.journal.outbox import Outbox
from audit_middleware.journal.spool import Spool
from audit_middleware.shipping.delivery import HTTPTransport, TLSFiles
from audit_middleware.shipping.receipt import LogPins
from audit_middleware.shipping.shipper import Deliverable, Shipper
from audit_middleware.tlog.checkpoint import Checkpoint
from audit_middleware.tlog.note import is_log_name

LOGGER: Final = logging.getLogger("audit_middleware")
SCAN_EVERY_S: Final = 5.0
SAVE_PINS_EVERY_S: Final = 5.0
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
        self.on_release: Callable[[], None] = lambda: None
        """Called when the outboxes are let go: what is remembered between deliveries is saved here."""
        self._spool = spool
        self._own_stream = own_stream
        self._takes_living = takes_living
        self._monotonic = monotonic
        self._outboxes: dict[str, Outbox] = {}
        self._scan_at = 0.0
        self._is_own_turn = True

    def turn(self) -> bool:
        """Take what can be taken, deliver one batch; say whether something was delivered."""
        self._take_own()
        if self._monotonic() >= self._scan_at and not self.shipper.backoff.is_open:
            self._scan_at = self._monotonic() + SCAN_EVERY_S * _uniform(0.8, 1.2)
            self.scan()
        has_delivered = self.shipper.turn(self._in_turn())
        if has_delivered:
            self._is_own_turn = not self._is_own_turn
        return has_delivered

    def scan(self) -> None:
        """Take every stream that may be taken now, and retire the dead ones that are delivered."""
        self._spool.sweep()
        for stream in self._spool.streams():
            if stream not in self._outboxes:
                self._take(stream)
        for stream, outbox in list(self._outboxes.items()):
            if stream != self._own_stream() and self._is_done(outbox):
                self._retire(outbox)

    def waits(self) -> int:
        """Return how many of the streams taken still have lines to deliver."""
        return sum(1 for outbox in self._outboxes.values() if not outbox.is_delivered())

    def held(self) -> int:
        """Return how many streams with lines to deliver another process holds."""
        others = [stream for stream in self._spool.streams() if stream not in self._outboxes]
        return sum(1 for stream in others if self._spool.view(stream).waiting_bytes > 0)

    def release(self) -> None:
        """Let every outbox go, for whoever delivers next."""
        self.on_release()
        self.abandon()

    def abandon(self) -> None:
        """Close the outboxes and write nothing: in a forked child they are the parent's."""
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
        try:
            may_take = self._takes_living or stream == self._own_stream() or outbox.writer_is_dead()
        except OSError:
            may_take = False
        if may_take:
            self._outboxes[stream] = outbox
        else:
            outbox.release()

    def _in_turn(self) -> list[Deliverable]:
        """The own stream first in every second batch, so that neither keeps the other waiting."""
        own = self._own_stream()
        others: list[Deliverable] = [outbox for stream, outbox in self._outboxes.items() if stream != own]
        mine: list[Deliverable] = [self._outboxes[own]] if own in self._outboxes else []
        return mine + others if self._is_own_turn else others + mine

    @staticmethod
    def _is_done(outbox: Outbox) -> bool:
        """Whether the writer is dead and nothing is left; in this order, so that nothing is written in between."""
        try:
            return outbox.writer_is_dead() and outbox.is_delivered()
        except OSError:
            return False

    def _retire(self, outbox: Outbox) -> None:
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

    Raises `ConfigurationError` for a configured log key that is none.
    """
    transport = HTTPTransport(
        settings.collector_url, token=settings.token, compress=settings.gzip, tls=TLSFiles.of(settings)
    )
    pins = load_pins(spool, settings.log_keys)
    shipper = Shipper(transport, pins, spool.keep_aside)
    memory = _PinMemory(spool, pins)
    shipper.on_receipt = lambda _items, _pins: memory.note()
    dispatch = Dispatch(spool, shipper, own_stream=own_stream, takes_living=takes_living)
    dispatch.on_release = memory.save
    return dispatch


class _PinMemory:
    """Writes the pins into the spool at the first receipt, then every few seconds: a rename costs a millisecond."""

    def __init__(self, spool: Spool, pins: LogPins) -> None:
        self._spool = spool
        self._pins = pins
        self._save_at = 0.0
        self._is_saved = True

    def note(self) -> None:
        self._is_saved = False
        if time.monotonic() >= self._save_at:
            self.save()

    def save(self) -> None:
        if not self._is_saved:
            save_pins(self._spool, self._pins)
            self._is_saved = True
            self._save_at = time.monotonic() + SAVE_PINS_EVERY_S


def load_pins(spool: Spool, configured: tuple[str, ...]) -> LogPins:
    """Return configured log keys, else those this spool pinned before, and the checkpoints it saw last."""
    pins = _read_pins(spool)
    if configured:
        pins.verifiers.clear()
        pins.pin(configured)
    return pins


def _read_pins(spool: Spool) -> LogPins:
    """What cannot be read is forgotten, and pinned again on first use: the spool goes on being delivered."""
    pins = LogPins()
    try:
        saved = msgspec.json.decode(spool.read_state(_PINS_FILE, _PINS_BYTES), type=SavedPins)
        pins.pin(saved.keys)
        pins.newest = {
            origin: Checkpoint(origin, seen.size, bytes.fromhex(seen.root))
            for origin, seen in saved.newest.items()
            if is_log_name(origin)
        }
    except FileNotFoundError:
        pass
    except (OSError, ValueError, ConfigurationError) as error:
        LOGGER.warning("audit: what the spool knew of the collector's logs cannot be read (%s)", error)
    return pins


def save_pins(spool: Spool, pins: LogPins) -> None:
    """Remember keys and checkpoints in the spool; a full disk only makes the next process remember less."""
    newest = {origin: SeenLog(seen.size, seen.root.hex()) for origin, seen in pins.newest.items()}
    saved = SavedPins([verifier.vkey for verifier in pins.verifiers], newest)
    try:
        spool.write_state(_PINS_FILE, msgspec.json.encode(saved))
    except (OSError, JournalError):
        return
