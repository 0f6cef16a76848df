"""One line for everybody: a method of a library's class, replaced by one around it, once, until that is undone."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from threading import Lock
from typing import Any, Final

Undo = Callable[[], None]
_lock: Final = Lock()


class _Patch:
    """One method that is replaced."""

    def __init__(self, original: Callable[..., Any], recording: Callable[..., Any]) -> None:
        self.is_on = True

        @functools.wraps(original)
        def method(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - the method's own
            return (recording if self.is_on else original)(*arguments, **named)

        @functools.wraps(original)
        async def awaiting(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - the method's own
            return await (recording if self.is_on else original)(*arguments, **named)

        self.original = original
        self.method = awaiting if inspect.iscoroutinefunction(original) else method


_patches: Final[dict[tuple[type, str], _Patch]] = {}


def patched(owner: type, name: str, around: Callable[[Any], Any]) -> Undo:
    """Put ``around(original)`` in the place of ``owner.name``; a second time changes nothing. Returns what undoes it.

    Subclasses that overrule the method and call the class's own are covered once. If somebody else has wrapped the
    method since, ours stays inside of theirs when it is undone, and passes everything on as it is.
    """
    with _lock:
        patch = _patches.get((owner, name))
        if patch is None:
            original = owner.__dict__[name]
            patch = _patches[owner, name] = _Patch(original, around(original))
            setattr(owner, name, patch.method)
        patch.is_on = True

    def undo() -> None:
        with _lock:
            patch.is_on = False
            if owner.__dict__[name] is patch.method:
                setattr(owner, name, patch.original)
                _patches.pop((owner, name), None)

    return undo


def all_undone(*undo: Undo) -> Undo:
    """Return what undoes all of these."""

    def undo_all() -> None:
        for each in undo:
            each()

    return undo_all
