"""FastAPI: the principal comes from the dependency an application already authenticates with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from audit_middleware import current_audit

try:
    from fastapi import Depends
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("FastAPI is missing: pip install 'audit-ready[fastapi]'", name=error.name) from error

__all__ = ["audited_user"]


def audited_user(dependency: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    """Wrap a dependency that authenticates: what it returns becomes the principal on record, and is returned.

    Use it where the dependency was used, for a route, a router or the whole app::

        User = Annotated[Account, Depends(audited_user(current_account))]
        app = FastAPI(dependencies=[Depends(audited_user(current_account))])

    FastAPI calls ``dependency`` once per request, however often it is wrapped. What it may return is what
    `current_audit` takes as principal: a `Principal`, a name, or a user object; None stays anonymous.
    """

    async def remember(user: Any = Depends(dependency)) -> Any:  # noqa: ANN401, B008 - FastAPI's way to declare both
        current_audit().principal = user
        return user

    return remember
