"""Dramatiq: one line audits every actor of a broker, and each runs for whoever sent the message."""

from __future__ import annotations

from collections.abc import Iterator
from contextvars import Token
from functools import partial
from typing import Any

from audit_middleware import Pipeline
from audit_middleware.capture import (
    ANY,
    Declaration,
    EntryPoint,
    Exchange,
    Runs,
    Work,
    admit,
    conclude,
    enter,
    leave,
)
from audit_middleware.capture.rules import rules_of
from audit_middleware.capture.runs import CARRIER, DEFER_S
from audit_middleware.errors import RequestRefused

try:
    import dramatiq
    from dramatiq.middleware import Middleware, SkipMessage, TimeLimitExceeded
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("Dramatiq is missing: pip install 'audit-ready[dramatiq]'", name=error.name) from error

__all__ = ["Audit", "entry_points"]


class Audit(Middleware):
    """Record every run of every actor: ``Audit(broker)``, in the worker and in whatever sends messages.

    It goes before every other middleware, so that it sees what they made of a message, and what they send on. Settings
    come from here, then from the environment. Raises `ConfigurationError` for wrong settings.
    """

    def __init__(
        self,
        broker: dramatiq.Broker,
        *,
        pipeline: Pipeline | None = None,
        **settings: Any,  # noqa: ANN401 - settings of any type
    ) -> None:
        self.runs = Runs(pipeline, settings, lambda: None)
        self._running: dict[str, tuple[Work, Token[Exchange | None]]] = {}
        first = type(broker.middleware[0]) if broker.middleware else None
        broker.add_middleware(self, before=first)

    def after_worker_boot(self, broker: dramatiq.Broker, worker: Any) -> None:  # noqa: ANN401, ARG002 - Dramatiq's own
        """Declare the actors, in each process of a worker."""
        self.runs.declare(Declaration("dramatiq", partial(entry_points, broker), ("dramatiq",)))
        self.runs.pipeline.announce()

    def after_worker_shutdown(self, broker: dramatiq.Broker, worker: Any) -> None:  # noqa: ANN401, ARG002 - Dramatiq's own
        """Close the stream: a process of a worker may end without ``atexit``."""
        self.runs.pipeline.close()

    def before_enqueue(self, broker: dramatiq.Broker, message: Any, delay: int) -> None:  # noqa: ANN401, ARG002 - Dramatiq's own
        """Put the context of the request or message at hand beside the message."""
        sealed = self.runs.seal(message.actor_name, message.message_id)
        if sealed is not None:
            message.options[CARRIER] = sealed

    def before_process_message(self, broker: dramatiq.Broker, message: Any) -> None:  # noqa: ANN401 - Dramatiq's own
        """Begin: raises ``SkipMessage`` when the record cannot be kept, and has the message come again."""
        work = self.runs.begin(
            message.actor_name,
            "task",
            id=message.message_id,
            queue=message.queue_name,
            tries=(message.options.get("retries") or 0) + 1,
            sealed=message.options.get(CARRIER),
            function=getattr(broker.actors.get(message.actor_name), "fn", None),
            is_new=True,
        )
        if work.exemption is None:
            try:
                admit(work, self.runs.pipeline)
            except RequestRefused as refused:
                self.runs.again(work, message.options.get(CARRIER))
                broker.enqueue(message, delay=DEFER_S * 1000)
                raise SkipMessage(str(refused)) from refused
        self._running[message.message_id] = work, enter(work)

    def after_process_message(
        self,
        broker: dramatiq.Broker,  # noqa: ARG002 - Dramatiq's own
        message: Any,  # noqa: ANN401 - Dramatiq's own
        *,
        result: object = None,  # noqa: ARG002 - Dramatiq's own
        exception: BaseException | None = None,
    ) -> None:
        """End, when every other middleware has said what becomes of the message."""
        self._end(message, exception, is_skipped=exception is None and message.failed)

    def after_skip_message(self, broker: dramatiq.Broker, message: Any) -> None:  # noqa: ANN401, ARG002 - Dramatiq's own
        """End of a message that another middleware did not let run."""
        self._end(message, None, is_skipped=True)

    def _end(self, message: Any, error: BaseException | None, *, is_skipped: bool) -> None:  # noqa: ANN401 - Dramatiq's own
        work, token = self._running.pop(message.message_id, (None, None))
        if work is None or token is None:
            return
        if is_skipped:
            work.end, work.reason = "revoked", work.reason or "skipped"
        elif isinstance(error, TimeLimitExceeded):
            work.end = "timeout"
        elif error is not None and not message.failed:
            work.end = "retry"
        if error is not None:
            work.failed(error)
        leave(token)
        conclude(work, self.runs.pipeline)


def entry_points(broker: dramatiq.Broker) -> Iterator[EntryPoint]:
    """Yield every actor of a broker."""
    for name in sorted(broker.get_declared_actors()):
        rules = rules_of(broker.get_actor(name).fn)
        yield EntryPoint("task", ANY, name, "", rules.exemption if rules is not None else None)
