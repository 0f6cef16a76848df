"""The applications of `tests.servers.apps` with one promise broken on purpose."""

from audit_middleware import AuditMiddleware, AuditWSGIMiddleware, config
from audit_middleware.pipeline import Pipeline
from tests.faults.buffered import BufferedFiles
from tests.servers.apps import plain, starlette


class Twice(Pipeline):
    """Records every request twice."""

    def complete(self, exchange):
        super().complete(exchange)
        return super().complete(exchange)


def buffered():
    """A journal that buffers a few lines."""
    return Pipeline(config.load(), "servers", files=BufferedFiles(flush_bytes=8 * 1024))


def twice():
    return Twice(config.load(), "servers")


def __getattr__(name):
    protocol, _, mutant = name.partition("_")
    pipeline = {"buffered": buffered, "twice": twice}[mutant]()
    if protocol == "asgi":
        return AuditMiddleware(starlette, pipeline=pipeline)
    return AuditWSGIMiddleware(plain, pipeline=pipeline)
