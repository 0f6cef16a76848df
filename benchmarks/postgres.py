"""The same ledger beside an index in PostgreSQL, on a server of its own."""

import contextlib
import os
import secrets
import shutil

from benchmarks.size import Place
from tests.postgres.server import Server

DATABASE = "bench"
OPTIONS = ("shared_buffers=2GB", "max_wal_size=8GB", "checkpoint_timeout=15min")
"""A server that is meant for such a size; the defaults are for one of 128 MiB."""


@contextlib.contextmanager
def twin(folder):
    """Give a data folder whose ledger is that of ``folder`` (hard links: its files never change) and a fresh index."""
    place = folder / "twin"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(mode=0o700)
    shutil.copytree(folder / "guard", place / "guard")
    shutil.copytree(
        folder / "data",
        place / "data",
        copy_function=link,
        ignore=shutil.ignore_patterns("index.sqlite*", "monitor.json"),
    )
    server = Server()
    try:
        server.start(*OPTIONS)
        server.database(DATABASE)
        yield Place(place, configure(place, server), [server.folder / "data"])
    finally:
        server.remove()
        shutil.rmtree(place)


def link(source, target):
    """Link what is created once, copy what is replaced or locked."""
    (os.link if "/tile/" in str(source) else shutil.copy2)(source, target)


def configure(place, server):
    key, dsn, config = place / "index.key", place / "index.dsn", place / "collector.toml"
    for path, text in ((key, f"index:{secrets.token_urlsafe(32)}"), (dsn, server.dsn(DATABASE, "collector"))):
        path.write_text(text)
        path.chmod(0o600)
    config.write_text(f'[index]\nkind = "postgres"\nkey_file = "{key}"\ndsn_file = "{dsn}"\n')
    return config
