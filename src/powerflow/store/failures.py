"""Describe database errors in plain words, and tell whether the same operation may succeed later."""

from __future__ import annotations

from collections.abc import Mapping

#: What happened, and whether the same operation may succeed later, by the begin of the name of SQLite's error.
_SQLITE = {
    "SQLITE_BUSY": ("is locked by another process", True),
    "SQLITE_LOCKED": ("is locked by another process", True),
    "SQLITE_FULL": ("disk is full", True),
    "SQLITE_IOERR": ("cannot be read or written (disk full or failing)", True),
    "SQLITE_NOMEM": ("not enough memory", True),
    "SQLITE_CORRUPT": ("is damaged", False),
    "SQLITE_NOTADB": ("is not a database", False),
    "SQLITE_CANTOPEN": ("cannot be opened", False),
    "SQLITE_READONLY": ("may not be written", False),
    "SQLITE_PERM": ("may not be used", False),
    "SQLITE_AUTH": ("may not be used", False),
}
#: The same by the begin of PostgreSQL's SQLSTATE code.
_POSTGRESQL = {
    "08": ("cannot be reached", True),
    "57": ("server went away", True),
    "53": ("server is short of disk, memory or connections", True),
    "55P03": ("is locked by another writer", True),
    "40": ("was busy with another writer", True),
    "25": ("does not accept writes now", True),
    "58": ("server cannot read or write its files", True),
    "28": ("refuses the login", False),
    "3D": ("does not exist", False),
    "42501": ("does not let us", False),
    "XX": ("is damaged", False),
}


def sqlite_failure(error: BaseException | None) -> tuple[str, bool]:
    """Return what happened in SQLite, in plain words, and whether the same operation may succeed later."""
    return _in_words(getattr(error, "sqlite_errorname", "") or "", _SQLITE, error)


def postgresql_failure(error: BaseException | None) -> tuple[str, bool]:
    """Return what happened in PostgreSQL, in plain words, and whether the same operation may succeed later.

    The result follows from the error's SQLSTATE code; without a connection there is no code, and it follows from the
    message.
    """
    return _in_words(getattr(error, "sqlstate", None) or _refusal(str(error)), _POSTGRESQL, error)


def first_line(error: BaseException | None) -> str:
    """Return the first line of an error's message; the name of the error's type if the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _in_words(code: str, known: Mapping[str, tuple[str, bool]], error: BaseException | None) -> tuple[str, bool]:
    what, retry = next((words for begin, words in known.items() if code.startswith(begin)), ("failed", False))
    return f"{what} ({first_line(error)})", retry


def _refusal(message: str) -> str:
    """Return the SQLSTATE code of a failed attempt to connect, which PostgreSQL reports only by a message."""
    if "authentication failed" in message or "pg_hba.conf" in message or "no password" in message:
        return "28000"
    return "3D000" if 'database "' in message and "does not exist" in message else "08001"
