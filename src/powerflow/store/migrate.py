"""Bring the tables of a database up to date: ``python -m powerflow.store.migrate``, with the URL on standard input.

It is a separate program, so that the controller does not keep alembic in memory. The URL may contain a password, and
other users can see a program's arguments; so it is read from standard input.
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
    """Bring the tables of a database to a revision, in one transaction: all changes are made, or none.

    Raises:
        StoreError: The database cannot be used, or its tables are newer than this PowerFlow.
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
