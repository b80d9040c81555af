"""Say in plain words what went wrong in a database, and whether the same operation may succeed later."""

from __future__ import annotations


def sqlite_failure(error: BaseException | None) -> tuple[str, bool]:
    """Return what happened in SQLite, in plain words, and whether the same operation may succeed later."""
    name = getattr(error, "sqlite_errorname", "") or ""
    known = {
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
    for code, (what, retry) in known.items():
        if name.startswith(code):
            return f"{what} ({error})", retry
    return f"failed ({first_line(error)})", False


def postgresql_failure(error: BaseException | None) -> tuple[str, bool]:
    """Return what happened in PostgreSQL, in plain words, and whether the same operation may succeed later.

    The answer depends on the error's SQLSTATE code. If no connection was made, there is no code, and the message
    decides.
    """
    state = getattr(error, "sqlstate", None) or _refusal(str(error))
    known = {
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
    for code, (what, retry) in known.items():
        if state.startswith(code):
            return f"{what} ({first_line(error)})", retry
    return f"failed ({first_line(error)})", False


def _refusal(message: str) -> str:
    """Return the SQLSTATE code of a failed attempt to connect, which PostgreSQL reports only by a message."""
    if "authentication failed" in message or "pg_hba.conf" in message or "no password" in message:
        return "28000"
    return "3D000" if 'database "' in message and "does not exist" in message else "08001"


def first_line(error: BaseException | None) -> str:
    """Return the first line of an error's message; the name of the error's type if the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
