"""What Django's ``IDENTIFY`` may do to a request, with the connections of PostgreSQL; the claims are of `test_django_loans`."""

import json
import os
import secrets
import subprocess
import sys

import psycopg
import pytest

pytestmark = pytest.mark.postgres


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"CONN_MAX_AGE": 600, "CONN_HEALTH_CHECKS": True},
        {"OPTIONS": {"pool": True}},
        {"OPTIONS": {"pool": {"min_size": 1, "max_size": 2, "timeout": 5}}},
    ],
    ids=str,
)
def test_a_request_loses_nothing_by_an_identify_that_hangs(server, settings):
    name = f"django_{secrets.token_hex(4)}"
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    database = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": name,
        "USER": "pgadmin",
        "HOST": str(server.folder),
        "PORT": "5432",
        **settings,
    }
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/integrations/test_django_loans.py"],
        env=os.environ | {"TEST_DATABASE": json.dumps(database)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout
