"""A PostgreSQL of the tests' own: a real server on a unix socket, in a folder that goes with it."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

import psycopg

from audit_middleware.collector.postgres.schema import migrate

ADMIN = "pgadmin"
USERS = {"collector": "audit_writer", "auditor": "audit_reader"}


class Server:
    """One server; PostgreSQL refuses to run as root, so that it runs as `postgres` there."""

    def __init__(self) -> None:
        # a socket's path has at most 107 bytes, and the user `postgres` has to reach it
        self.folder = Path(tempfile.mkdtemp(prefix="audit-pg-", dir="/tmp"))
        self._as: list[str] = []
        if os.geteuid() == 0:
            assert _has_postgres(), "there is no user postgres: install Debian's `postgresql`"
            self._as = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
            shutil.chown(self.folder, "postgres", "postgres")
        self._run(
            "initdb",
            "-D",
            str(self.folder / "data"),
            "-A",
            "trust",
            "-U",
            ADMIN,
            "-E",
            "UTF8",
            "--locale=C.UTF-8",
            "-N",
        )

    def dsn(self, database: str = "postgres", user: str = ADMIN) -> str:
        return f"host={self.folder} port=5432 user={user} dbname={database}"

    def start(self, *options: str) -> None:
        """Start it, with ``options`` such as `shared_buffers=1GB`."""
        given = ("listen_addresses=", "max_connections=100", *options)
        command = " ".join([f"-k {self.folder}", *(f"-c {each}" for each in given)])
        self._run(
            "pg_ctl", "-D", str(self.folder / "data"), "-w", "-l", str(self.folder / "log"), "-o", command, "start"
        )

    def stop(self, mode: str = "immediate") -> None:
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-w", "-m", mode, "stop")

    def database(self, name: str) -> None:
        """Make a database with an empty index, and the users of the collectors."""
        with psycopg.connect(self.dsn(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        migrate(self.dsn(name))
        with psycopg.connect(self.dsn(), autocommit=True) as connection:
            for user, role in USERS.items():
                if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (user,)).fetchone():
                    connection.execute(f"CREATE ROLE {user} LOGIN IN ROLE {role}")

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder)

    def _run(self, program: str, *arguments: str) -> None:
        environ = os.environ | {"HOME": str(self.folder)}
        with open(self.folder / "commands", "ab") as log:
            subprocess.run(
                [*self._as, _binary(program), *arguments], check=True, env=environ, cwd="/", stdout=log, stderr=log
            )


def _has_postgres() -> bool:
    return any(user.pw_name == "postgres" for user in pwd.getpwall())


def _binary(name: str) -> str:
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    found = shutil.which(name) or shutil.which(name, path=os.pathsep.join(map(str, folders)))
    assert found, f"{name} is not here: install Debian's `postgresql` (apt-get install postgresql)"
    return found
