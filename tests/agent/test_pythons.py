"""Which Python a job's search path means."""

import os
import sys
from pathlib import Path

from powerflow.agent.pythons import python_in


def made(folder: Path, name: str) -> str:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("#!/bin/sh\n")
    (folder / name).chmod(0o755)
    return str(folder / name)


def test_the_first_python_of_the_path_is_meant(tmp_path: Path) -> None:
    venv, other = made(tmp_path / "venv", "python"), made(tmp_path / "other", "python3")
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "python").mkdir()
    path = ":".join(str(tmp_path / name) for name in ("none", "missing", "other", "venv"))
    assert python_in(path) == other
    assert python_in(f"{tmp_path / 'venv'}:{path}") == venv


def test_without_one_it_is_our_own(tmp_path: Path) -> None:
    assert python_in("") == sys.executable
    assert python_in(str(tmp_path)) == sys.executable


def test_our_own_is_known_by_another_name_but_not_in_another_environment(tmp_path: Path) -> None:
    here = os.path.dirname(sys.executable)
    assert python_in(here) == sys.executable
    (tmp_path / "python").symlink_to(os.path.realpath(sys.executable))
    assert python_in(str(tmp_path)) == str(tmp_path / "python"), "another virtual environment of the same Python"
