"""A journal that is not what it promises: it buffers in user space."""

from audit_middleware.journal.files import Files


class BufferedFiles(Files):
    """Lines wait in this process until so many bytes are there: what every buffered log file does."""

    def __init__(self, flush_bytes=64 * 1024):
        self._flush_bytes = flush_bytes
        self._waiting = {}

    def create(self, name, *, dir_fd, append=False):
        fd = super().create(name, dir_fd=dir_fd, append=append)
        if append:
            self._waiting[fd] = bytearray()
        return fd

    def write(self, fd, data):
        waiting = self._waiting.get(fd)
        if waiting is None:
            return super().write(fd, data)
        waiting += data
        if len(waiting) >= self._flush_bytes:
            self._flush(fd)
        return len(data)

    def close(self, fd):
        self._flush(fd)
        self._waiting.pop(fd, None)
        super().close(fd)

    def _flush(self, fd):
        waiting = self._waiting.get(fd)
        if waiting:
            super().write(fd, bytes(waiting))
            waiting.clear()
