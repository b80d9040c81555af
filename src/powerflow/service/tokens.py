"""Store the hashes of bearer tokens in a file that only its owner can read.

::

    {"tokens": [{"user": "ada", "role": "user", "sha256": "9f86d0…"}],
     "changes": [{"time_s": 1790000000.0, "by": "root", "what": "created", "id": "9f86d081884c"}]}

``changes`` lists who made and revoked the latest tokens, for the controller's audit (`powerflow.service.token_audit`).

A token has 256 random bits, so that nobody can find it from its SHA-256 hash. Whoever reads the file still has no valid
token.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import os
import pwd
import re
import secrets
import stat
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from powerflow.api.records import Caller, Role
from powerflow.errors import InputError
from powerflow.osutil.files import locked, replaced

#: Form of a user's name.
USER_PATTERN = r"^[A-Za-z_][A-Za-z0-9._@-]{0,63}$"
#: Every token begins with this text, so that leaked tokens are easy to find.
PREFIX = "pf_"
#: Number of changes that a token file keeps.
CHANGES_KEPT = 256
#: Seconds after which a file that cannot be used is read again, even if it has not changed.
_AGAIN_S = 1.0
_MOST_BYTES = 1 << 24


@dataclass(frozen=True, slots=True)
class TokenChange:
    """One change of a token: which token was made or revoked, by whom and when (Unix seconds)."""

    time_s: float
    by: str
    what: str
    id: str


@dataclass(frozen=True, slots=True)
class TokenEntry:
    """One token: its user, the role that it gives, and its hash."""

    user: str
    role: Role
    sha256: str

    @property
    def id(self) -> str:
        """Short name of the token: the first 12 digits of its hash. The name does not reveal the token."""
        return self.sha256[:12]


class Tokens:
    """All tokens of a controller. A change of the token file takes effect at once.

    While the file is missing or cannot be used, every request is refused.

    Attributes:
        trouble: Why every request is refused; "" while the file can be used.
    """

    def __init__(self, entries: Sequence[TokenEntry], path: Path | None = None) -> None:
        self._entries = tuple(entries)
        self._path = path
        self._stamp = _stamp(path)
        self._tried_s = -math.inf
        self.trouble = ""

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Tokens:
        """Read a token file.

        Raises:
            InputError: The token file does not exist, other users may read or write it, or its content is not valid.
        """
        return Tokens(_read(Path(path)), Path(path))

    def holders(self) -> Sequence[TokenEntry]:
        """Return all tokens: their users, roles and hashes."""
        return self._entries

    @property
    def path(self) -> Path | None:
        """Path of the token file; None if the tokens come from no file."""
        return self._path

    def caller(self, token: str, address: str = "") -> Caller | None:
        """Return the caller to whom a token belongs; None if the token is unknown.

        All hashes are compared in constant time, so that the duration tells an attacker nothing about valid tokens.
        """
        self.look()
        found = None
        digest = hash_of(token)
        for entry in self._entries:
            if hmac.compare_digest(entry.sha256, digest):
                found = entry
        return Caller(found.user, found.role, address) if found else None

    def look(self) -> None:
        """Read the token file again if it has changed. If the file cannot be used, no token is valid."""
        if self._path is None:
            return
        stamp, now_s = _stamp(self._path), time.monotonic()
        if stamp == self._stamp and (not self.trouble or now_s - self._tried_s < _AGAIN_S):
            return
        self._stamp, self._tried_s = stamp, now_s
        try:
            self._entries, self.trouble = tuple(_read(self._path)), ""
        except (InputError, OSError) as error:
            self._entries = ()
            self.trouble = f"every request is refused: {error}; powerflow token create makes a token"


def _stamp(path: Path | None) -> tuple[int, int, int] | None:
    """Return a value that differs whenever a file was changed; None if there is no file."""
    if path is None:
        return None
    with suppress(OSError):
        found = path.stat()
        return found.st_mtime_ns, found.st_ino, found.st_size
    return None


def create_token(path: str | os.PathLike[str], user: str, role: Role) -> str:
    """Make a token, add its hash to the token file, and return the token.

    A missing file is created with mode 0600. The token itself is stored nowhere: whoever loses it must make a new one.

    Raises:
        InputError: The user's name is not valid, or the file cannot be used.
    """
    if not re.fullmatch(USER_PATTERN, user):
        raise InputError(f"{user!r} is not the name of a user", fix="use letters, digits and ._@-; begin with a letter")
    token = PREFIX + secrets.token_urlsafe(32)
    target = Path(path)
    with locked(_lock(target)):
        known = _read(target) if target.exists() else []
        made = TokenEntry(user, role, hash_of(token))
        _write(target, [*known, made], [*changes_of(target), *_changed("created", [made])])
    return token


def revoke_tokens(path: str | os.PathLike[str], whose: str) -> Sequence[TokenEntry]:
    """Remove tokens from the token file: all tokens of a user, or the token with this id.

    A running controller refuses removed tokens at once.

    Returns:
        The removed tokens.

    Raises:
        InputError: No token has this user or id, or the file cannot be used.
    """
    target = Path(path)
    if not target.exists():
        _read(target)  # raises the error; a lock file cannot be made in a missing folder
    with locked(_lock(target)):
        known = _read(target)
        gone = [entry for entry in known if entry.user == whose] or [entry for entry in known if entry.id == whose]
        if not gone:
            what = f"there is no token of {whose}, and none with this id"
            raise InputError(what, fix="powerflow token list shows them", exit_code=3)
        left = [entry for entry in known if entry not in gone]
        _write(target, left, [*changes_of(target), *_changed("revoked", gone)])
    return gone


def hash_of(token: str) -> str:
    """Return the SHA-256 hash of a token, in hexadecimal digits."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def _lock(path: Path) -> Path:
    """Return the path of the lock file that a command holds while it changes a token file."""
    return path.with_name(f".{path.name}.lock")


def _read(path: Path) -> list[TokenEntry]:
    where = os.fspath(path)
    try:
        with path.open("rb") as file:
            facts = os.fstat(file.fileno())
            if facts.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                mode = stat.S_IMODE(facts.st_mode)
                raise InputError(f"other users may read it (mode {mode:04o})", where=where, fix=f"chmod 600 {where}")
            if facts.st_uid not in (os.geteuid(), 0):
                raise InputError("belongs to another user", where=where, exit_code=1)
            content = json.loads(file.read(_MOST_BYTES))
    except FileNotFoundError:
        raise InputError("there is no such token file", where=where, exit_code=3) from None
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"cannot be read as a token file ({error})", where=where, exit_code=1) from error
    return [_entry(item, f"{where}: token {n}") for n, item in enumerate(_items(content, where), 1)]


def _content(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_MOST_BYTES)


def _items(content: object, where: str) -> list[object]:
    items = content.get("tokens") if isinstance(content, dict) else None
    if not isinstance(items, list):
        raise InputError("has no list of tokens", where=where, fix='{"tokens": [{"user": …, "role": …, "sha256": …}]}')
    return items


def _entry(item: object, where: str) -> TokenEntry:
    if not isinstance(item, dict) or set(item) != {"user", "role", "sha256"}:
        raise InputError("is not user, role and sha256", where=where)
    user, role, digest = item["user"], item["role"], item["sha256"]
    if not isinstance(user, str) or not re.fullmatch(USER_PATTERN, user):
        raise InputError(f"{user!r} is not the name of a user", where=where)
    if role not in tuple(Role):
        raise InputError(f"{role!r} is not a role", where=where, fix=f"give one of {', '.join(Role)}")
    if not isinstance(digest, str) or not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise InputError("sha256 is not 64 hexadecimal digits", where=where)
    return TokenEntry(user, Role(role), digest)


def changes_of(path: Path) -> list[TokenChange]:
    """Return the latest changes of tokens from a token file; an empty list if the file cannot be read."""
    try:
        content = json.loads(_content(path))
        return [
            TokenChange(float(at["time_s"]), str(at["by"])[:128], str(at["what"])[:16], str(at["id"])[:64])
            for at in content["changes"][-CHANGES_KEPT:]
        ]
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return []


def _changed(what: str, entries: Sequence[TokenEntry]) -> list[TokenChange]:
    now_s, by = time.time(), _who()
    return [TokenChange(now_s, by, what, entry.id) for entry in entries]


def _who() -> str:
    """Return the login name that this process runs as, with the user who called sudo, if any."""
    try:
        login = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        login = str(os.getuid())
    before = os.environ.get("SUDO_USER", "")
    return f"{before} as {login}" if re.fullmatch(USER_PATTERN, before) and before != login else login


def _write(path: Path, entries: Sequence[TokenEntry], changes: Sequence[TokenChange]) -> None:
    """Replace the whole token file. At no moment can a user other than its owner read it."""
    content = {
        "tokens": [{"user": e.user, "role": str(e.role), "sha256": e.sha256} for e in entries],
        "changes": [asdict(change) for change in changes[-CHANGES_KEPT:]],
    }
    with replaced(path, durable=True, mode=0o600) as file:
        file.write(f"{json.dumps(content, indent=2)}\n".encode())
