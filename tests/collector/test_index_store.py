"""The index in SQLite, against the suite for every index."""

import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_middleware.collector.index import Index
from audit_middleware.collector.index_seal import IndexSeal
from audit_middleware.collector.query import parse_query
from audit_middleware.errors import StorageError
from tests.collector import index_suite as suite


@contextmanager
def fresh():
    with tempfile.TemporaryDirectory() as folder:
        index = Index(Path(folder, "index.sqlite"), IndexSeal(b"s" * 32))
        try:
            yield index
        finally:
            index.close()


@settings(max_examples=40, deadline=None)
@given(commits=suite.COMMITS, asked=st.lists(suite.questions(), max_size=6))
def test_it_answers_as_a_list_does(commits, asked):
    with fresh() as index:
        suite.run(index, commits, asked)


def test_what_was_set_aside_first_stays():
    with fresh() as index:
        suite.set_aside(index)


def test_an_index_that_was_deleted_answers_nothing_from_a_connection_that_was_kept():
    with fresh() as index:
        assert index.select(parse_query([])) == []
        index.path.unlink()
        with pytest.raises(StorageError, match="gone"):
            index.select(parse_query([]))


def test_an_action_beside_a_person_does_not_choose_the_index():
    with fresh() as index:
        model = suite.Model(index)
        model.commit(suite.LOGS[0], [suite.Said(1, "alice", "orders.read", "42", "success")])
        statements = []
        index.select(parse_query([("principal", "alice"), ("action", "orders.read")]))
        (connection,) = index._searcher._idle._idle
        connection.set_trace_callback(statements.append)
        index.select(parse_query([("principal", "alice"), ("action", "orders.read")]))
        connection.set_trace_callback(None)
        (search,) = [each for each in statements if "FROM records_" in each]
        plan = str(connection.execute(f"EXPLAIN QUERY PLAN {search}").fetchall())
        assert "by_principal" in plan
