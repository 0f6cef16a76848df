"""The shipper: one batch, one receipt, then trim. The same code in a thread of the application and as a sidecar.

Nothing is dropped by a retry limit, an age limit or a 4xx. One line that a collector refuses goes to quarantine; a
batch never does.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

from audit_middleware.errors import DeliveryError, JournalError, ReceiptError
from audit_middleware.journal.outbox import Pending
from audit_middleware.journal.segment import peek
from audit_middleware.shipping.backoff import Backoff
from audit_middleware.shipping.delivery import MAX_BATCH_BYTES, Answer, Transport
from audit_middleware.shipping.receipt import LogPins, Receipt, covered_lines, read_receipt

LOGGER: Final = logging.getLogger("audit_middleware")
REFUSALS: Final = 3
REFUSALS_APART_S: Final = 60.0
_QUIET_S: Final = 60.0
_TOO_LARGE: Final = 413  # RFC 9110, section 15.5.14
_WHO_ARE_YOU: Final = frozenset({401, 403, 404, 407, 421})


class Deliverable(Protocol):
    """One stream's lines that wait: an `Outbox` on disk, or the journal in memory."""

    stream: str

    def pending(self, limit: int, max_bytes: int) -> list[Pending]:
        """Return lines in order, behind what was acknowledged."""

    def advance(self, last: Pending) -> None:
        """Forget everything up to and with ``last``."""


class Item(NamedTuple):
    """A line of a batch, and the outbox it comes from."""

    outbox: Deliverable
    pending: Pending


@dataclass(slots=True)
class Shipped:
    """What a shipper has done so far, for status and metrics."""

    delivered: int = 0
    quarantined: int = 0
    kept_aside: int = 0
    failures: int = 0
    last_error: str = ""


KeepAside = Callable[[str, str, bytes, dict[str, Any]], None]


class Shipper:
    """Delivers what outboxes hold to one collector, batch by batch. One thread."""

    def __init__(
        self,
        transport: Transport,
        pins: LogPins,
        keep_aside: KeepAside,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        backoff: Backoff | None = None,
    ) -> None:
        self.shipped = Shipped()
        self.backoff = backoff or Backoff(monotonic)
        self.is_behind = False
        """Whether the last batch had as many records as one may, or half of its bytes, so that more may wait."""
        self.on_receipt: Callable[[Sequence[Item], LogPins], None] = lambda _items, _pins: None
        """Called with the lines that were delivered, after the outboxes moved behind them."""
        self._transport = transport
        self._pins = pins
        self._keep_aside = keep_aside
        self._monotonic = monotonic
        self._refusals: dict[bytes, tuple[int, float]] = {}
        self._quiet_until = 0.0

    def turn(self, outboxes: Sequence[Deliverable]) -> bool:
        """Deliver one batch if the backoff lets it; say whether something was delivered. Never raises."""
        if self.backoff.wait_s > 0:
            return False
        batch = self._gather(outboxes)
        if not batch:
            return False
        try:
            self._pin_on_first_use()
            answer = self._transport.post(_body(batch), self._pins.sizes())
            return self._judge(batch, answer)
        except (DeliveryError, OSError, JournalError) as error:
            self._failed(str(error))
            return False

    def close(self) -> None:
        """Let connections go."""
        self._transport.close()

    def _gather(self, outboxes: Sequence[Deliverable]) -> list[Item]:
        """Fill a batch from several streams, in order within each; lines that are damage are put aside here."""
        batch: list[Item] = []
        self.is_behind = True
        room, limit = MAX_BATCH_BYTES, self.backoff.limit
        for outbox in outboxes:
            for pending in self._sendable(outbox, limit - len(batch), room):
                room -= len(pending.line.data) + 1
                if len(batch) >= limit or (room < 0 and batch):
                    return batch
                batch.append(Item(outbox, pending))
        self.is_behind = len(batch) >= limit or room < MAX_BATCH_BYTES // 2
        return batch

    def _sendable(self, outbox: Deliverable, limit: int, room: int) -> list[Pending]:
        good: list[Pending] = []
        try:
            for item in outbox.pending(limit, room) if limit > 0 and room > 0 else ():
                if not item.line.damage and item.line.data:
                    good.append(item)
                elif not good:
                    self._put_aside(Item(outbox, item), "not a line")
                else:
                    break
        except (OSError, JournalError) as error:  # this stream waits, the others go on
            self._say(f"{outbox.stream} cannot be delivered from this disk now: {error}")
        return good

    def _pin_on_first_use(self) -> None:
        if self._pins.verifiers:
            return
        keys = self._transport.log_keys()
        if not keys:
            raise ReceiptError("the collector names no log key; set AUDIT_LOG_KEYS")
        try:
            self._pins.pin(keys)
        except Exception as error:
            raise ReceiptError(f"the collector's log keys cannot be read: {error}") from error
        LOGGER.warning("audit: pinned the collector's log keys on first use: %s", ", ".join(keys))

    def _judge(self, batch: list[Item], answer: Answer) -> bool:
        """Decide by status what the answer means (wire format, section 5)."""
        status = answer.status
        if status == 200:  # noqa: PLR2004 - the only success there is
            self._trim(batch, read_receipt(answer.body))
            return True
        if status in {400, 422} and answer.is_collector:
            self._refused(batch, f"answered {status}: {_excerpt(answer)}")
        elif status == _TOO_LARGE:
            self._too_large(batch)
        elif status in _WHO_ARE_YOU:
            self._say(f"the collector answers {status}: everything is held until it knows us: {_excerpt(answer)}")
            self.backoff.held()
        else:
            self._failed(f"answered {status}: {_excerpt(answer)}", answer.retry_after)
        return False

    def _trim(self, batch: list[Item], receipt: Receipt) -> None:
        """Check the receipt, and only then move each outbox behind the lines it covers without a hole."""
        lines = [item.pending.line.data for item in batch]
        covered = covered_lines(lines, receipt)
        self._pins.check(receipt.logs)
        stopped: set[str] = set()
        delivered: list[Item] = []
        for item, is_covered in zip(batch, covered, strict=True):
            if not is_covered:
                stopped.add(item.outbox.stream)
            elif item.outbox.stream not in stopped:
                delivered.append(item)
        if not delivered:
            raise ReceiptError("the receipt covers no line that was sent")
        for item in {item.outbox.stream: item for item in delivered}.values():
            item.outbox.advance(item.pending)
        self._note(receipt, len(delivered))
        self.on_receipt(delivered, self._pins)

    def _note(self, receipt: Receipt, delivered: int) -> None:
        self.backoff.succeeded()
        self.shipped.delivered += delivered
        self.shipped.quarantined += len(receipt.quarantined)
        for refusal in receipt.quarantined[:3]:
            self._say(f"the collector put a line into quarantine: {refusal.reason}")

    def _too_large(self, batch: list[Item]) -> None:
        if len(batch) > 1:
            self.backoff.too_large(len(batch))
            return
        self._put_aside(batch[0], "413 for a single line")
        self.backoff.cleared()

    def _refused(self, batch: list[Item], why: str) -> None:
        """Bisect to a single line; that one is put aside after several refusals a minute apart."""
        if len(batch) > 1:
            self.backoff.too_large(len(batch))
            return
        line = batch[0].pending.line.data
        count, at = self._refusals.get(line, (0, float("-inf")))
        now = self._monotonic()
        if now - at >= REFUSALS_APART_S:
            count, at = count + 1, now
        self._refusals = {line: (count, at)}
        if count >= REFUSALS:
            self._put_aside(batch[0], why)
            self.backoff.cleared()
            return
        self._failed(why, REFUSALS_APART_S)

    def _put_aside(self, item: Item, why: str) -> None:
        """Keep the line in the spool's quarantine, then go on behind it. ``OSError`` when it cannot be kept."""
        line = item.pending.line
        named = peek(line.data)
        name = f"{named[1] if named else 'none'}-{item.pending.behind.ordinal}-{line.end}"
        self._keep_aside(item.outbox.stream, name, line.data, {"reason": why[:500]})
        item.outbox.advance(item.pending)
        self.shipped.kept_aside += 1
        self._say(f"a line of {item.outbox.stream} was put into the spool's quarantine: {why}")

    def _failed(self, why: str, retry_after: float | None = None) -> None:
        self.shipped.failures += 1
        self.backoff.failed(retry_after)
        self._say(f"not delivered, kept in the spool: {why}")

    def _say(self, what: str) -> None:
        """Log once a minute, remember always."""
        self.shipped.last_error = what
        now = self._monotonic()
        if now >= self._quiet_until:
            self._quiet_until = now + _QUIET_S
            LOGGER.warning("audit: %s", what)


def _body(batch: Sequence[Item]) -> bytes:
    return b"".join(item.pending.line.data + b"\n" for item in batch)


def _excerpt(answer: Answer) -> str:
    return answer.body[:200].decode("utf-8", "replace")
