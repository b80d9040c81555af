"""Databases for the tests: fresh SQLite files, and those of a private PostgreSQL that lives as long as the tests."""

from __future__ import annotations

import itertools
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from powerflow.store import schema
from powerflow.store.store import Store
from tests.live.controller_bench import made_database

_numbers = itertools.count(1)


@dataclass
class Postgres:
    """A PostgreSQL server of our own on a free loopback port, run by an unprivileged user as it wants to be."""

    binaries: Path
    folder: Path
    user: str | None  # whom to run it as; None: whoever we are
    port: int
    password: str = field(default_factory=lambda: secrets.token_urlsafe(12))

    def run(self, program: str, *arguments: str) -> None:
        group = pwd.getpwnam(self.user).pw_gid if self.user else None
        with (self.folder / "out").open("wb") as out:  # a file: the server keeps what pg_ctl was given
            done = subprocess.run(
                [self.binaries / program, *arguments],
                user=self.user,
                group=group,
                extra_groups=[] if self.user else None,
                cwd="/",
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        assert done.returncode == 0, (self.folder / "out").read_text() + self.log()

    def log(self) -> str:
        log = self.folder / "log"
        return log.read_text() if log.exists() else ""

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
        self.run("pg_ctl", "start", "-w", "-D", f"{self.folder}/data", "-l", f"{self.folder}/log", "-o", options)

    def stop(self, mode: str = "fast") -> None:
        self.run("pg_ctl", "stop", "-w", "-m", mode, "-D", f"{self.folder}/data")

    def url(self, database: str, password: str | None = None) -> str:
        return f"postgresql://powerflow:{password or self.password}@127.0.0.1:{self.port}/{database}"

    def execute(self, *statements: str, database: str = "postgres") -> None:
        import psycopg

        with psycopg.connect(self.url(database), autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def bare(self) -> str:
        """URL of a new database without tables."""
        name = f"test_{next(_numbers)}"
        self.execute(f"CREATE DATABASE {name}")
        return self.url(name)


def _binaries() -> Path | None:
    folders = [Path(found).resolve().parent for name in ("initdb", "pg_ctl") if (found := shutil.which(name))]
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in folders if (folder / "initdb").exists() and (folder / "postgres").exists()), None)


def _unprivileged() -> str | None:
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next((name for name in ("postgres", "nobody") if name in known), None)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    binaries = _binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL server is installed")
    user = _unprivileged() if os.geteuid() == 0 else None
    if user is None and os.geteuid() == 0:
        pytest.skip("PostgreSQL refuses to run as root, and there is no other user")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="powerflow-postgres-"))
    try:
        if user is not None:
            shutil.chown(folder, user)
        server = Postgres(binaries, folder, user, port)
        secret = folder / "password"
        secret.write_text(server.password)
        secret.chmod(0o644 if user else 0o600)
        identity = ("-U", "powerflow", "-A", "scram-sha-256", "--pwfile", str(secret))
        server.run("initdb", "-D", f"{folder}/data", "-N", "-E", "UTF8", "--locale=C", *identity)
        server.start()
        try:
            yield server
        finally:
            server.stop("immediate")  # nobody needs what it holds
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def postgres_made(postgres: Postgres) -> str:
    """Name of a database whose tables are made."""
    postgres.execute("CREATE DATABASE made")
    Store(postgres.url("made")).close()
    return "made"


@pytest.fixture
def postgres_url(postgres: Postgres, postgres_made: str) -> str:
    """A PostgreSQL database whose tables are made and empty; emptying them is faster than making them each time."""
    tables = ", ".join(schema.metadata.tables)
    postgres.execute(
        "SET lock_timeout = '60s'",
        "SET session_replication_role = replica",  # the audit's own trigger refuses, as it should
        f"TRUNCATE {tables} RESTART IDENTITY",
        f"UPDATE {schema.VERSION_TABLE} SET version_num = '{schema.VERSION}'",
        database=postgres_made,
    )
    return postgres.url(postgres_made)


@pytest.fixture(scope="session")
def sqlite_template() -> Path:
    return made_database()


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """A SQLite database whose tables are made."""
    path = tmp_path / "state.db"
    shutil.copyfile(sqlite_template, path)
    return f"sqlite:///{path}"


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest) -> str:
    """A database whose tables are made, of either kind."""
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    """An empty store of either kind."""
    opened = Store(url)
    yield opened
    opened.close()
