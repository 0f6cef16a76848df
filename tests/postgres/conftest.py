import secrets

import pytest

from audit_middleware.collector.index_settings import PostgresSettings
from audit_middleware.sealing.keys import new_key
from tests.collector.kit import settings_for
from tests.postgres.server import Server


@pytest.fixture(scope="session")
def server():
    """One server for the whole run."""
    started = Server()
    started.start()
    try:
        yield started
    finally:
        started.remove()


class Shared:
    """An empty index, and settings of collectors that share it."""

    def __init__(self, server, folder):
        self.server, self.folder = server, folder
        self.name = f"index_{secrets.token_hex(4)}"
        server.database(self.name)
        self._write("index.key", new_key("index"))
        self._write("dsn", self.dsn("collector"))

    @property
    def index(self):
        return PostgresSettings(key_file=str(self.folder / "index.key"), dsn_file=str(self.folder / "dsn"))

    def dsn(self, user="pgadmin"):
        return self.server.dsn(self.name, user)

    def settings(self, name="one", **changes):
        return settings_for(self.folder / name, name=f"{name}.test", index=self.index, **changes)

    def _write(self, name, text):
        path = self.folder / name
        path.touch(mode=0o600)
        path.write_text(text + "\n")


@pytest.fixture
def shared(server, tmp_path):
    return Shared(server, tmp_path)
