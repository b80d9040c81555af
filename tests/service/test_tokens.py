"""Tokens are kept as hashes, in a file of their owner only, and every one has its user and role."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from powerflow.api.records import Caller, Role
from powerflow.errors import InputError
from powerflow.service.tokens import TokenEntry, Tokens, create_token, hash_of, revoke_tokens


def test_a_token_is_its_user_and_role(tmp_path: Path) -> None:
    file = tmp_path / "tokens.json"
    made = {role: create_token(file, f"u-{role}", role) for role in Role}
    tokens = Tokens.load(file)
    for role, token in made.items():
        assert tokens.caller(token, "127.0.0.1") == Caller(f"u-{role}", role, "127.0.0.1")
        assert tokens.caller(token[:-1]) is None
    assert len(set(made.values())) == 3


def test_a_revoked_token_is_nobody_s_at_once(tmp_path: Path) -> None:
    file = tmp_path / "tokens.json"
    ada, bob = create_token(file, "ada", Role.USER), create_token(file, "bob", Role.USER)
    tokens = Tokens.load(file)
    assert [entry.user for entry in revoke_tokens(file, "ada")] == ["ada"]
    assert tokens.caller(ada) is None
    assert tokens.caller(bob) == Caller("bob", Role.USER, "")
    assert file.stat().st_mode & 0o777 == 0o600


def test_the_file_is_its_owner_s_and_holds_no_token(tmp_path: Path) -> None:
    file = tmp_path / "tokens.json"
    before = os.umask(0)
    try:
        token = create_token(file, "ada", Role.USER)
    finally:
        os.umask(before)
    assert file.stat().st_mode & 0o777 == 0o600
    assert token not in file.read_text()
    assert token.removeprefix("pf_") not in file.read_text()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_file_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "tokens.json"
    create_token(file, "ada", Role.USER)
    file.chmod(mode)
    with pytest.raises(InputError, match=r"other users may read it .*chmod 600"):
        Tokens.load(file)
    with pytest.raises(InputError, match="other users may read it"):
        create_token(file, "bob", Role.USER)


@pytest.mark.parametrize("user", ["", "a b", "-x", "../x", "a/b", "é", "a\n", "x" * 65, "1a"])
def test_a_user_has_a_plain_name(tmp_path: Path, user: str) -> None:
    with pytest.raises(InputError, match="not the name of a user"):
        create_token(tmp_path / "tokens.json", user, Role.USER)
    assert not (tmp_path / "tokens.json").exists()


ENTRY = {"user": "ada", "role": "user", "sha256": "0" * 64}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "cannot be read as a token file"),
        ("[]", "no list of tokens"),
        ('{"tokens": 3}', "no list of tokens"),
        (json.dumps({"tokens": [{**ENTRY, "more": 1}]}), "token 1: is not user, role and sha256"),
        (json.dumps({"tokens": [ENTRY, {**ENTRY, "role": "root"}]}), "token 2: 'root' is not a role"),
        (json.dumps({"tokens": [{**ENTRY, "role": []}]}), "is not a role"),
        (json.dumps({"tokens": [{**ENTRY, "user": 3}]}), "is not the name"),
        (json.dumps({"tokens": [{**ENTRY, "sha256": "x"}]}), "64 hexadecimal"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path, content: str, why: str) -> None:
    file = tmp_path / "tokens.json"
    file.write_text(content)
    file.chmod(0o600)
    with pytest.raises(InputError, match=why) as caught:
        Tokens.load(file)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such token file") as caught:
        Tokens.load(tmp_path / "none")
    assert caught.value.exit_code == 3


def test_tokens_made_at_the_same_time_are_all_kept(tmp_path: Path) -> None:
    file = tmp_path / "tokens.json"
    made: list[str] = []
    threads = [
        threading.Thread(target=lambda i=i: made.append(create_token(file, f"u{i}", Role.USER))) for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tokens = Tokens.load(file)
    assert sorted(caller.user for token in made if (caller := tokens.caller(token))) == [f"u{i}" for i in range(8)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".tokens.json.lock", "tokens.json"]


@given(st.text())
def test_no_text_is_a_token_by_chance(text: str) -> None:
    assert Tokens([TokenEntry("ada", Role.USER, hash_of("pf_x"))]).caller(text) is None


def test_a_running_service_knows_a_new_token_and_forgets_one_that_was_taken_out(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    first = create_token(path, "ada", Role.USER)
    tokens = Tokens.load(path)
    second = create_token(path, "bob", Role.VIEWER)
    found = tokens.caller(second)
    assert found is not None
    assert (found.user, found.role) == ("bob", Role.VIEWER)
    content = json.loads(path.read_text("utf-8"))
    content["tokens"] = content["tokens"][1:]
    path.write_text(json.dumps(content), "utf-8")
    assert tokens.caller(first) is None
    assert [(entry.user, entry.role) for entry in tokens.holders()] == [("bob", Role.VIEWER)]


@pytest.mark.parametrize("content", [None, "half edit", "", '{"tokens": [{"user"', "[" * 100_000])
def test_a_file_that_is_gone_or_broken_lets_nobody_in_until_it_can_be_used(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "tokens.json"
    token = create_token(path, "ada", Role.OPERATOR)
    tokens, whole = Tokens.load(path), path.read_text("utf-8")
    assert (tokens.caller(token) is not None, tokens.trouble) == (True, "")
    if content is None:
        path.unlink()
    else:
        path.write_text(content, "utf-8")
    assert tokens.caller(token) is None
    assert "every request is refused" in tokens.trouble
    assert "\n" not in tokens.trouble
    if content is None:
        new = create_token(path, "ada", Role.OPERATOR)
        assert tokens.caller(new) is not None
        assert tokens.caller(token) is None, "all that were made before are revoked"
    else:
        path.write_text(whole, "utf-8")
        assert tokens.caller(token) is not None
    assert tokens.trouble == ""


def test_others_may_not_read_the_file_also_while_the_service_runs(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    token = create_token(path, "ada", Role.OPERATOR)
    tokens = Tokens.load(path)
    path.write_text(path.read_text() + "\n")
    path.chmod(0o644)
    assert tokens.caller(token) is None
    assert "other users may read it" in tokens.trouble
