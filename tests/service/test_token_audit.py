"""The audit tells of tokens that came and went, whoever changed their file, and of failed authentications."""

from __future__ import annotations

import io
import os
import pwd
from collections.abc import Sequence
from pathlib import Path

from powerflow.api.governance import AuditRecord
from powerflow.api.records import Role, Unavailable
from powerflow.live.notices import Notices
from powerflow.service.logs import json_lines
from powerflow.service.refused import RefusedTokens
from powerflow.service.token_audit import HERE, TokenAudit
from powerflow.service.tokens import Tokens, create_token, revoke_tokens

ME = pwd.getpwuid(os.getuid()).pw_name


class Audited:
    """A token_audit, and what it wrote into the audit."""

    def __init__(self, path: Path) -> None:
        self.audit: list[AuditRecord] = []
        self.notices = Notices()
        self.away = False
        self.refused = RefusedTokens()
        self.tokens = Tokens.load(path)
        log = json_lines(io.StringIO())
        self.keeper = TokenAudit(self.tokens, self.refused, self.note, lambda: 1e9, self.notices.show, log)

    def note(self, rows: Sequence[AuditRecord]) -> None:
        if self.away:
            raise Unavailable("the disk is full")
        self.audit += rows

    def step(self) -> list[tuple[str, str, str]]:
        """Who did what to whom, as written down by this step."""
        before = len(self.audit)
        self.keeper.step()
        return [(row.user, row.action, row.target) for row in self.audit[before:]]


def test_tokens_that_come_and_go_are_written_down_once_with_who_and_from_where(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    create_token(path, "root", Role.OPERATOR)
    audited = Audited(path)
    assert audited.step() == [(ME, "token created", "root")]
    assert audited.step() == []
    create_token(path, "ada", Role.USER)
    revoke_tokens(path, "root")
    assert audited.step() == [(ME, "token revoked", "root"), (ME, "token created", "ada")]
    entry = audited.audit[-1]
    assert (entry.address, entry.fields["role"]) == (HERE, "user")
    assert entry.fields["id"] == audited.tokens.holders()[0].id
    assert Audited(path).step() == [], "the next controller knows"
    revoke_tokens(path, "ada")
    assert Audited(path).step() == [(ME, "token revoked", "ada")], "also what happened while none ran"


def test_a_file_that_was_edited_or_deleted_is_told_of_without_a_guess_who_it_was(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    create_token(path, "ada", Role.USER)
    audited = Audited(path)
    audited.step()
    path.unlink()
    assert audited.step() == [("", "token revoked", "ada")]
    assert "no such token file" in audited.audit[-1].fields["how"]
    assert "every request is refused" in audited.notices.shown()["tokens"]
    create_token(path, "bob", Role.USER)
    assert audited.step() == [(ME, "token created", "bob")]
    assert audited.notices.shown() == {}


def test_failed_authentications_are_written_down_with_how_many(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    create_token(path, "ada", Role.USER)
    audited = Audited(path)
    audited.step()
    for _ in range(3):
        audited.refused.add("192.0.2.1")
    assert audited.step() == [("", "authentication failed", "")]
    assert (audited.audit[-1].address, audited.audit[-1].fields) == ("192.0.2.1", {"times": 3})


def test_nothing_is_lost_while_the_store_is_away(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    create_token(path, "ada", Role.USER)
    audited = Audited(path)
    audited.away = True
    audited.refused.add("192.0.2.1")
    assert audited.step() == audited.step() == []
    audited.away = False
    assert {action for _, action, _ in audited.step()} == {"authentication failed", "token created"}
    assert audited.step() == []
