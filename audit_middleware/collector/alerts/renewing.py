"""Senders whose secret lies in a file follow that file: a secret is rotated without a restart."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Final, Generic, Protocol, TypeVar

from audit_middleware.collector.alerts.message import Message
from audit_middleware.collector.alerts.settings import AlertSettings, secret_of
from audit_middleware.errors import ConfigurationError

_log: Final = logging.getLogger(__name__)


class _Closes(Protocol):
    def send(self, message: Message) -> str: ...

    def close(self) -> None: ...


S = TypeVar("S", bound=_Closes)


class Renewing(Generic[S]):
    """A `Sender` that makes another one when the secret has changed. Used by one thread at a time.

    The file is read before each message: one is sent every few seconds at most. While there is nothing usable in it,
    as amid a rotation, the secret before it holds, and a line in the log says so once.
    """

    def __init__(self, make: Callable[[str | None], S], settings: AlertSettings, environ: Mapping[str, str]) -> None:
        self._make = make
        self._settings = settings
        self._environ = environ
        self._secret = secret_of(settings, environ)
        self._sender = make(self._secret)
        self._complained = ""

    def now(self) -> S:
        """Return the sender with the present secret."""
        try:
            secret = secret_of(self._settings, self._environ)
        except ConfigurationError as error:
            if self._complained != str(error):
                self._complained = str(error)
                _log.error("alerts: %s keeps the secret it had: %s", self._settings.name, error)
            return self._sender
        self._complained = ""
        if secret != self._secret:
            sender = self._make(secret)
            self._sender.close()
            self._sender, self._secret = sender, secret
            _log.warning("alerts: %s has a new secret", self._settings.name)
        return self._sender

    def send(self, message: Message) -> str:
        """Deliver; see `Sender.send`."""
        return self.now().send(message)

    def close(self) -> None:
        """Close the connections."""
        self._sender.close()
