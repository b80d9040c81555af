"""Bring the tables of a database up to date: ``python -m powerflow.store.migrate``, with its URL on standard input.

A process of its own, since a controller that idles for months need not keep alembic in memory; and standard input,
since other users can read arguments, and a URL may hold a password.
"""

from __future__ import annotations

import sys
from pathlib import Path

from alembic import command
from alembic.config import Config

from powerflow.errors import InputError
from powerflow.store import schema
from powerflow.store.database import TRY_AGAIN, Database


def upgrade(url: str, revision: str = "head") -> None:
    """Bring a database to a revision, in one transaction: either all of it or nothing.

    Raises:
        StoreError: It cannot be used, or is newer than this PowerFlow.
    """
    database = Database(url, migrate=False)
    try:
        if database.version() == schema.VERSION:
            return
        with database.write() as connection:
            config = Config()
            scripts = Path(__file__).parent / "migrations"
            config.set_main_option("script_location", str(scripts).replace("%", "%%"))
            config.set_main_option("path_separator", "os")
            config.attributes["connection"] = connection
            command.upgrade(config, revision)
    finally:
        database.close()


def _main() -> int:
    try:
        upgrade(sys.stdin.read().strip())
    except InputError as error:
        print(error, file=sys.stderr)
        return TRY_AGAIN if getattr(error, "retry", False) else 1
    return 0


if __name__ == "__main__":
    sys.exit(_main())
