"""What is declared in this process, and said once in its life: ``coverage`` records, on a thread of their own.

No request, no start-up and no sync waits for a walk over an application's routes, which may take long or import much.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from audit_middleware.capture.coverage import EntryPoint
from audit_middleware.capture.inventory import in_parts, inventory_head
from audit_middleware.errors import JournalError
from audit_middleware.inventory_record import Inventory
from audit_middleware.journal.lifecycle import Announcer
from audit_middleware.journal.recorder import Recorder

LOGGER: Final = logging.getLogger("audit_middleware")
AGAIN_AFTER_S: Final = 5.0


@dataclass(slots=True, weakref_slot=True, eq=False)
class Declaration:
    """What one component can be called by; declarations with the same ``component`` are said as one.

    ``find`` is called on another thread, once in each process that says it; ``packages`` are distributions whose
    versions matter. ``only_pid`` is the process that says it, where those forked from it shall not.
    """

    component: str
    find: Callable[[], Iterable[EntryPoint]]
    packages: tuple[str, ...] = ()
    only_pid: int | None = None


EVERYWHERE: Final[list[Declaration]] = []
"""What every pipeline of this process declares: models are not of one application."""


class Declared:
    """The declarations of one pipeline. Thread-safe, fork-safe; nothing here raises.

    ``contain`` is told of errors. A declaration lives as long as whoever made it: an application that is gone is not
    declared, and not kept alive.
    """

    def __init__(self, recorder: Recorder, contain: Callable[[str, BaseException], None]) -> None:
        self._recorder = recorder
        self._contain = contain
        self._declarations: list[weakref.ref[Declaration]] = []
        self._life = _Life()

    def add(self, declaration: Declaration) -> None:
        """Take what shall be said when `begin` is called next."""
        live = [each for each in self._declarations if each() is not None]
        if all(each() is not declaration for each in live):
            self._declarations = [*live, weakref.ref(declaration)]

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing that this process declares."""
        return not self._live()

    def begin(self) -> None:
        """Say on another thread what was not said in this process yet."""
        life = self._now()
        life.is_over = False
        life.has_begun = True
        with life.gate:
            if life.thread is not None or not self._unsaid(life):
                return
            life.wake.clear()
            life.thread = threading.Thread(target=self._run, args=(life,), name="audit-inventory", daemon=True)
            try:
                life.thread.start()
            except RuntimeError as error:  # `finish` says it
                life.thread = None
                LOGGER.warning("audit: no thread can be started (%s); the inventory is said at the end", error)

    def finish(self) -> None:
        """Say what nobody has said since `begin`: the stream is about to be closed."""
        life = self._now()
        if self._recorder.is_interrupted:
            return  # whoever closes at exit does it
        if life.has_begun:
            self._say_all(life)
        with life.lock:
            life.has_begun, life.is_over = False, True
        life.wake.set()

    def _now(self) -> _Life:
        """Return how far this process is: a forked child has said nothing yet."""
        if self._life.pid != os.getpid():
            self._life = _Life()
        return self._life

    def _live(self) -> list[Declaration]:
        pid = os.getpid()
        found = [*(each() for each in self._declarations), *EVERYWHERE]
        return [each for each in found if each is not None and each.only_pid in {None, pid}]

    def _unsaid(self, life: _Life) -> list[str]:
        """Return the components of which not all is said."""
        return list(dict.fromkeys(each.component for each in self._live() if each not in life.said))

    def _run(self, life: _Life) -> None:
        while os.getpid() == life.pid:
            is_done = self._say_all(life)
            with life.gate:
                if life.is_over or (is_done and not self._unsaid(life)):
                    life.thread = None
                    return
            if not is_done:
                life.wake.wait(AGAIN_AFTER_S)

    def _say_all(self, life: _Life) -> bool:
        """Say whatever is left; return whether the journal took it."""
        try:
            for component in self._unsaid(life):
                self._say(life, component)
        except JournalError as error:
            if not life.has_complained:
                life.has_complained = True
                LOGGER.error("audit: the inventory waits for the journal: %s", error)  # noqa: TRY400 - it says it all
            return False
        except Exception as error:  # noqa: BLE001 - containment, see Pipeline.contain
            self._contain("an inventory", error)
            life.said.update(self._live())
        return True

    def _say(self, life: _Life, component: str) -> None:
        of_it = [each for each in self._live() if each.component == component]
        found, failed = life.waiting.get(component), None
        if found is None:
            found, failed = self._parts(component, of_it)
        with life.lock:
            if life.is_over or all(each in life.said for each in of_it):
                return  # while this thread walked the routes, another one said it
            if failed is not None:
                self._contain(f"the inventory of {component}", failed)
            waiting = life.waiting.setdefault(component, found)
            while waiting:
                self._recorder.ensure_ready()  # a record that is given up would need a number, and an explanation
                self._recorder.append(b"coverage", waiting[0])
                waiting.popleft()
            del life.waiting[component]
            life.said.update(of_it)

    def _parts(self, component: str, declarations: list[Declaration]) -> tuple[deque[Inventory], BaseException | None]:
        settings, recorder = self._recorder.settings, self._recorder
        try:
            rules = settings.record_rules()
            head = inventory_head(
                service=recorder.service,
                component=component,
                version=settings.version,
                policy=Announcer(settings).policy,
                rules=rules.digest if rules is not None else None,
                packages=dict.fromkeys(package for each in declarations for package in each.packages),
                settings=settings.digest_source(),
            )
            return deque(in_parts(head, (point for each in declarations for point in each.find()))), None
        except (Exception, SystemExit) as error:  # noqa: BLE001 - routes are made by the application's own code
            return deque(), error


class _Life:
    """How far one process is with saying it."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.said: weakref.WeakSet[Declaration] = weakref.WeakSet()
        self.waiting: dict[str, deque[Inventory]] = {}
        """Parts that the journal could not take yet, by component."""
        self.lock = threading.RLock()
        """Held while parts are appended; re-entrant, because a signal handler may close the pipeline."""
        self.gate = threading.RLock()
        """Held for a moment, while a thread is started or ends."""
        self.wake = threading.Event()
        self.thread: threading.Thread | None = None
        self.has_begun = self.is_over = self.has_complained = False
