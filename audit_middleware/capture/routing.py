"""The route of a request, as ASGI frameworks leave it in the scope after routing."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any


def route_template(scope: MutableMapping[str, Any], initial_root: str) -> str | None:
    """Return the template of the route that matched, mounted apps joined; None when none did.

    A mount leaves the path it matched in ``root_path``, behind what the server had put there (``initial_root``).
    """
    route = scope.get("route")
    path = getattr(route, "path", None) if route is not None else None
    if not isinstance(path, str):
        return None
    root = scope.get("root_path", "")
    if root == initial_root:
        return path or "/"
    mounted = root.removeprefix(initial_root)
    if not mounted or mounted == path:
        return path or "/"
    return _mount_template(mounted, path, scope.get("path_params") or {}) + path


def _mount_template(mounted: str, path: str, params: Mapping[str, Any]) -> str:
    """A mount shows its path with the values in place; put the names of those that are not the inner route's back."""
    names = {str(value): name for name, value in params.items() if "{" + name not in path}
    return "/".join(f"{{{names[part]}}}" if part in names else part for part in mounted.split("/"))
