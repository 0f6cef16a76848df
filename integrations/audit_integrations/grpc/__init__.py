"""gRPC, sync and ``grpc.aio``: interceptors for both sides, `AuditServerInterceptor` and `audit_channel`.

A call that is served is a ``request``: gRPC is ``POST /package.Service/Method`` over HTTP/2, and that is its method,
path and route; its status is the HTTP one that google/rpc/code.proto gives for gRPC's code. A call that is made is a
``call`` of kind ``grpc`` with the same method and route, and gRPC's own code as status.
"""

from __future__ import annotations

try:
    import grpc  # noqa: F401 - only whether it is there
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("grpcio is missing: pip install 'audit-ready[grpc]'", name=error.name) from error

from audit_integrations.grpc.aio import AsyncAuditServerInterceptor, aio_interceptors
from audit_integrations.grpc.client import AuditClientInterceptor, audit_channel
from audit_integrations.grpc.server import AuditServerInterceptor

__all__ = [
    "AsyncAuditServerInterceptor",
    "AuditClientInterceptor",
    "AuditServerInterceptor",
    "aio_interceptors",
    "audit_channel",
]
