"""The index in PostgreSQL, against the suite for every index."""

import secrets
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit_middleware.collector.index_seal import IndexSeal
from audit_middleware.collector.postgres.index import PostgresIndex
from audit_middleware.collector.query import parse_query
from tests.collector import index_suite as suite

pytestmark = pytest.mark.postgres


@contextmanager
def fresh(server):
    database = f"suite_{secrets.token_hex(4)}"
    server.database(database)
    index = PostgresIndex(server.dsn(database, "collector"), IndexSeal(b"s" * 32), "one.test")
    try:
        yield index
    finally:
        index.close()


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(commits=suite.COMMITS, asked=st.lists(suite.questions(), max_size=6))
def test_it_answers_as_a_list_does(server, commits, asked):
    with fresh(server) as index:
        suite.run(index, commits, asked)


def test_what_was_set_aside_first_stays(server):
    with fresh(server) as index:
        suite.set_aside(index)


def test_a_search_is_planned_for_the_person_it_names(server):
    with fresh(server) as index:
        suite.Model(index).commit(suite.LOGS[0], [suite.Said(1, "alice", "orders.read", "42", "success")])
        for _ in range(12):
            assert len(index.select(parse_query([("principal", "alice"), ("action", "orders.read")]))) == 1
        (connection,) = index._searcher._idle._idle
        prepared = connection.execute("SELECT statement FROM pg_prepared_statements").fetchall()
        assert not [statement for (statement,) in prepared if "principal" in statement]
