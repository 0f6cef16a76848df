"""Who is who in the back office: bearer tokens, as a middleware of its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from asgiref.sync import iscoroutinefunction
from django.contrib.auth.models import AnonymousUser, User
from django.http import HttpRequest, HttpResponse
from django.utils.decorators import sync_and_async_middleware

USERS = {
    "Bearer alice-token": User(username="alice"),
    "Bearer bob-token": User(username="bob"),
    "Bearer root-token": User(username="root", is_superuser=True),
    "Bearer billing-token": User(username="billing"),
}


@sync_and_async_middleware
def bearer_tokens(
    get_response: Callable[[HttpRequest], HttpResponse | Awaitable[HttpResponse]],
) -> Callable[[HttpRequest], HttpResponse | Awaitable[HttpResponse]]:
    """Set ``request.user`` from the Authorization header."""

    def sign_in(request: HttpRequest) -> None:
        request.user = USERS.get(request.headers.get("Authorization", "")) or AnonymousUser()

    async def middleware_async(request: HttpRequest) -> HttpResponse:
        sign_in(request)
        response = get_response(request)
        assert isinstance(response, Awaitable)
        return await response

    def middleware(request: HttpRequest) -> HttpResponse | Awaitable[HttpResponse]:
        sign_in(request)
        return get_response(request)

    return middleware_async if iscoroutinefunction(get_response) else middleware
