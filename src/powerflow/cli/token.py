"""``powerflow token``: make, list and revoke tokens for the controller of this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from powerflow.cli.options import Json
from powerflow.cli.output import print_json
from powerflow.errors import InputError

if TYPE_CHECKING:
    from powerflow.api.records import Role
    from powerflow.service.tokens import TokenEntry

StateDir = Annotated[Path | None, typer.Option("--state-dir", help="State directory of the controller.")]

app = typer.Typer(no_args_is_help=True)


@app.command("create")
def create(
    user: Annotated[str, typer.Argument(help="Login name: jobs submitted with the token run as this user.")],
    role: Annotated[
        str, typer.Option(help="Role: viewer (reads), user (changes own jobs) or operator (changes everything).")
    ] = "user",
    state_dir: StateDir = None,
    json: Json = False,
) -> None:
    """Make a token and print it. It cannot be printed again. A running controller accepts the token at once."""
    from powerflow.service.tokens import create_token

    token = create_token(_file(state_dir), user, _role(role))
    if json:
        print_json("token", {"user": user, "role": role, "token": token})
    else:
        print(token)


@app.command("list")
def listed(state_dir: StateDir = None, json: Json = False) -> None:
    """List tokens: their ids, users and roles."""
    from powerflow.service.tokens import Tokens

    _print(Tokens.load(_file(state_dir)).holders(), json)


@app.command("revoke")
def revoke(
    whose: Annotated[str, typer.Argument(metavar="USER|ID", help="User (all tokens of the user), or id of a token.")],
    state_dir: StateDir = None,
    json: Json = False,
) -> None:
    """Revoke tokens, and print which. A running controller refuses them at once. Running jobs continue."""
    from powerflow.service.tokens import revoke_tokens

    _print(revoke_tokens(_file(state_dir), whose), json)


def _print(tokens: Sequence[TokenEntry], json: bool) -> None:
    if json:
        print_json("tokens", {"tokens": [{"id": at.id, "user": at.user, "role": at.role.value} for at in tokens]})
        return
    for at in tokens:
        print(f"{at.id}  {at.user:<24} {at.role.value}")


def _file(state_dir: Path | None) -> Path:
    from powerflow.cli.settings import load

    return (state_dir or load().state_dir) / "tokens.json"


def _role(text: str) -> Role:
    from powerflow.api.records import Role

    try:
        return Role(text)
    except ValueError:
        raise InputError(f"role {text!r} is unknown", where="--role", fix="give viewer, user or operator") from None
