"""What a collector, or whatever stands in its place, does with a request; each is one line of a script.

``accept`` is the good one. The others are what networks, proxies, operators and attackers do.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from audit_middleware.errors import DeliveryError
from audit_middleware.shipping.delivery import Answer


class Keeper(Protocol):
    """The part of `SimulatedCollector` that a behaviour uses."""

    def keep(self, lines: list[bytes], tree_sizes: Mapping[str, int]) -> dict[str, Any]:
        """Store what is new; return the receipt."""


class Behaviour(Protocol):
    """What is done with one request: an `Answer`, or `DeliveryError` when there is none."""

    def __call__(self, collector: Keeper, lines: list[bytes], tree_sizes: Mapping[str, int], /) -> Answer:
        """Answer one request."""


def accept(collector: Keeper, lines: list[bytes], tree_sizes: Mapping[str, int]) -> Answer:
    """Store the lines and answer with a receipt."""
    return _receipt(collector.keep(lines, tree_sizes))


def lose_request(_collector: Keeper, _lines: list[bytes], _tree_sizes: Mapping[str, int]) -> Answer:
    """Nothing arrives."""
    raise DeliveryError("simulated: the request was lost")


def lose_response(collector: Keeper, lines: list[bytes], tree_sizes: Mapping[str, int]) -> Answer:
    """Everything arrives and is stored; the answer is lost."""
    collector.keep(lines, tree_sizes)
    raise DeliveryError("simulated: the answer was lost")


def half_response(collector: Keeper, lines: list[bytes], tree_sizes: Mapping[str, int]) -> Answer:
    """Everything is stored; half of the receipt arrives."""
    whole = accept(collector, lines, tree_sizes)
    return whole._replace(body=whole.body[: len(whole.body) // 2])


def captive_portal(_collector: Keeper, _lines: list[bytes], _tree_sizes: Mapping[str, int]) -> Answer:
    """A 200 from something that is no collector."""
    return Answer(200, b"<html><title>Please log in</title></html>", None, is_collector=False)


def answering(
    status: int, body: bytes = b"", *, retry_after: float | None = None, is_collector: bool = True
) -> Behaviour:
    """Return a behaviour that stores nothing and answers with ``status``."""

    def answer(_collector: Keeper, _lines: list[bytes], _tree_sizes: Mapping[str, int]) -> Answer:
        return Answer(status, body, retry_after, is_collector)

    return answer


def refusing(is_poison: Callable[[bytes], bool], status: int = 400) -> Behaviour:
    """Return a behaviour that refuses every batch with a poisonous line as a whole."""

    def answer(collector: Keeper, lines: list[bytes], tree_sizes: Mapping[str, int]) -> Answer:
        if any(is_poison(line) for line in lines):
            return Answer(status, b'{"title": "refused"}', None, is_collector=True)
        return accept(collector, lines, tree_sizes)

    return answer


def at_most(records: int) -> Behaviour:
    """Return a behaviour that answers 413 to more than ``records`` lines."""

    def answer(collector: Keeper, lines: list[bytes], tree_sizes: Mapping[str, int]) -> Answer:
        if len(lines) > records:
            return Answer(413, b"", None, is_collector=True)
        return accept(collector, lines, tree_sizes)

    return answer


def only_first(records: int) -> Behaviour:
    """Return a behaviour that stores and acknowledges the first ``records`` lines of a batch, no more."""

    def answer(collector: Keeper, lines: list[bytes], tree_sizes: Mapping[str, int]) -> Answer:
        return accept(collector, lines[:records], tree_sizes)

    return answer


def altering(change: Callable[[dict[str, Any]], object]) -> Behaviour:
    """Return a behaviour that stores the lines and lets ``change`` alter the receipt before it is sent."""

    def answer(collector: Keeper, lines: list[bytes], tree_sizes: Mapping[str, int]) -> Answer:
        receipt = collector.keep(lines, tree_sizes)
        change(receipt)
        return _receipt(receipt)

    return answer


def _rename_streams(receipt: dict[str, Any]) -> None:
    receipt["acks"] = {"B" * 21 + last: ack for last, ack in zip("AQgw", receipt["acks"].values(), strict=False)}


def _reach_beyond(receipt: dict[str, Any]) -> None:
    for ack in receipt["acks"].values():
        ack["seq"] += 1


def _name_other_leaf(receipt: dict[str, Any]) -> None:
    for ack in receipt["acks"].values():
        ack["leaf"] = "A" * 43


def _name_no_log(receipt: dict[str, Any]) -> None:
    receipt["logs"] = []


def _leave_out_proof(receipt: dict[str, Any]) -> None:
    for log in receipt["logs"]:
        log.pop("consistency", None)


def _forge_proof(receipt: dict[str, Any]) -> None:
    for log in receipt["logs"]:
        log["consistency"] = ["A" * 43 + "="] * max(1, len(log.get("consistency", ())))


ack_other_stream = altering(_rename_streams)
"""Acknowledge a stream that was not sent."""
ack_beyond_sent = altering(_reach_beyond)
"""Acknowledge one line more than was sent."""
ack_wrong_leaf = altering(_name_other_leaf)
"""Acknowledge the right number with the hash of another line."""
without_log = altering(_name_no_log)
"""Name no log: nothing says that the lines were kept."""
without_proof = altering(_leave_out_proof)
"""Leave the consistency proof out."""
forged_proof = altering(_forge_proof)
"""Prove consistency with hashes that lead nowhere."""


def _receipt(receipt: Mapping[str, Any]) -> Answer:
    return Answer(200, json.dumps(receipt).encode(), None, is_collector=True)
