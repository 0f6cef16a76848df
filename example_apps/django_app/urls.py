"""The back office: customers are read, locked and exported here."""

from __future__ import annotations

from collections.abc import AsyncIterator

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path
from django.views.decorators.http import require_POST

from audit_middleware import current_audit


def read_customer(request: HttpRequest, pk: int) -> HttpResponse:
    """Read a customer."""
    if not request.user.is_authenticated:
        return JsonResponse({"detail": "who are you?"}, status=401)
    return JsonResponse({"pk": pk})


@require_POST
async def lock_customer(request: HttpRequest, pk: int) -> HttpResponse:
    """Lock a customer out; only superusers may, and every attempt is on record."""
    audit = current_audit()
    audit.action, audit.resource = "customers.lock", ("customer", pk)
    if not getattr(request.user, "is_superuser", False):
        audit.reason = "no superuser"
        raise PermissionDenied
    return JsonResponse({"pk": pk, "locked": True})


async def export(request: HttpRequest) -> HttpResponse | StreamingHttpResponse:
    """Stream all customers line by line."""
    if not request.user.is_authenticated:
        return JsonResponse({"detail": "who are you?"}, status=401)

    async def lines() -> AsyncIterator[str]:
        for number in range(20):
            yield f"customer {number}\n"

    return StreamingHttpResponse(lines(), content_type="text/plain")


def broken(_request: HttpRequest) -> HttpResponse:
    """Fail as programs do."""
    raise RuntimeError("this view always fails")


urlpatterns = [
    path("customers/<int:pk>/", read_customer),
    path("customers/<int:pk>/lock", lock_customer),
    path("export", export),
    path("broken", broken),
]
