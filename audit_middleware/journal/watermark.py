"""How far something has come, and who waits for it: synced to disk, or acknowledged by the collector."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable

_Waiter = tuple[int, Callable[[], object]]


class Watermark:
    """A sequence number that only rises; threads and asyncio tasks wait until it reaches theirs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._value = -1
        self._waiters: list[_Waiter] = []

    def advance(self, seq: int) -> None:
        """Rise to ``seq`` and wake whoever waited for it or less."""
        with self._lock:
            if seq <= self._value:
                return
            self._value = seq
            ready = [wake for wanted, wake in self._waiters if wanted <= seq]
            self._waiters = [waiter for waiter in self._waiters if waiter[0] > seq]
        for wake in ready:
            with contextlib.suppress(RuntimeError):  # its event loop was closed: nobody waits there any more
                wake()

    def wait(self, seq: int, timeout: float) -> bool:
        """Block this thread until ``seq`` is reached, at most ``timeout`` seconds; say whether it was."""
        reached = threading.Event()
        waiter = self._when(seq, reached.set)
        try:
            return reached.wait(timeout)
        finally:
            self._forget(waiter)

    async def wait_async(self, seq: int, timeout: float) -> bool:  # noqa: ASYNC109 - says whether, instead of raising
        """Wait in the running asyncio loop; under another event loop the waiting blocks it."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return self.wait(seq, timeout)
        reached: asyncio.Future[None] = loop.create_future()

        def settle() -> None:
            if not reached.done():
                reached.set_result(None)

        waiter = self._when(seq, lambda: loop.call_soon_threadsafe(settle))
        try:
            done, _ = await asyncio.wait([reached], timeout=timeout)
        finally:
            self._forget(waiter)
        return bool(done)

    def _when(self, seq: int, wake: Callable[[], object]) -> _Waiter:
        waiter = (seq, wake)
        with self._lock:
            if seq > self._value:
                self._waiters.append(waiter)
                return waiter
        wake()
        return waiter

    def _forget(self, waiter: _Waiter) -> None:
        with self._lock, contextlib.suppress(ValueError):
            self._waiters.remove(waiter)
