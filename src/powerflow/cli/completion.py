"""``powerflow completion``: make the shell complete commands, options and job numbers."""

from __future__ import annotations

import os
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: Environment variable by which a shell's script asks for completions and names the shell.
VARIABLE = "_POWERFLOW_COMPLETE"


class Shell(StrEnum):
    """Shells for which a completion script can be printed."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(shell: Annotated[Shell, typer.Argument(help="Shell that will use the script.")]) -> None:
    """Print a script that makes a shell complete commands, options and job numbers.

    bash: powerflow completion bash >> ~/.bash_completion ·
    zsh: powerflow completion zsh > ~/.zfunc/_powerflow ·
    fish: powerflow completion fish > ~/.config/fish/completions/powerflow.fish
    """
    from typer.completion import get_completion_script  # type: ignore[attr-defined]

    print(get_completion_script(prog_name="powerflow", complete_var=VARIABLE, shell=shell))


def complete(build_app: Callable[[Sequence[str]], typer.Typer]) -> int:
    """Answer a shell that asks for completions. Environment variables contain the unfinished command line."""
    from typer.completion import completion_init, shell_complete  # type: ignore[attr-defined]

    completion_init()
    words = (os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS") or "").split()
    command = typer.main.get_command(build_app(words[1:]))
    return shell_complete(command, {}, "powerflow", VARIABLE, os.environ[VARIABLE])
