"""A disk that fails when it is told to, and remembers what it was asked."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NamedTuple

from audit_middleware.journal.files import Files

_METHODS: Final = tuple(name for name in vars(Files) if not name.startswith("_"))
_OPENING: Final = frozenset({"create", "open_existing", "open_folder"})
_NAMED: Final = frozenset({*_OPENING, "make_folder", "rename", "unlink", "remove_folder", "stat_name"})


class FileCall(NamedTuple):
    """A call of `Files`: its method, the name of the file or folder, and what was given up for ``error``, if so."""

    method: str
    name: str
    error: int | None = None


@dataclass(slots=True)
class _Fault:
    method: str
    name: str
    error: int
    skip: int
    times: int
    is_done: bool
    keep: int | None


class FaultyFiles(Files):
    """The real system calls, of which some fail.

    ``calls`` logs every call. ``room``, when set, is how many bytes the disk still takes: writes beyond it are short,
    then fail with ENOSPC, as on a real one; removing a file gives its bytes back. ``free`` is what `free_bytes` says.
    """

    def __init__(self) -> None:
        self.calls: list[FileCall] = []
        self.room: int | None = None
        self.free: tuple[int, int] | None = None
        self.on_call: Callable[[FileCall], object] = lambda _call: None
        """Called before every call is carried out."""
        self._faults: list[_Fault] = []
        self._names: dict[int, str] = {}
        for method in _METHODS:
            setattr(self, method, partial(self._call, method, getattr(super(), method)))

    def fail(
        self, method: str, error: int, *, name: str = "", after: int = 0, times: int = 1, is_done: bool = False
    ) -> None:
        """Let calls of ``method`` on files whose name begins with ``name`` fail with ``error``.

        The first ``after`` of them succeed, then ``times`` fail. With ``is_done`` the call is carried out all the same.
        """
        self._faults.append(_Fault(method, name, error, after, times, is_done, None))

    def shorten(self, keep: int, *, name: str = "", after: int = 0, error: int = errno.ENOSPC, times: int = 1) -> None:
        """Let one write take ``keep`` bytes only, and the ``times`` writes that follow it fail with ``error``."""
        self._faults.append(_Fault("write", name, 0, after, 1, is_done=True, keep=keep))
        self._faults.append(_Fault("write", name, error, after, times, is_done=False, keep=None))

    def heal(self) -> None:
        """Let nothing fail any more."""
        self._faults.clear()
        self.room = self.free = None

    def asked(self, method: str, name: str = "") -> list[FileCall]:
        """Return the calls of ``method`` on files whose name begins with ``name``."""
        return [call for call in self.calls if call.method == method and call.name.startswith(name)]

    def _call(self, method: str, real: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - any method
        name = os.path.basename(args[0]) if method in _NAMED else self._names.get(args[0], "")
        fault = self._fault(method, name)
        self.calls.append(FileCall(method, name, fault.error if fault else None))
        self.on_call(self.calls[-1])
        if fault is not None and not fault.is_done:
            raise OSError(fault.error, os.strerror(fault.error))
        if method == "free_bytes" and self.free is not None:
            return self.free
        args = self._within_room(method, args, kwargs, fault)
        result = real(*args, **kwargs)
        self._note(method, name, args, result)
        if fault is not None and fault.error:
            raise OSError(fault.error, os.strerror(fault.error))
        return result

    def _fault(self, method: str, name: str) -> _Fault | None:
        for fault in self._faults:
            if fault.method != method or not name.startswith(fault.name):
                continue
            if fault.skip:
                fault.skip -= 1
                continue
            fault.times -= 1
            if not fault.times:
                self._faults.remove(fault)
            return fault
        return None

    def _within_room(
        self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], fault: _Fault | None
    ) -> tuple[Any, ...]:
        if fault is not None and fault.keep is not None:
            return (args[0], args[1][: fault.keep])
        if self.room is None:
            return args
        if method == "write":
            if not self.room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            args = (args[0], args[1][: self.room])
            self.room -= len(args[1])
        elif method == "allocate":
            if args[1] > self.room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self.room -= args[1]
        elif method == "truncate":
            self.room += max(0, os.fstat(args[0]).st_size - args[1])
        elif method == "unlink":
            self.room += os.stat(args[0], follow_symlinks=False, **kwargs).st_size
        return args

    def _note(self, method: str, name: str, args: tuple[Any, ...], result: Any) -> None:  # noqa: ANN401 - any method's
        if method in _OPENING:
            self._names[result] = name
        elif method == "duplicate":
            self._names[result] = self._names.get(args[0], "")
        elif method == "close":
            self._names.pop(args[0], None)
