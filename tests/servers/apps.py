"""The audited applications that every server runs: one ASGI, one WSGI, the same three routes."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from audit_middleware import AuditMiddleware, AuditWSGIMiddleware, current_audit


async def item(request):
    return JSONResponse({"id": request.path_params["item_id"]})


async def create(request):
    return JSONResponse({"bytes": len(await request.body())}, status_code=201)


async def stream(_request):
    async def parts():
        for number in range(3):
            yield b"part %d\n" % number

    return StreamingResponse(parts())


def plain(environ, start_response):
    """Answer like the three routes above."""
    path = environ["PATH_INFO"]
    if path == "/stream":
        current_audit().route = "/stream"
        start_response("200 OK", [("Content-Type", "text/plain")])
        return (b"part %d\n" % number for number in range(3))
    if environ["REQUEST_METHOD"] == "POST":
        current_audit().route = "/items"
        length = int(environ.get("CONTENT_LENGTH") or 0)
        body = b'{"bytes":%d}' % len(environ["wsgi.input"].read(length))
        start_response("201 Created", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [body]
    current_audit().route = "/items/{item_id}"
    body = b'{"id":%s}' % path.rpartition("/")[2].encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return iter([body])


starlette = Starlette(
    routes=[
        Route("/items/{item_id:int}", item),
        Route("/items", create, methods=["POST"]),
        Route("/stream", stream),
    ]
)
asgi = AuditMiddleware(starlette, service="servers")
wsgi = AuditWSGIMiddleware(plain, service="servers")
