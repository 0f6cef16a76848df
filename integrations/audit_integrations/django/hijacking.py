"""django-hijack, if the project has it: who takes over whose session, and who gives it back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from django.apps import apps
from django.http import HttpRequest
from django.utils.module_loading import import_string

_VIEWS: Final = "hijack.views"


def connect(started: Callable[..., None], ended: Callable[..., None]) -> None:
    """Listen to the signals of django-hijack; without it nothing is imported."""
    if apps.is_installed("hijack"):
        import_string("hijack.signals.hijack_started").connect(started, dispatch_uid="audit")
        import_string("hijack.signals.hijack_ended").connect(ended, dispatch_uid="audit")


def is_swap(request: HttpRequest) -> bool:
    """Whether a view of django-hijack runs, which signs in somebody who did not sign in."""
    match = getattr(request, "resolver_match", None)
    view_class = getattr(getattr(match, "func", None), "view_class", object)
    return any(base.__module__ == _VIEWS for base in view_class.__mro__)
