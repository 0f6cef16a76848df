"""The ``AUDIT`` setting of a project, read live: a test that overrides it gets what it says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from django.conf import settings
from django.utils.module_loading import import_string

from audit_middleware import ConfigurationError, Pipeline
from audit_middleware.capture import Observer
from audit_middleware.config import SETTINGS

_NAMES: Final = {name.upper(): name for name in SETTINGS}
_OURS: Final = frozenset({"IDENTIFY", "PIPELINE"})


class LiveObserver:
    """The observer of the project's present settings."""

    def __init__(self) -> None:
        self._seen: object = None
        self._observer: Observer | None = None

    def get(self) -> Observer:
        """Return the observer; raise `ConfigurationError` for settings that are wrong."""
        given = getattr(settings, "AUDIT", None)
        observer = self._observer
        if observer is None or given is not self._seen:
            observer = self._observer = make_observer(given or {})
            self._seen = given
        return observer

    def pipeline(self) -> Pipeline:
        """Return the pipeline of the project."""
        return self.get().pipeline_of(project_name)


def make_observer(given: Mapping[str, Any]) -> Observer:
    """Return the observer that ``AUDIT`` describes: settings in capitals, and ``IDENTIFY``, a callable or its path."""
    unknown = sorted(set(given) - set(_NAMES) - _OURS)
    if unknown:
        raise ConfigurationError(f"audit.E001: unknown setting {', '.join(unknown)} in AUDIT of the Django settings")
    arguments = {_NAMES[name]: value for name, value in given.items() if name in _NAMES}
    return Observer(given.get("PIPELINE"), _identify(given.get("IDENTIFY")), arguments)


def project_name() -> str | None:
    """Return what the project is called: the package of its settings or its URLs."""
    module = getattr(settings, "SETTINGS_MODULE", None) or getattr(settings, "ROOT_URLCONF", None)
    return module.partition(".")[0] if isinstance(module, str) else None


def _identify(given: Any) -> Callable[[Any], object] | None:  # noqa: ANN401 - what a settings file holds
    try:
        identify = import_string(given) if isinstance(given, str) else given
    except ImportError as error:
        raise ConfigurationError(f"audit.E013: AUDIT['IDENTIFY'] cannot be imported: {error}") from error
    if identify is not None and not callable(identify):
        raise ConfigurationError("audit.E013: AUDIT['IDENTIFY'] is not callable")
    return identify  # type: ignore[no-any-return] # what it returns is checked when it does


OBSERVER: Final = LiveObserver()
