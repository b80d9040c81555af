"""Tables are made and brought up to date by migrations, whole or not at all."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text

from powerflow.api.job_spec import JobSpec
from powerflow.store import schema
from powerflow.store.database import Database, StoreError, _prepare_sqlite
from powerflow.store.migrate import upgrade
from powerflow.store.store import Store
from tests.store.databases import Postgres

MIGRATIONS = Path(schema.__file__).parent / "migrations"


@pytest.fixture(params=["sqlite", "postgresql"])
def bare_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database without tables."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/100%/state.db"
    else:
        postgres: Postgres = request.getfixturevalue("postgres")
        yield postgres.bare()


def test_migrations_end_at_the_schema(bare_url: str) -> None:
    upgrade(bare_url)
    database = Database(bare_url)
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": schema.VERSION_TABLE})
        assert compare_metadata(context, schema.metadata) == []
        if database.is_sqlite:  # what the comparison does not see
            made = str(connection.exec_driver_sql("SELECT group_concat(sql) FROM sqlite_master").scalar())
            assert made.count("AUTOINCREMENT") == 5
            assert "id = 1" in made
    assert database.version() == schema.VERSION
    database.close()


def test_the_version_is_that_of_the_newest_migration() -> None:
    scripts = ScriptDirectory(MIGRATIONS)
    assert scripts.get_current_head() == schema.VERSION
    revisions = [script.revision for script in scripts.walk_revisions()]
    assert revisions == sorted(revisions, reverse=True), "newer is greater: that is how a newer database is known"


def test_opening_makes_tables_once_and_loads_no_migrations(bare_url: str) -> None:
    program = (
        "import subprocess, sys\nfrom powerflow.store.store import Store\n"
        f"Store({bare_url!r}).close()\n"
        "subprocess.run = None\n"  # a second migration would have to call it
        f"Store({bare_url!r}).close()\n"
        "loaded = {'alembic', 'torch', 'scipy', 'numba'} & sys.modules.keys()\n"
        "assert not loaded, loaded\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_many_may_open_a_new_database_at_once(bare_url: str) -> None:
    with ThreadPoolExecutor(2) as pool:
        stores = list(pool.map(lambda _: Store(bare_url, wait_s=60.0), range(2)))
    ids = [store.submit(JobSpec(run="x"), "ada", 1.0)[0].id for store in stores]
    assert sorted(ids) == ["1", "2"]
    for store in stores:
        store.close()


def test_a_newer_database_is_refused_and_left_alone(url: str) -> None:
    database = Database(url)
    with database.write() as connection:
        connection.exec_driver_sql(f"UPDATE {schema.VERSION_TABLE} SET version_num = '9999'")
    for _ in range(2):
        with pytest.raises(StoreError, match="database is newer than this PowerFlow") as caught:
            Store(url)
        assert caught.value.fix == "upgrade PowerFlow"
        assert not caught.value.retry
    with pytest.raises(StoreError, match="newer"):
        upgrade(url)
    database.close()


def test_a_database_of_something_else_is_refused(bare_url: str) -> None:
    database = Database(bare_url, migrate=False)
    with database.write() as connection:
        connection.exec_driver_sql("CREATE TABLE jobs (salary INTEGER)")
    with pytest.raises(StoreError, match="not a database of PowerFlow"):
        Store(bare_url)
    database.close()


def test_a_migration_that_fails_leaves_nothing(bare_url: str) -> None:
    database = Database(bare_url, migrate=False)
    with database.write() as connection:  # in the way of one of the last tables
        connection.exec_driver_sql("CREATE VIEW observations AS SELECT 1 AS one")
    with pytest.raises(StoreError, match="observations"):
        upgrade(bare_url)
    with database.write() as connection:
        connection.exec_driver_sql("DROP VIEW observations")
    assert database.version() is None
    upgrade(bare_url)
    Store(bare_url).close()
    database.close()


def test_migrating_reports_in_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "powerflow.store.migrate"],
        input=f"sqlite:///{tmp_path}",
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONWARNINGS": "error"},
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "cannot be opened" in done.stderr


def test_a_connection_waits_for_another_that_writes_before_the_journal_is_changed(tmp_path: Path) -> None:
    """SQLite itself does not wait there: of 400 rounds in which four opened a new database, 3 failed at once."""
    path = tmp_path / "new.db"
    writer = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    writer.execute("BEGIN IMMEDIATE")
    with ThreadPoolExecutor(1) as pool, closing(sqlite3.connect(path, check_same_thread=False)) as connection:
        waiting = pool.submit(_prepare_sqlite, connection, 60.0)
        time.sleep(0.05)
        assert not waiting.done()
        writer.execute("COMMIT")
        writer.close()
        waiting.result()
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_names_in_old_events_are_found_whatever_else_they_hold(bare_url: str) -> None:
    upgrade(bare_url, "0005")
    database = Database(bare_url, migrate=False)
    fields = [
        {"node": "n1", "state": "drained", "by": "ops"},
        {"user": "ada", "odd": "\0 half \ud800"},
        {"node": "\0", "by": 3},
        {"text": 'no "node" of its own'},
    ]
    with database.write() as connection:
        for number, each in enumerate(fields, 1):
            row = {"number": number, "fields": json.dumps(each, separators=(",", ":"))}
            connection.execute(
                text("INSERT INTO events (number, time_s, kind, text, fields) VALUES (:number, 1, 'old', '', :fields)"),
                row,
            )
    database.close()
    store = Store(bare_url)
    assert [(event.node, event.user) for event in store.events().items] == [
        ("n1", "ops"),
        (None, "ada"),
        (None, None),
        (None, None),
    ]
    assert [event.fields for event in store.events().items] == fields
    store.close()
