"""The tables in PostgreSQL, who may do what with them, and how they are made.

Append-only: ``records`` and ``places`` (who has a place in a stream), ``asides``. State, which moves and is never
deleted: ``streams``, ``logs``. Rows of a log go in one piece, by the function ``forget_log``, when it has expired.
Privileges keep the writer from anything else, triggers everybody, and nothing a superuser: only the ledgers do.
"""

from __future__ import annotations

from typing import Final

import psycopg
from psycopg import sql

from audit_middleware.errors import ConfigurationError

SCHEMA: Final = "audit_ready"
OWNER, WRITER, READER = "audit_owner", "audit_writer", "audit_reader"

_FIRST: Final = """
CREATE TABLE version (number integer NOT NULL);
CREATE SEQUENCE log_numbers;
CREATE SEQUENCE stream_numbers;
CREATE TABLE logs (
    number bigint PRIMARY KEY, origin text COLLATE "C" NOT NULL UNIQUE, collector text COLLATE "C" NOT NULL,
    size bigint NOT NULL, root bytea NOT NULL
);
CREATE TABLE streams (
    number bigint PRIMARY KEY, stream text COLLATE "C" NOT NULL UNIQUE, service text COLLATE "C", next bigint NOT NULL,
    head text NOT NULL, gaps text NOT NULL, open_gaps integer NOT NULL, closed integer NOT NULL, seal bytea NOT NULL,
    collector text COLLATE "C" NOT NULL
);
CREATE INDEX streams_by_collector ON streams (collector, service, number);
CREATE TABLE asides (stream text COLLATE "C", seq bigint, leaf text NOT NULL, seal bytea NOT NULL,
    PRIMARY KEY (stream, seq));
CREATE TABLE judged (collector text COLLATE "C" PRIMARY KEY, keyring bytea NOT NULL);
CREATE TABLE parts (log bigint, month date, oldest bigint NOT NULL, newest bigint NOT NULL, PRIMARY KEY (log, month));
CREATE TABLE places (stream bigint, seq bigint, id bigint NOT NULL, leaf bytea NOT NULL, seal bytea NOT NULL,
    PRIMARY KEY (stream, seq));
CREATE TABLE copies (id bigint PRIMARY KEY, collector text COLLATE "C" NOT NULL, stream text NOT NULL,
    seq bigint NOT NULL, kept text NOT NULL, other text NOT NULL, is_said boolean NOT NULL DEFAULT false);
CREATE TABLE records (
    log bigint NOT NULL, month date NOT NULL, id bigint NOT NULL, stream bigint NOT NULL, seq bigint NOT NULL,
    type text COLLATE "C" NOT NULL, ts bigint NOT NULL, service text COLLATE "C", principal text COLLATE "C",
    action text COLLATE "C", resource_type text COLLATE "C", resource_id text COLLATE "C", outcome text COLLATE "C",
    ip text COLLATE "C", request_id text COLLATE "C", trace_id text COLLATE "C", seal bytea NOT NULL,
    line bytea NOT NULL
) PARTITION BY RANGE (log, month);
CREATE INDEX records_by_time ON records (ts);
CREATE INDEX records_by_stream ON records (stream, ts);
CREATE INDEX records_by_principal ON records (principal, ts) WHERE principal IS NOT NULL;
CREATE INDEX records_by_resource ON records (resource_id, ts) WHERE resource_id IS NOT NULL;
CREATE INDEX records_by_action ON records (action, ts) WHERE action IS NOT NULL;
CREATE INDEX records_by_request ON records (request_id) WHERE request_id IS NOT NULL;
CREATE INDEX records_by_trace ON records (trace_id) WHERE trace_id IS NOT NULL;

CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% of %: the index is append-only', TG_OP, TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE FUNCTION only_forget() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF current_user <> 'audit_owner' THEN
        RAISE EXCEPTION 'DELETE of %: rows go with their log', TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN OLD;
END $$;
CREATE FUNCTION only_forward() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.number <> OLD.number OR NEW.next < OLD.next OR NEW.stream <> OLD.stream THEN
        RAISE EXCEPTION 'stream %: it only moves forward', OLD.stream USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER records_stay BEFORE UPDATE OR DELETE ON records FOR EACH ROW EXECUTE FUNCTION refuse();
CREATE TRIGGER records_whole BEFORE TRUNCATE ON records FOR EACH STATEMENT EXECUTE FUNCTION refuse();
CREATE TRIGGER places_stay BEFORE UPDATE ON places FOR EACH ROW EXECUTE FUNCTION refuse();
CREATE TRIGGER places_expire BEFORE DELETE ON places FOR EACH ROW EXECUTE FUNCTION only_forget();
CREATE TRIGGER places_whole BEFORE TRUNCATE ON places FOR EACH STATEMENT EXECUTE FUNCTION refuse();
CREATE TRIGGER asides_stay BEFORE UPDATE OR DELETE ON asides FOR EACH ROW EXECUTE FUNCTION refuse();
CREATE TRIGGER asides_whole BEFORE TRUNCATE ON asides FOR EACH STATEMENT EXECUTE FUNCTION refuse();
CREATE TRIGGER streams_move BEFORE UPDATE ON streams FOR EACH ROW EXECUTE FUNCTION only_forward();
CREATE TRIGGER streams_stay BEFORE DELETE ON streams FOR EACH ROW EXECUTE FUNCTION refuse();
CREATE TRIGGER streams_whole BEFORE TRUNCATE ON streams FOR EACH STATEMENT EXECUTE FUNCTION refuse();
CREATE TRIGGER logs_stay BEFORE DELETE ON logs FOR EACH ROW EXECUTE FUNCTION refuse();
CREATE TRIGGER logs_whole BEFORE TRUNCATE ON logs FOR EACH STATEMENT EXECUTE FUNCTION refuse();

CREATE FUNCTION make_part(log bigint, month date) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
SET search_path = audit_ready, pg_temp AS $$
DECLARE part text := format('records_%s_%s', log, to_char(month, 'YYYYMM'));
BEGIN
    IF log IS NULL OR month IS NULL OR month <> date_trunc('month', month) THEN
        RAISE EXCEPTION 'a part is a log and the first day of a month';
    END IF;
    IF to_regclass(part) IS NULL THEN
        EXECUTE format('CREATE TABLE %I (LIKE records INCLUDING DEFAULTS INCLUDING STORAGE)', part);
        EXECUTE format('ALTER TABLE records ATTACH PARTITION %I FOR VALUES FROM (%s, %L) TO (%s, %L)',
            part, log, month, log, month + interval '1 month');
        EXECUTE format('CREATE TRIGGER part_whole BEFORE TRUNCATE ON %I FOR EACH STATEMENT EXECUTE FUNCTION refuse()',
            part);
    END IF;
END $$;
CREATE FUNCTION forget_log(forgotten bigint) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
SET search_path = audit_ready, pg_temp AS $$
DECLARE part record;
BEGIN
    FOR part IN SELECT month FROM parts WHERE log = forgotten LOOP
        EXECUTE format('DROP TABLE IF EXISTS %I', format('records_%s_%s', forgotten, to_char(part.month, 'YYYYMM')));
    END LOOP;
    IF FOUND THEN
        DELETE FROM places WHERE id >= forgotten << 40 AND id < (forgotten + 1) << 40;
        DELETE FROM copies WHERE id >= forgotten << 40 AND id < (forgotten + 1) << 40;
        DELETE FROM parts WHERE log = forgotten;
    END IF;
END $$;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA audit_ready FROM PUBLIC;

GRANT USAGE ON SCHEMA audit_ready TO audit_writer, audit_reader;
GRANT SELECT ON ALL TABLES IN SCHEMA audit_ready TO audit_writer, audit_reader;
GRANT INSERT ON logs, streams, asides, judged, parts, places, copies, records TO audit_writer;
GRANT UPDATE ON logs, streams, judged, parts, copies TO audit_writer;
GRANT USAGE ON SEQUENCE log_numbers, stream_numbers TO audit_writer;
GRANT EXECUTE ON FUNCTION make_part(bigint, date), forget_log(bigint) TO audit_writer;
"""
_SECOND: Final = """
CREATE TABLE presence (collector text COLLATE "C" PRIMARY KEY, at bigint NOT NULL, closed integer NOT NULL,
    seal bytea NOT NULL);
CREATE INDEX records_by_life ON records (id) WHERE type NOT IN ('attempt', 'call', 'event', 'request', 'task');
ALTER TABLE logs ADD COLUMN login text COLLATE "C";

CREATE FUNCTION may_touch(login text) RETURNS boolean LANGUAGE sql STABLE
SET search_path = audit_ready, pg_temp AS $$
    SELECT login IS NULL OR login = session_user OR pg_has_role(session_user, 'audit_owner', 'MEMBER')
$$;
CREATE FUNCTION keep_login() RETURNS trigger LANGUAGE plpgsql SET search_path = audit_ready, pg_temp AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        NEW.login := session_user;
        RETURN NEW;
    END IF;
    IF NOT may_touch(OLD.login) THEN
        RAISE EXCEPTION 'log %: it is of the collector that logs in as %', OLD.origin, OLD.login
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF NOT pg_has_role(session_user, 'audit_owner', 'MEMBER') THEN
        NEW.login := coalesce(OLD.login, session_user);
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER logs_login BEFORE INSERT OR UPDATE ON logs FOR EACH ROW EXECUTE FUNCTION keep_login();
CREATE OR REPLACE FUNCTION forget_log(forgotten bigint) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
SET search_path = audit_ready, pg_temp AS $$
DECLARE part record;
BEGIN
    IF EXISTS (SELECT FROM logs WHERE number = forgotten AND NOT may_touch(login)) THEN
        RAISE EXCEPTION 'log %: only the collector that writes it drops its rows', forgotten
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    FOR part IN SELECT month FROM parts WHERE log = forgotten LOOP
        EXECUTE format('DROP TABLE IF EXISTS %I', format('records_%s_%s', forgotten, to_char(part.month, 'YYYYMM')));
    END LOOP;
    IF FOUND THEN
        DELETE FROM places WHERE id >= forgotten << 40 AND id < (forgotten + 1) << 40;
        DELETE FROM copies WHERE id >= forgotten << 40 AND id < (forgotten + 1) << 40;
        DELETE FROM parts WHERE log = forgotten;
    END IF;
END $$;
REVOKE ALL ON FUNCTION may_touch(text), keep_login() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION may_touch(text) TO audit_writer;
GRANT SELECT ON presence TO audit_writer, audit_reader;
GRANT INSERT, UPDATE ON presence TO audit_writer;
"""
MIGRATIONS: Final = (_FIRST, _SECOND)
"""Version n is made from version n - 1 by the n-th; none is ever changed."""


def version(connection: psycopg.Connection) -> int:
    """Return the version of the tables, 0 when there are none."""
    found = connection.execute("SELECT to_regclass(%s) IS NOT NULL", (f"{SCHEMA}.version",)).fetchone()
    if not found or not found[0]:
        return 0
    numbers = connection.execute("SELECT coalesce(max(number), 0) FROM audit_ready.version").fetchone()
    return int(numbers[0]) if numbers else 0


def migrate(dsn: str, *, anew: bool = False) -> int:
    """Make the tables, roles and rights, or bring them to this version; return how many steps that took.

    ``dsn`` is of somebody who may create roles and schemas. ``anew`` drops what there is: the collectors fill the index
    again from their ledgers when they start. Raises `ConfigurationError`.
    """
    try:
        with psycopg.connect(dsn, connect_timeout=5) as connection:
            connection.execute("SELECT pg_advisory_xact_lock(hashtext('audit-ready migrate'))")
            if anew:
                connection.execute("DROP SCHEMA IF EXISTS audit_ready CASCADE")
            _make_roles(connection)
            known = version(connection)
            if known > len(MIGRATIONS):
                raise ConfigurationError(f"the index has version {known}, this release knows {len(MIGRATIONS)}")
            for number, script in enumerate(MIGRATIONS[known:], known + 1):
                _apply(connection, number, script)
            return len(MIGRATIONS) - known
    except psycopg.Error as error:
        raise ConfigurationError(f"the index cannot be made: {str(error).strip()}") from error


def _make_roles(connection: psycopg.Connection) -> None:
    """Make the roles, without login: who logs in is made a member of one of them."""
    for role in (OWNER, WRITER, READER):
        if connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,)).fetchone() is None:
            connection.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(role)))
    connection.execute("GRANT audit_owner TO CURRENT_USER")
    connection.execute("CREATE SCHEMA IF NOT EXISTS audit_ready AUTHORIZATION audit_owner")


def _apply(connection: psycopg.Connection, number: int, script: str) -> None:
    connection.execute("SET LOCAL ROLE audit_owner")
    connection.execute("SET LOCAL search_path = audit_ready")
    connection.execute(script)
    connection.execute("INSERT INTO version VALUES (%s)", (number,))
    connection.execute("RESET ROLE")
