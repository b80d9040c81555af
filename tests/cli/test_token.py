"""``powerflow token``: made once, shown once, listed by whose it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from powerflow.cli.main import main


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(words)
    out, err = capsys.readouterr()
    return code, out, err


def test_a_token_is_made_and_listed_without_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = ("--state-dir", str(tmp_path))
    code, token, err = run(capsys, "token", "create", "ada", "--role", "operator", *state)
    assert (code, err) == (0, "")
    assert token.startswith("pf_")
    name, *rest = run(capsys, "token", "list", *state)[1].split()
    assert rest == ["ada", "operator"]
    document = json.loads(run(capsys, "token", "list", "--json", *state)[1])
    assert document["tokens"] == [{"id": name, "user": "ada", "role": "operator"}]
    assert token.strip() not in (tmp_path / "tokens.json").read_text("utf-8")


def test_tokens_of_a_user_or_one_of_them_are_revoked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = ("--state-dir", str(tmp_path))
    for user in ("ada", "ada", "bob"):
        run(capsys, "token", "create", user, *state)

    def left() -> list[list[str]]:
        return [line.split()[:2] for line in run(capsys, "token", "list", *state)[1].splitlines()]

    first, second, bobs = left()
    assert run(capsys, "token", "revoke", first[0], *state)[1].split()[:2] == first
    assert left() == [second, bobs]
    assert run(capsys, "token", "revoke", "ada", *state)[0] == 0
    assert left() == [bobs]
    code, _, err = run(capsys, "token", "revoke", "ada", *state)
    assert (code, left()) == (3, [bobs])
    assert "there is no token of ada" in err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("create", "ada", "--role", "god"), 2, "role 'god' is unknown; give viewer, user or operator"),
        (("create", "a b"), 2, "not the name of a user"),
        (("list",), 3, "tokens.json"),
        (("revoke", "ada"), 3, "tokens.json"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    words: tuple[str, ...], code: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ended, out, err = run(capsys, "token", *words, "--state-dir", str(tmp_path))
    assert (ended, out) == (code, "")
    assert said in err
    assert err.count("\n") == 1
