"""``powerflow token``: who may ask the controller of this machine, and for what."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from powerflow.cli.options import Json

if TYPE_CHECKING:
    from powerflow.live.records import Role

StateDir = Annotated[Path | None, typer.Option("--state-dir", help="Folder of the controller on this machine.")]

app = typer.Typer(no_args_is_help=True)


@app.command("create")
def create(
    user: Annotated[str, typer.Argument(help="Login name: jobs submitted with the token run as this user.")],
    role: Annotated[str, typer.Option(help="viewer, user or operator.")] = "user",
    state_dir: StateDir = None,
    json: Json = False,
) -> None:
    """Make a token and print it, once: only its hash is kept. A running controller knows it at once."""
    from powerflow.cli.output import print_json
    from powerflow.service.tokens import create_token

    token = create_token(_file(state_dir), user, _role(role))
    if json:
        print_json("token", {"user": user, "role": role, "token": token})
    else:
        print(token)


@app.command("list")
def listed(state_dir: StateDir = None, json: Json = False) -> None:
    """List whose tokens there are, and what each may do."""
    from powerflow.cli.output import print_json
    from powerflow.service.tokens import Tokens

    holders = Tokens.load(_file(state_dir)).holders()
    if json:
        print_json("tokens", {"tokens": [{"user": user, "role": role.value} for user, role in holders]})
        return
    for user, role in holders:
        print(f"{user:<24} {role.value}")


def _file(state_dir: Path | None) -> Path:
    from powerflow.cli.settings import load

    return (state_dir or load().state_dir) / "tokens.json"


def _role(text: str) -> Role:
    from powerflow.errors import InputError
    from powerflow.live.records import Role

    try:
        return Role(text)
    except ValueError:
        raise InputError(f"role {text!r} is unknown", where="--role", fix="viewer, user or operator") from None
