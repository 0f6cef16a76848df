"""The ``AUDIT`` setting of a project, read live: a test that overrides it gets what it says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from django.conf import settings
from django.utils.module_loading import import_string

from audit_integrations.django.identify import Identify
from audit_middleware import ConfigurationError, Pipeline
from audit_middleware.capture import Declaration, Observer
from audit_middleware.config import SETTINGS

_NAMES: Final = {name.upper(): name for name in SETTINGS}
_OURS: Final = frozenset({"COMMANDS", "IDENTIFY", "MODELS", "PIPELINE"})


class Live(NamedTuple):
    """What the settings come to: the observer, and who is asked for the principal when nobody is signed in.

    The observer knows nothing of the latter: what it calls runs on a thread of its own, and Django's connections to
    the database belong to the thread of the request.
    """

    observer: Observer
    identify: Identify | None


class LiveObserver:
    """The observer of the project's present settings."""

    def __init__(self) -> None:
        self._seen: object = None
        self._live: Live | None = None
        self._declarations: list[Declaration] = []

    def get(self) -> Live:
        """Return what the settings come to; raise `ConfigurationError` for settings that are wrong."""
        given = getattr(settings, "AUDIT", None)
        live = self._live
        if live is None or given is not self._seen:
            live = self._live = make_live(given)
            self._seen = given
            for declaration in self._declarations:
                live.observer.declare(declaration)
        return live

    def declare(self, declaration: Declaration) -> None:
        """Declare what can be called in this process, whatever the settings come to; a second time changes nothing."""
        live = self.get()
        if all(each.component != declaration.component for each in self._declarations):
            self._declarations.append(declaration)
            live.observer.declare(declaration)

    def pipeline(self) -> Pipeline:
        """Return the pipeline of the project."""
        return self.get().observer.pipeline_of(project_name)


def make_live(given: object) -> Live:
    """Return what ``AUDIT`` describes: settings in capitals, and ``IDENTIFY``, a callable or its path."""
    if given is None:
        given = {}
    if not isinstance(given, Mapping):
        raise ConfigurationError(f"audit.E002: AUDIT of the Django settings: expected a dictionary, not {given!r}")
    unknown = sorted(str(name) for name in given if name not in _NAMES and name not in _OURS)
    if unknown:
        raise ConfigurationError(f"audit.E001: unknown setting {', '.join(unknown)} in AUDIT of the Django settings")
    pipeline = given.get("PIPELINE")
    if pipeline is not None and not isinstance(pipeline, Pipeline):
        raise ConfigurationError(f"audit.E002: AUDIT['PIPELINE']: expected a Pipeline, not {type(pipeline).__name__}")
    arguments = {_NAMES[name]: value for name, value in given.items() if name in _NAMES}
    return Live(Observer(pipeline, None, arguments), _identify(given.get("IDENTIFY")))


def project_name() -> str | None:
    """Return what the project is called: the package of its settings or its URLs."""
    module = getattr(settings, "SETTINGS_MODULE", None) or getattr(settings, "ROOT_URLCONF", None)
    return module.partition(".")[0] if isinstance(module, str) else None


def commands() -> bool | frozenset[str]:
    """Return which management commands are on record: all, none, or those with these names.

    Raises `ConfigurationError` when ``COMMANDS`` is neither a bool nor a list of names.
    """
    given = getattr(settings, "AUDIT", None)
    named = given.get("COMMANDS", False) if isinstance(given, Mapping) else False
    if isinstance(named, bool):
        return named
    if isinstance(named, list | tuple | set | frozenset) and all(isinstance(each, str) for each in named):
        return frozenset(named)
    raise ConfigurationError("audit.E002: AUDIT['COMMANDS']: expected True, or a list of the names of commands")


def models() -> tuple[str, ...]:
    """Return the labels of the models whose rows are on record; raise `ConfigurationError` for anything but a list."""
    given = getattr(settings, "AUDIT", None)
    named = given.get("MODELS") if isinstance(given, Mapping) else None
    if named is None:
        return ()
    if isinstance(named, list | tuple | set | frozenset) and all(isinstance(each, str) for each in named):
        return tuple(named)
    raise ConfigurationError("audit.E023: AUDIT['MODELS']: expected a list of labels, such as ['shop.Customer']")


def _identify(given: object) -> Identify | None:
    try:
        identify: Any = import_string(given) if isinstance(given, str) else given
    except ImportError as error:
        raise ConfigurationError(f"audit.E013: AUDIT['IDENTIFY'] cannot be imported: {error}") from error
    if identify is None:
        return None
    if not callable(identify):
        raise ConfigurationError("audit.E013: AUDIT['IDENTIFY'] is not callable")
    return Identify(identify)


OBSERVER: Final = LiveObserver()
