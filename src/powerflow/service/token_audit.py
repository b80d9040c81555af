"""Record in the audit which tokens were made and revoked, and which requests had no valid token.

``powerflow token`` and editors change the token file without asking the controller. So the controller compares the file
with the audit, and adds the differences to the audit, even those from a time when the controller did not run.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from powerflow.api.governance import AuditRecord
from powerflow.errors import InputError
from powerflow.osutil.files import read_json, replace_json
from powerflow.service.refused import RefusedTokens
from powerflow.service.tokens import Tokens, changes_of

#: Seconds between two checks of the token file.
LOOK_S = 1.0
#: Address in the audit for a change that was not made by a request.
HERE = "this machine"
#: Name of the notice that is shown while every request is refused.
NOTICE = "tokens"


class TokenAudit:
    """Writes changes of tokens and failed authentications to the audit.

    `step` must be called by one thread at a time; `start` starts such a thread.

    Args:
        tokens: The controller's tokens.
        refused: Failed authentications, as the API has counted them.
        note: Function that adds entries to the audit, or raises `InputError`.
        clock: Function that returns the present time in Unix seconds.
        show: Function that shows operators a line under a name, or removes that line if it is "". It returns True if
            the line has changed. A line is shown while the token file cannot be used.
        log: A structlog logger.
    """

    def __init__(
        self,
        tokens: Tokens,
        refused: RefusedTokens,
        note: Callable[[Sequence[AuditRecord]], None],
        clock: Callable[[], float],
        show: Callable[[str, str], bool],
        log: Any,
    ) -> None:
        self._tokens, self._refused, self._note = tokens, refused, note
        self._clock, self._show, self._log = clock, show, log
        self._path = tokens.path
        self._known = _noted(self._path)
        self._unwritten: list[AuditRecord] = []
        self._stop = threading.Event()

    def start(self) -> None:
        """Start a thread that calls `step` every second."""
        threading.Thread(target=self._run, name="powerflow-token_audit", daemon=True).start()

    def stop(self) -> None:
        """Make the thread end soon; this method does not wait for the end."""
        self._stop.set()

    def step(self) -> None:
        """Add new changes of the token file, and new failed authentications, to the audit."""
        now_s = self._clock()
        self._tokens.look()
        self._tell(self._tokens.trouble)
        self._unwritten += [
            AuditRecord(0, now_s, "", address, "authentication failed", "", {"times": times})
            for address, times in self._refused.take(now_s)
        ]
        found = {entry.id: {"user": entry.user, "role": str(entry.role)} for entry in self._tokens.holders()}
        changed = self._changes(found, now_s) if found != self._known else []
        try:
            if self._unwritten or changed:
                self._note([*self._unwritten, *changed])
        except InputError:  # the store cannot be used; the controller's loop reports this
            return
        self._unwritten.clear()
        if changed:
            self._known = found
            _write_noted(self._path, found)

    def _changes(self, found: Mapping[str, Mapping[str, str]], now_s: float) -> list[AuditRecord]:
        """Return audit entries for tokens that were made or revoked, with the user who did it if the file says so."""
        said = {(change.what, change.id): change for change in changes_of(self._path)} if self._path else {}
        how = "tokens.json was edited" if not self._tokens.trouble else self._tokens.trouble
        entries = []
        for what, ids in (("revoked", self._known.keys() - found), ("created", found.keys() - self._known.keys())):
            for one in sorted(ids):
                token = (self._known if what == "revoked" else found)[one]
                change = said.get((what, one))
                fields = {"role": token["role"], "id": one} | ({} if change else {"how": how})
                when_s, by = (change.time_s, change.by) if change else (now_s, "")
                entries.append(AuditRecord(0, when_s, by, HERE, f"token {what}", token["user"], fields))
        return entries

    def _tell(self, trouble: str) -> None:
        if not self._show(NOTICE, trouble):
            return
        if trouble:
            self._log.warning("no token is valid", why=trouble)
        else:
            self._log.info("tokens are valid again")

    def _run(self) -> None:
        while not self._stop.wait(LOOK_S):
            try:
                self.step()
            except Exception:
                self._log.exception("the audit of tokens failed")


def _file(path: Path) -> Path:
    return path.with_name(f".{path.name}.audited")


def _noted(path: Path | None) -> dict[str, dict[str, str]]:
    """Read which tokens the audit knows, by token id.

    If this list cannot be read, the result is empty, so that all tokens count as new.
    """
    if path is None:
        return {}
    with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        content = read_json(_file(path)) or {}
        return {str(at): {"user": str(one["user"]), "role": str(one["role"])} for at, one in content.items()}
    return {}


def _write_noted(path: Path | None, known: Mapping[str, Mapping[str, str]]) -> None:
    if path is not None:
        with suppress(OSError):  # then the next controller adds the same entries again
            replace_json(_file(path), known, mode=0o600)
