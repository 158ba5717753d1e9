"""What raftlog keeps in a PostgreSQL database: its tables, and the functions and triggers that capture.

The schema `raftlog` holds the functions, the project's own schema the tables (`raftlog_…`). Each replicated table has
three triggers. Two of them, for each row that is inserted, updated or deleted, and for TRUNCATE, write the row's text
(the output of its types' own functions, under fixed settings) into the setting `raftlog.rows`, which PostgreSQL takes
back with the savepoint or statement that is undone. Where that grows, it is sent to the client as an INFO message, and
`raftlog.chunk` names the last one sent: following the chain backwards gives what was not undone.

A transaction that is not raftlog's own has no `raftlog.rows`: there the triggers raise, so nobody changes a replicated
row by hand unnoticed. While an entry is applied, session_replication_role is `replica` and they don't fire. A superuser
can set that too: the third trigger fires always, and counts what is neither raftlog's nor captured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import psycopg

from raftlog.replication.shapes import OWN_TABLES_SQL

# SQLSTATE of what the triggers tell, and of their refusal.
CAPTURED: Final = "RL000"
NOT_CAPTURING: Final = "RL001"
# Held by who makes the tables, and by who applies inline: one at a time.
ADVISORY_KEY: Final = 0x7261_6674_6C6F_6701
# How much of `raftlog.rows` is gathered before it is sent: each row copies it once.
_BUFFER: Final = 2_000

# Settings under which values become text, so that equal values are equal texts on every node.
CANONICAL: Final = {
    "timezone": "UTC",
    "extra_float_digits": "1",
    "datestyle": "ISO, YMD",
    "intervalstyle": "postgres",
    "bytea_output": "hex",
    "lc_monetary": "C",
}
_SETTINGS: Final = " ".join(f"SET {name} = '{value}'" for name, value in CANONICAL.items())

_ADD: Final = f"""
CREATE OR REPLACE FUNCTION raftlog.add(kind text, relation oid, before text, after text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    held text := current_setting('raftlog.rows', true);
    number bigint;
BEGIN
    IF held IS NULL OR held = '' THEN
        RAISE EXCEPTION USING ERRCODE = '{NOT_CAPTURING}', MESSAGE =
            format('table %s is replicated by raftlog: write to it through Django, with the raftlog backend',
                   relation::regclass);
    END IF;
    IF held = '-' THEN  -- a statement that is replayed as such
        RETURN;
    END IF;
    IF held = '+' THEN
        RAISE INFO USING ERRCODE = '{CAPTURED}', MESSAGE = '';
    END IF;
    held := held || kind || relation || ' ' || coalesce(length(before), 0) || ' ' || coalesce(length(after), 0) || ' '
        || coalesce(before, '') || coalesce(after, '');
    IF length(held) > {_BUFFER} THEN
        number := nextval('raftlog.chunks');
        RAISE INFO USING ERRCODE = '{CAPTURED}',
            MESSAGE = number || ' ' || coalesce(current_setting('raftlog.chunk', true), '') || ' ' || held;
        PERFORM set_config('raftlog.chunk', number::text, true);
        held := '=';
    END IF;
    PERFORM set_config('raftlog.rows', held, true);
END $$"""

_CAPTURE: Final = f"""
CREATE OR REPLACE FUNCTION raftlog.capture() RETURNS trigger LANGUAGE plpgsql {_SETTINGS} AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        PERFORM raftlog.add('I', TG_RELID, NULL, NEW::text);
    ELSIF TG_OP = 'UPDATE' THEN
        PERFORM raftlog.add('U', TG_RELID, OLD::text, NEW::text);
    ELSE
        PERFORM raftlog.add('D', TG_RELID, OLD::text, NULL);
    END IF;
    RETURN NULL;
END $$"""

_CAPTURE_TRUNCATE: Final = f"""
CREATE OR REPLACE FUNCTION raftlog.capture_truncate() RETURNS trigger LANGUAGE plpgsql {_SETTINGS} AS $$
DECLARE
    image text;
BEGIN
    PERFORM raftlog.add('T', TG_RELID, NULL, NULL);
    FOR image IN EXECUTE format('SELECT raftlog_row::text FROM ONLY %s AS raftlog_row', TG_RELID::regclass) LOOP
        PERFORM raftlog.add('D', TG_RELID, image, NULL);
    END LOOP;
    RETURN NULL;
END $$"""

_WATCH: Final = """
CREATE OR REPLACE FUNCTION raftlog.watch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF coalesce(current_setting('raftlog.rows', true), '') = '' THEN
        PERFORM nextval('raftlog.edits');
    END IF;
    RETURN NULL;
END $$"""

# Called after each schema statement: new tables get their triggers.
_INSTALL: Final = f"""
CREATE OR REPLACE FUNCTION raftlog.install() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    made regclass;
BEGIN
    FOR made IN
        SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND c.relname NOT IN ({OWN_TABLES_SQL})
            AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'raftlog')
            AND NOT EXISTS (SELECT 1 FROM pg_trigger t WHERE t.tgrelid = c.oid AND t.tgname = 'raftlog_capture')
    LOOP
        EXECUTE format('CREATE TRIGGER raftlog_capture AFTER INSERT OR UPDATE OR DELETE ON %s '
                       'FOR EACH ROW EXECUTE FUNCTION raftlog.capture()', made);
        EXECUTE format('CREATE TRIGGER raftlog_truncate BEFORE TRUNCATE ON %s '
                       'FOR EACH STATEMENT EXECUTE FUNCTION raftlog.capture_truncate()', made);
        EXECUTE format('CREATE TRIGGER raftlog_watch AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON %s '
                       'FOR EACH STATEMENT EXECUTE FUNCTION raftlog.watch()', made);
        EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER raftlog_watch', made);
    END LOOP;
END $$"""

TABLES: Final = (
    "CREATE TABLE IF NOT EXISTS raftlog_positions (id integer PRIMARY KEY CHECK (id = 1), applied bigint NOT NULL, "
    "last_data bigint NOT NULL, last_schema bigint NOT NULL, last_key_epoch bigint NOT NULL)",
    "INSERT INTO raftlog_positions VALUES (1, 0, 0, 0, 0) ON CONFLICT DO NOTHING",
    "CREATE TABLE IF NOT EXISTS raftlog_tables (name text PRIMARY KEY, changed bigint NOT NULL DEFAULT 0, "
    "schema_changed bigint NOT NULL DEFAULT 0, all_rows bigint NOT NULL DEFAULT 0, "
    "key_epoch bigint NOT NULL DEFAULT 0, fingerprint bytea NOT NULL)",
    "CREATE TABLE IF NOT EXISTS raftlog_slots (slot integer PRIMARY KEY, changed bigint NOT NULL)",
    # Counters of automatic keys: a sequence is moved by transactions that are rolled back, too.
    "CREATE TABLE IF NOT EXISTS raftlog_counters (name text PRIMARY KEY, value bigint NOT NULL)",
)


def make_tables(cursor: psycopg.Cursor, fingerprints: Callable[[], Mapping[str, bytes]] = dict) -> None:
    """Make, where they are missing, raftlog's tables, functions and triggers. Outside a transaction; idempotent.

    `fingerprints` of tables that may have rows already, asked for where raftlog's tables are made.
    """
    cursor.execute("BEGIN")
    try:
        cursor.execute("SET LOCAL client_min_messages = warning")
        cursor.execute(f"SELECT pg_advisory_xact_lock({ADVISORY_KEY})")
        is_new = cursor.execute("SELECT to_regclass('raftlog_tables') IS NULL").fetchone() == (True,)
        cursor.execute("CREATE SCHEMA IF NOT EXISTS raftlog")
        # Its last value is the newest entry that is being applied, also for those who look from an older snapshot.
        cursor.execute("CREATE SEQUENCE IF NOT EXISTS raftlog.newest MINVALUE 0")
        cursor.execute("CREATE SEQUENCE IF NOT EXISTS raftlog.chunks")
        cursor.execute("CREATE SEQUENCE IF NOT EXISTS raftlog.edits")
        for statement in (_ADD, _CAPTURE, _CAPTURE_TRUNCATE, _WATCH, _INSTALL, *TABLES, "SELECT raftlog.install()"):
            cursor.execute(statement.encode())
        for name, fingerprint in fingerprints().items() if is_new else ():
            cursor.execute("INSERT INTO raftlog_tables (name, fingerprint) VALUES (%s, %s)", (name, fingerprint))
        cursor.execute("COMMIT")
    except BaseException:
        if not cursor.connection.closed:
            cursor.execute("ROLLBACK")
        raise
