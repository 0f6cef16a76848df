"""What both clients share: whom a channel leads to, the metadata that goes along, and what a call came to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote

import grpc

from audit_middleware.capture import CONTEXT, TRACEPARENT, Outgoing

Metadata = tuple[tuple[str, Any], ...]


def host_of(target: str) -> str:
    """Return the host of a channel's target: ``billing:443``, ``dns:///billing:443``, ``ipv6:%5B::1%5D:443``.

    gRPC's naming: ``scheme:[//authority/]endpoint``. A socket of this machine has no host, and is its own name.
    """
    scheme, colon, rest = target.partition(":")
    if colon and scheme in {"dns", "ipv4", "ipv6", "passthrough", "xds"}:
        target = rest.removeprefix("//").partition("/")[2] if rest.startswith("//") else rest
    elif scheme in {"unix", "unix-abstract", "vsock"}:
        return scheme
    target = unquote(target).partition(",")[0]
    if target.startswith("["):
        return target[1:].partition("]")[0]
    return target.rpartition(":")[0] if target.count(":") == 1 else target


def outgoing(host: str, method: str | bytes, metadata: Iterable[tuple[str, Any]] | None) -> tuple[Outgoing, Metadata]:
    """Begin a call; returns it, and the metadata to send."""
    route = method.decode() if isinstance(method, bytes) else method
    given = tuple(metadata or ())
    traceparent = next((value for name, value in given if name.lower() == TRACEPARENT), None)
    text = traceparent.decode("latin-1") if isinstance(traceparent, bytes) else traceparent
    found = Outgoing("grpc", "POST", host, route=route, traceparent=text)
    if found.is_quiet:
        return found, given
    kept = tuple((name, value) for name, value in given if name.lower() != CONTEXT.lower())
    return found, (*kept, *((name.lower(), value) for name, value in found.headers.items()))


def finish(call: Outgoing, code: grpc.StatusCode | None) -> None:
    """Note which code a call ended with."""
    found = code if code is not None else grpc.StatusCode.UNKNOWN
    call.finish(found.value[0], reason=None if found is grpc.StatusCode.OK else found.name)
