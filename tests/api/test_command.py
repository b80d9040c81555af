"""Which command lines go to a shell, and which python is meant."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from powerflow.api.command import RunCommand, command

PYTHON = "/opt/python"


@pytest.mark.parametrize(
    ("run", "argv", "python"),
    [
        ("python train.py --lr 0.1", (PYTHON, "train.py", "--lr", "0.1"), True),
        ("python3 'my train.py'", (PYTHON, "my train.py"), True),
        ("/opt/python train.py", (PYTHON, "train.py"), True),
        ("python -m train", (PYTHON, "-m", "train"), False),
        ("python", (PYTHON,), False),
        ("/usr/bin/python3 train.py", ("/usr/bin/python3", "train.py"), False),
        ("./train", ("./train",), False),
    ],
)
def test_plain_lines_need_no_shell(run: str, argv: tuple[str, ...], python: bool) -> None:
    assert command(run, PYTHON) == RunCommand(argv, python)


@pytest.mark.parametrize(
    "run",
    ["cd x && python t.py", "A=1 python t.py", "python t.py > log", "echo $HOME", "exec ./x", "echo 'open", "# x"],
)
def test_shell_syntax_goes_to_the_owners_shell(run: str) -> None:
    assert command(run, PYTHON) == RunCommand(("/bin/sh", "-c", run), False)


@settings(max_examples=40, deadline=None)
@given(words=st.lists(st.text("ab'\" \\-x.", min_size=1, max_size=6), min_size=1, max_size=4))
def test_without_a_shell_words_are_what_a_shell_would_make_of_them(words: list[str]) -> None:
    run = "printf %s\\\\n " + " ".join(words)
    argv, _ = command(run, PYTHON)
    if argv[0] == "/bin/sh":
        return
    by_shell = subprocess.run(
        ["/bin/sh", "-c", "printf '%s\\0' " + run.split(" ", 1)[1]], capture_output=True, check=True, text=True
    ).stdout
    assert by_shell == "".join(word + "\0" for word in argv[1:])
