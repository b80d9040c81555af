"""Open a SQLite or PostgreSQL database, run transactions on it, and report its failures in one line.

Only one write transaction runs at a time: in SQLite by ``BEGIN IMMEDIATE``, in PostgreSQL by an advisory lock. So a
transaction can read, decide and write without conflicts, and readers see new rows in the order of their numbers.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy import (
    URL,
    ColumnElement,
    Connection,
    Engine,
    Table,
    Text,
    create_engine,
    event,
    inspect,
    make_url,
    select,
    table,
    text,
)
from sqlalchemy import column as sql_column
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from powerflow.api.records import Unavailable
from powerflow.cluster.spec import printable
from powerflow.errors import InputError
from powerflow.store import schema
from powerflow.store.failures import first_line, postgresql_failure, sqlite_failure

#: Which of PostgreSQL's advisory locks is ours ("powerflo" as a number).
_ADVISORY_LOCK = int.from_bytes(b"powerflo", "big")
#: Seconds between two attempts to change how SQLite keeps its journal.
_AGAIN_S = 0.01
#: Exit status of `powerflow.store.migrate` after a failure that may not occur again later.
TRY_AGAIN = 75


class StoreError(Unavailable):
    """Error: the store cannot be used now. A failed write has stored nothing.

    ``retry`` is True if the operation may succeed later without a change of PowerFlow's configuration: another process
    holds a lock, the disk is full, or the database server cannot be reached.
    """

    def __init__(self, what: str, *, where: str = "", fix: str = "", retry: bool = False) -> None:
        InputError.__init__(self, what, where=where, fix=fix, exit_code=1)
        self.retry = retry


class LostClaim(StoreError):
    """Error: another controller has taken over the store. This controller must not write to the store any more."""

    def __init__(self) -> None:
        super().__init__("another controller has taken over the store, the jobs, the GPUs and their clocks")
        self.exit_code = 4


class Database:
    """Connections to one database. Its tables have the revision that this version of PowerFlow needs.

    Args:
        url: ``sqlite:///path`` or ``postgresql://user:password@host/name``.
        wait_s: How many seconds to wait for a lock or a server.
        migrate: True to bring older tables up to date. A separate process does this, so that this process needs no
            memory for the libraries.

    Attributes:
        owner: Name of the controller that holds the store's lease (`powerflow.store.leader_lease`); None without a
            lease.

    Raises:
        StoreError: The database cannot be opened, or its tables are newer than this PowerFlow.
        InputError: The URL does not name a SQLite or PostgreSQL database.
    """

    def __init__(self, url: str, *, wait_s: float = 5.0, migrate: bool = True) -> None:
        self.url = _url(url)
        self.where = printable(self._text(hide_password=True))
        self.owner: str | None = None
        self._wait_s = wait_s
        self._writer = threading.Lock()
        self._engine = self._sqlite() if self.is_sqlite else self._postgresql()
        try:
            if migrate and self.version() != schema.VERSION:
                self._migrate()
        except BaseException:
            self.close()
            raise

    @property
    def is_sqlite(self) -> bool:
        """True if the database is SQLite, False if it is PostgreSQL."""
        return self.url.get_backend_name() == "sqlite"

    def close(self) -> None:
        """Close all connections to the database."""
        self._engine.dispose()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a read transaction, in which all queries see the same state of the database.

        Raises:
            StoreError: The transaction failed.
        """
        with self._failures(), self._engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Open a write transaction; only one can be open at a time.

        The transaction's changes are on disk when the ``with`` block has ended. If the block raises an exception, the
        changes are undone.

        Raises:
            StoreError: The transaction failed, and nothing was written.
        """
        if not self._writer.acquire(timeout=self._wait_s):
            raise self._locked()
        try:
            with self._failures(), self._engine.connect() as connection:
                connection = connection.execution_options(powerflow_writes=True)  # noqa: PLW2901
                with connection.begin():
                    if not self.is_sqlite:
                        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _ADVISORY_LOCK})
                    yield connection
        finally:
            self._writer.release()

    @contextmanager
    def write_claimed(self) -> Iterator[Connection]:
        """Open a write transaction, after checking that this controller still holds the lease on the store.

        Without ``owner``, nothing is checked.

        Raises:
            LostClaim: Another controller has taken over the store.
            StoreError: The transaction failed, and nothing was written.
        """
        with self.write() as connection:
            if self.owner is not None and connection.scalar(select(schema.claims.c.owner)) != self.owner:
                raise LostClaim
            yield connection

    def upsert(
        self,
        into: Table,
        key: Sequence[str],
        columns: Sequence[str],
        *,
        add: bool = False,
        where: ColumnElement[bool] | None = None,
    ) -> Any:
        """Return a statement that inserts a row, or updates the row that already has the same key.

        Args:
            into: The table.
            key: Names of the columns that form the key.
            columns: Names of the columns that an update sets.
            add: True if an update adds the new values to the old ones instead of replacing them.
            where: Condition that a row must meet to be updated; None to update every row.
        """
        if where is None:
            return _upsert(self.is_sqlite, into, tuple(key), tuple(columns), add)
        return _new_upsert(self.is_sqlite, into, key, columns, add, where)

    def checkpoint(self) -> None:
        """Copy SQLite's write-ahead log into the database file, so that less is lost if the log file disappears.

        Raises:
            StoreError: The copy failed.
        """
        if not self.is_sqlite:
            return
        with self._failures():
            connection = self._engine.raw_connection()  # outside of any transaction, which SQLAlchemy would begin
            try:
                connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
            finally:
                connection.close()

    def version(self) -> str | None:
        """Return the revision of the database's tables; None if there are no tables.

        Raises:
            StoreError: The database was not made by PowerFlow, or its tables are newer than this PowerFlow.
        """
        with self.read() as connection:
            tables = set(inspect(connection).get_table_names())
            if schema.VERSION_TABLE not in tables:
                if tables & set(schema.metadata.tables):
                    raise StoreError("is not a database of PowerFlow", where=self.where, fix="name its own database")
                return None
            query = select(sql_column("version_num", Text)).select_from(table(schema.VERSION_TABLE))
            version = connection.scalar(query)
        if version is not None and version > schema.VERSION:
            raise StoreError(
                f"database is newer than this PowerFlow (revision {version}, this knows {schema.VERSION})",
                where=self.where,
                fix="upgrade PowerFlow",
            )
        return version

    def _text(self, *, hide_password: bool) -> str:
        if self.is_sqlite:
            return f"sqlite:///{self.url.database}"
        return self.url.render_as_string(hide_password=hide_password)

    def _migrate(self) -> None:
        done = subprocess.run(  # -P: nothing in the current directory may pose as a module
            [sys.executable, "-P", "-m", "powerflow.store.migrate"],
            input=self._text(hide_password=False),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"migration ended with {done.returncode}"]
            raise StoreError(lines[-1], retry=done.returncode == TRY_AGAIN)

    def _sqlite(self) -> Engine:
        path = self.url.database or ""
        try:
            _make_file(Path(path))
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            what = "disk is full" if full else f"cannot be opened ({error.strerror})"
            raise StoreError(what, where=self.where, retry=full) from None
        engine = create_engine(self.url, pool_size=4, max_overflow=12, connect_args={"timeout": self._wait_s})
        event.listen(engine, "connect", lambda connection, _: _prepare_sqlite(connection, self._wait_s))
        event.listen(engine, "begin", _begin_sqlite)
        return engine

    def _postgresql(self) -> Engine:
        wait_ms = int(self._wait_s * 1e3)
        settings = {
            "connect_timeout": max(2, int(self._wait_s)),  # seconds; libpq takes no less than 2
            "options": f"-c lock_timeout={wait_ms} -c idle_in_transaction_session_timeout=60s",
            "application_name": "powerflow",
        }
        try:
            url = self.url.set(drivername="postgresql+psycopg")
            return create_engine(url, pool_size=4, max_overflow=12, pool_pre_ping=True, connect_args=settings)
        except ModuleNotFoundError:
            fix = "pip install 'powerflow-scheduler[postgres]'"
            raise StoreError("PostgreSQL needs the package psycopg", where=self.where, fix=fix) from None

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except PoolTimeout:
            raise self._locked() from None
        except DBAPIError as error:
            what, retry = sqlite_failure(error.orig) if self.is_sqlite else postgresql_failure(error.orig)
            raise StoreError(what, where=self.where, retry=retry) from error
        except SQLAlchemyError as error:  # an error that follows the loss of a connection
            raise StoreError(f"failed ({first_line(error)})", where=self.where, retry=True) from error

    def _locked(self) -> StoreError:
        what = f"has been locked by another writer for more than {self._wait_s:g} s"
        return StoreError(what, where=self.where, retry=True)


def _url(url: str) -> URL:
    fix = "write sqlite:///path or postgresql://user@host/name"
    if url.startswith("sqlite://"):
        path = url.removeprefix("sqlite:///")  # as it stands: a path may hold any character that a URL gives a meaning
        if path in (url, "", ":memory:") or "\0" in path:
            raise InputError("the store is not a file on disk", where=printable(url), fix=fix)
        return URL.create("sqlite", database=path)
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise InputError("is not the URL of a database", where="store", fix=fix) from None
    if parsed.drivername not in ("postgresql", "postgresql+psycopg"):
        raise InputError(f"PowerFlow cannot keep its state in {printable(parsed.drivername)}", where="store", fix=fix)
    return parsed


def _make_file(path: Path) -> None:
    """Create an empty database file that only its owner can read, unless the file exists. Job specs may hold secrets.

    The file is made under another name, closed, and then linked to its final name. Closing a file drops all locks that
    this process has on the file, and another connection of this process may have opened it in the meantime.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not path.exists():
        descriptor, made = tempfile.mkstemp(dir=path.parent)  # mode 0600
        os.close(descriptor)
        try:
            with suppress(FileExistsError):
                os.link(made, path)
        finally:
            os.unlink(made)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not os.access(path, os.R_OK | os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _new_upsert(
    is_sqlite: bool,
    into: Table,
    key: Sequence[str],
    columns: Sequence[str],
    add: bool,
    where: ColumnElement[bool] | None = None,
) -> Any:
    statement = sqlite.insert(into) if is_sqlite else postgresql.insert(into)
    new = {name: into.c[name] + statement.excluded[name] if add else statement.excluded[name] for name in columns}
    return statement.on_conflict_do_update(index_elements=list(key), set_=new, where=where)


#: Keeps each statement without a condition: to build it takes longer than to run it.
_upsert = cache(_new_upsert)


def _prepare_sqlite(connection: sqlite3.Connection, wait_s: float) -> None:
    connection.isolation_level = None  # transactions begin where `_begin_sqlite` says, not where the driver guesses
    until_s = time.monotonic() + wait_s
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError as error:  # another one makes the same change: SQLite does not wait for it
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until_s:
                raise
            time.sleep(_AGAIN_S)
    connection.execute("PRAGMA synchronous = FULL")  # NORMAL would lose acknowledged submissions with the power
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA cache_size = -1024")  # KiB


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("powerflow_writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
