"""``POST /v1/records``: sealed lines in, a receipt out (wire format, section 5)."""

from __future__ import annotations

import asyncio

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from audit_middleware.collector.answer import parse_tree_sizes
from audit_middleware.collector.body import check_encoding, decode_body, too_large
from audit_middleware.collector.limits import Limits
from audit_middleware.collector.problems import Problem, too_many
from audit_middleware.collector.routes import caller_of, collector_of


async def ingest(request: Request) -> Response:
    """Take a batch; the answer comes once it is durable."""
    collector, caller = collector_of(request), caller_of(request, "ingest")
    limits = collector.settings.limits
    encoding = check_encoding(request.headers.get("content-encoding", ""))
    collector.require_ready()  # before a megabyte is read
    if seconds := collector.intake.wait(caller.name, 0):
        raise too_many("more records than this collector takes of one token; they wait in its spool", seconds)
    raw = await _read_body(request, limits)
    if encoding == "identity":
        lines = decode_body(raw, encoding, limits)
    else:
        lines = await asyncio.to_thread(decode_body, raw, encoding, limits)
    collector.intake.wait(caller.name, len(lines))
    sizes = parse_tree_sizes(request.headers.getlist("audit-tree-size"))
    answer = await asyncio.wrap_future(collector.submit(lines, caller, sizes))
    return Response(msgspec.json.encode(answer), media_type="application/json")


async def _read_body(request: Request, limits: Limits) -> bytes:
    """Return the body as it travelled, which is no longer than it may be decompressed."""
    declared = request.headers.get("content-length", "0")
    if not (declared.isascii() and declared.isdigit()) or int(declared[:20]) > limits.body_bytes:
        raise too_large(limits)
    body = bytearray()
    try:
        async with asyncio.timeout(limits.read_seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limits.body_bytes:
                    raise too_large(limits)
    except TimeoutError as error:
        detail = f"the body did not arrive within {limits.read_seconds:g} seconds"
        raise Problem(408, "body-too-slow", detail, headers={"Connection": "close"}) from error
    except ClientDisconnect as error:
        raise Problem(400, "body-cut-off", "the connection ended before the body did") from error
    return bytes(body)
