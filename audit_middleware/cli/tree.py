"""What one principal brought about in all services, as a tree: records of one trace, joined by ids. Pure.

An exchange (a request or a task, with the attempt before it) is one node. A call hangs below the exchange that made
it, whoever was called below the call: by the span that a sealed context named, else by ``traceparent``. What was
forged cannot make the tree endless: each record is drawn once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

Found = Mapping[str, Any]
"""One record as a search gives it: ``log``, ``index`` and the parsed line as ``record``."""

TYPES: Final = frozenset({"attempt", "request", "event", "task", "call"})
ENDS: Final = frozenset({"request", "task"})


@dataclass(slots=True)
class Node:
    """One thing that was done; ``attempt`` is the record before it, ``found`` the record after it, or the attempt."""

    found: Found
    attempt: Found | None = None
    parent: Node | None = None
    children: list[Node] = field(default_factory=list)
    depth: int = 0
    is_last: bool = True

    @property
    def type(self) -> str:
        """Type of the record."""
        type_: str = self.found["record"]["type"]
        return type_

    @property
    def rec(self) -> Mapping[str, Any]:
        """What the record says."""
        rec: Mapping[str, Any] = self.found["record"]["rec"]
        return rec

    @property
    def began(self) -> str:
        """When it began, as far as is known: the attempt's time, else the record's."""
        ts: str = (self.attempt or self.found)["record"]["ts"]
        return ts

    @property
    def marks(self) -> list[str]:
        """What is not as it should be, in words."""
        found = [f"defects: {', '.join(map(str, self.rec['defects']))}"] if self.rec.get("defects") else []
        if self.type == "attempt":
            return ["no end on record"]
        if self.type == "call" and said(self.rec, "call", "carried") is True and not self.children:
            return [*found, f"not recorded by {said(self.rec, 'call', 'host')}"]
        if self.parent is None and (cause := self.rec.get("cause")):
            found.append(f"brought about by {cause.get('service')} {cause.get('request_id')}, which is not on record")
        return found


def said(rec: Mapping[str, Any], group: str, name: str) -> Any:  # noqa: ANN401 - a member of a JSON object
    """Return a member of a member, None where there is none."""
    return (rec.get(group) or {}).get(name)


def nodes_of(found: Iterable[Found]) -> list[Node]:
    """Return all that was done, in the order of a drawing: what began first comes first, below its parent."""
    nodes = _joined(sorted(_distinct(found), key=_time))
    _hang(nodes)
    return list(_walk(nodes))


def _distinct(found: Iterable[Found]) -> list[Found]:
    places = {(each["log"], each["index"]): each for each in found if each["record"]["type"] in TYPES}
    return list(places.values())


def _time(found: Found) -> tuple[str, str, int]:
    record = found["record"]
    return record["ts"], record["stream"], record["seq"]


def _joined(found: Sequence[Found]) -> list[Node]:
    """Make an attempt and the record that names it one node."""
    attempts = {_place(each, each["record"]["seq"]): each for each in found if each["record"]["type"] == "attempt"}
    nodes = []
    for each in found:
        record = each["record"]
        if record["type"] in ENDS:
            attempt = attempts.pop(_place(each, record["rec"].get("attempt")), None)
            nodes.append(Node(each, attempt))
        elif record["type"] != "attempt":
            nodes.append(Node(each))
    return sorted([*nodes, *map(Node, attempts.values())], key=lambda node: (node.began, _time(node.found)))


def _place(found: Found, seq: int | None) -> tuple[str, int | None]:
    return found["record"]["stream"], seq


def _hang(nodes: Sequence[Node]) -> None:
    exchanges: dict[object, Node] = {}
    calls: dict[object, Node] = {}
    spans: dict[object, Node] = {}
    for node in nodes:
        if node.type == "call":
            calls.setdefault(said(node.rec, "trace", "span_id"), node)
        elif node.type != "event":
            exchanges.setdefault(said(node.rec, "trace", "request_id"), node)
            spans.setdefault(said(node.rec, "trace", "span_id"), node)
    for node in nodes:
        for parent in _parents(node, exchanges, calls, spans):
            if parent is not None and not _is_below(parent, node):
                node.parent = parent
                parent.children.append(node)
                break


def _parents(
    node: Node, exchanges: Mapping[object, Node], calls: Mapping[object, Node], spans: Mapping[object, Node]
) -> Iterator[Node | None]:
    """Yield whom a node can hang below, best first; what nobody named is named None, and found nowhere."""
    rec = node.rec
    if node.type in {"call", "event"}:
        yield exchanges.get(said(rec, "trace", "request_id"))
        return
    for key, where in (
        (said(rec, "cause", "span_id"), calls),
        (said(rec, "cause", "request_id"), exchanges),
        (said(rec, "trace", "parent_span_id"), calls),
        (said(rec, "trace", "parent_span_id"), spans),
    ):
        yield where.get(key) if key is not None else None


def _is_below(node: Node | None, other: Node) -> bool:
    while node is not None:
        if node is other:
            return True
        node = node.parent
    return False


def _walk(nodes: Sequence[Node]) -> Iterator[Node]:
    waiting = [node for node in reversed(nodes) if node.parent is None]
    while waiting:
        node = waiting.pop()
        node.depth = node.parent.depth + 1 if node.parent is not None else 0
        yield node
        for child in node.children:
            child.is_last = child is node.children[-1]
        waiting += reversed(node.children)


def prefix(node: Node) -> str:
    """Return the branches in front of a node: nothing for one at the root."""
    if node.parent is None:
        return ""
    parts = ["└─ " if node.is_last else "├─ "]
    above = node.parent
    while above.parent is not None:
        parts.append("   " if above.is_last else "│  ")
        above = above.parent
    return "".join(reversed(parts))
