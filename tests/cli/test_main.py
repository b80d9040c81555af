"""The command line: every ending has its exit code and one line, and nothing heavy is imported to say hello."""

from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
import pytest
import typer

from powerflow import __version__
from powerflow.cli import main as front
from powerflow.cli.output import atomic_write, console, progress, to_json
from powerflow.errors import InputError

Install = Callable[[object], None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts one command, ``powerflow act``, behind the command line, in a module of its own."""

    def put(attribute: object) -> None:
        module = types.ModuleType("powerflow.cli.act")
        module.act = attribute  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "powerflow.cli.act", module)
        monkeypatch.setattr(front, "COMMANDS", (*front.COMMANDS, front.Command("act", "act", "Act as told.")))

    return put


def raising(error: BaseException) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


# --- every ending -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("duration is negative (-3)", where="a.csv:7"), 2, "powerflow: a.csv:7: duration is negative (-3)"),
        (InputError("no such job", exit_code=3), 3, "powerflow: no such job"),
        (InputError("two\nlines"), 2, "powerflow: two lines"),
        (KeyboardInterrupt(), 130, "powerflow: interrupted"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "x.csv"), 3, "x.csv: no such file or directory"),
        (PermissionError(errno.EACCES, "Permission denied", "x.csv"), 1, "powerflow: x.csv: permission denied"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "powerflow: no space left on device"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), 5, "powerflow: connection refused"),
        (MemoryError(), 1, "powerflow: ran out of memory"),
        (KeyError("cost"), 1, "powerflow: this is a bug in PowerFlow (KeyError: 'cost'); POWERFLOW_DEBUG=1 shows"),
    ],
)
def test_an_error_is_one_line_and_a_code(
    error: BaseException, code: int, line: str, install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install(raising(error))
    assert front.main(["act"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert line in err
    assert err.count("\n") == 1


def test_debug_shows_the_traceback_of_a_bug(
    install: Install, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(raising(ZeroDivisionError("division by zero")))
    monkeypatch.setenv("POWERFLOW_DEBUG", "1")
    assert front.main(["act"]) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "raise error" in err


def test_a_command_gets_its_options_and_returns_0(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    def act(name: str, loud: bool = False) -> None:
        """Act at length."""
        print(name.upper() if loud else name)

    install(act)
    assert front.main(["act", "hello", "--loud"]) == 0
    assert capsys.readouterr().out == "HELLO\n"
    assert front.main(["act", "--help"]) == 0
    assert "Act at length." in capsys.readouterr().out


def test_a_command_may_set_its_own_code(install: Install) -> None:
    install(raising(typer.Exit(4)))
    assert front.main(["act"]) == 4


def test_a_group_of_commands_hangs_on_the_door(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    group = typer.Typer()

    @group.command()
    def left(times: int) -> None:
        print("left" * times)

    @group.command()
    def right() -> None:
        """Turn right."""

    install(group)
    assert front.main(["act", "left", "2"]) == 0
    assert capsys.readouterr().out == "leftleft\n"
    assert front.main(["act"]) == 2
    assert "Turn right." in capsys.readouterr().err
    assert front.main(["act", "left", "twice"]) == 2
    assert "see powerflow act left --help" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["nonsense"], ["--nonsense"], ["act", "--nonsense"], ["act", "surplus"]])
def test_wrong_usage_is_one_line_and_2(argv: list[str], install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install(raising(AssertionError("must not run")))
    assert front.main(argv) == 2
    err = capsys.readouterr().err
    assert err.startswith("powerflow: ")
    assert err.count("\n") == 1
    assert "--help" in err


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert front.main(["--help"]) == 0
    out = capsys.readouterr().out
    for command in front.COMMANDS:
        assert f"  {command.name} " in out
        assert command.summary in out


def test_without_a_command_the_help_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert front.main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "\nJobs:" in err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert front.main(["--version"]) == 0
    assert capsys.readouterr().out == f"powerflow {__version__}\n"


# --- as a process -----------------------------------------------------------------------------------------------


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["nonsense"]])
def test_saying_hello_imports_nothing_heavy(argv: list[str]) -> None:
    heavy = ("numba", "numpy", "scipy", "plotly", "rich", "jinja2", "yaml")
    done = python(
        "import sys; from powerflow.cli.main import main\n"
        f"main({argv!r})\n"
        f"print([m for m in {heavy!r} if m in sys.modules], file=sys.stderr)"
    )
    assert done.stderr.splitlines()[-1] == "[]"


def test_import_powerflow_imports_nothing_heavy() -> None:
    done = python("import sys, powerflow; print([m for m in ('numba', 'numpy', 'typer') if m in sys.modules])")
    assert done.stdout == "[]\n"


def test_a_reader_that_stops_reading_is_no_error() -> None:
    code = """
import sys, types
from powerflow.cli import main as front
from powerflow.cli.output import console
module = types.ModuleType("powerflow.cli.act")
def act():
    if %r:
        for _ in range(100_000): console().print("line")
    else:
        for _ in range(100_000): print("line")
module.act = act
sys.modules["powerflow.cli.act"] = module
front.COMMANDS += (front.Command("act", "act", ""),)
sys.argv = ["powerflow", "act"]
front.run()
"""
    for through_rich in (False, True):
        writer = subprocess.Popen(
            [sys.executable, "-c", code % through_rich], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        assert writer.stderr is not None
        assert writer.stdout.readline() == "line\n"
        writer.stdout.close()
        said = writer.stderr.read()
        writer.stderr.close()
        assert writer.wait(timeout=60) == 0
        assert said == ""


# --- JSON -------------------------------------------------------------------------------------------------------


class Colour(StrEnum):
    RED = "red"


@dataclass
class Point:
    x: float
    tags: tuple[str, ...]


def test_json_is_versioned_and_has_null_for_what_is_missing() -> None:
    payload = {
        "mean": math.nan,
        "high": math.inf,
        "array": np.array([1.5, np.nan]),
        "count": np.int64(3),
        "yes": np.bool_(True),
        "single": np.float32("nan"),
        "colour": Colour.RED,
        "points": [Point(-math.inf, ("a", "b"))],
        "path": Path("a/b"),
        "names": {"b", "a"},
        Colour.RED: 7,
        80: "number keys become text",
    }
    assert json.loads(to_json("thing", payload)) == {
        "version": 1,
        "kind": "thing",
        "mean": None,
        "high": None,
        "array": [1.5, None],
        "count": 3,
        "yes": True,
        "single": None,
        "colour": "red",
        "points": [{"x": None, "tags": ["a", "b"]}],
        "path": "a/b",
        "names": ["a", "b"],
        "red": 7,
        "80": "number keys become text",
    }


def test_json_takes_a_dataclass_and_refuses_what_is_no_mapping() -> None:
    assert json.loads(to_json("point", Point(1.0, ())))["tags"] == []
    with pytest.raises(TypeError, match="mapping"):
        to_json("list", [1, 2])
    with pytest.raises(TypeError, match="no JSON form"):
        to_json("thing", {"x": object()})


# --- files ------------------------------------------------------------------------------------------------------


def test_atomic_write_replaces_the_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "out.json"
    target.write_text("old")
    target.chmod(0o640)
    with atomic_write(target) as file:
        assert file.suffix == ".json"
        file.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert target.stat().st_mode & 0o777 == 0o640
    assert os.listdir(tmp_path) == ["out.json"]


@pytest.mark.parametrize("error", [ValueError("broke off"), KeyboardInterrupt()])
def test_atomic_write_keeps_the_old_file_on_failure(error: BaseException, tmp_path: Path) -> None:
    target = tmp_path / "out.html"
    target.write_text("old")

    def write_half() -> None:
        with atomic_write(target) as file:
            file.write_text("half")
            raise error

    with pytest.raises(type(error)):
        write_half()
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["out.html"]


def test_atomic_write_says_when_the_disk_is_full(tmp_path: Path) -> None:
    target = tmp_path / "out.html"
    why = r"out\.html: cannot be written \(no space left"
    with pytest.raises(InputError, match=why) as caught, atomic_write(target):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.exit_code == 1
    assert os.listdir(tmp_path) == []


def test_atomic_write_lets_errors_about_other_files_through(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "out.html"):
        (tmp_path / "input.csv").read_text()


def test_atomic_write_refuses_folders_and_missing_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder"), atomic_write(tmp_path):
        pass
    with pytest.raises(InputError, match="folder does not exist") as caught, atomic_write(tmp_path / "no" / "x"):
        pass
    assert caught.value.exit_code == 3


def test_atomic_write_follows_links_and_writes_straight_into_devices(tmp_path: Path) -> None:
    real, link = tmp_path / "real.txt", tmp_path / "link.txt"
    real.write_text("old")
    link.symlink_to(real)
    with atomic_write(link) as file:
        file.write_text("new")
    assert link.is_symlink()
    assert real.read_text() == "new"
    with atomic_write(os.devnull) as file:
        file.write_text("gone")
    assert not os.path.isfile(os.devnull)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_atomic_write_says_when_it_may_not_write(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="permission denied"), atomic_write(tmp_path / "x.txt"):
        pass
    tmp_path.chmod(0o700)


# --- the terminal -----------------------------------------------------------------------------------------------


def test_console_without_a_terminal_is_plain_wide_and_literal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    console().print("[bold]" + "x" * 120, style="red")
    assert capsys.readouterr().out == "[bold]" + "x" * 120 + "\n"


def test_progress_is_silent_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("counting", total=3) as step:
        step()
        step(2, "almost there")
    assert capsys.readouterr() == ("", "")


def test_progress_draws_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with progress("counting [jobs]", total=4) as step:
        step(3, "[third]")
    out, err = capsys.readouterr()
    assert out == ""
    assert "counting [jobs]" in err
    assert "[third]" in err


def test_commands_that_ask_a_controller_load_no_numpy() -> None:
    """It is half of what such a command would take to start."""
    homes: tuple[str, ...] = ("acct", "audit", "budget", "cap", "describe", "events", "explain", "jobs")
    homes += ("logs", "mode", "node", "queue", "share", "signal", "submit", "top")
    load = f"for home in {homes}: __import__(f'powerflow.cli.cluster.{{home}}')"
    program = f"import sys\n{load}\nprint('numpy' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "False\n"


def test_help_has_a_short_name_and_groups_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert front.main(["-h"]) == 0
    out = capsys.readouterr().out
    jobs = out[out.index("\nJobs:") : out.index("\nWhat the cluster does:")]
    assert "  submit " in jobs
    assert "  top " not in jobs
    assert front.main(["cap", "set", "-h"]) == 0
    assert "Set a power cap." in capsys.readouterr().out


def test_a_terminal_that_lacks_a_character_or_is_closed_is_no_error() -> None:
    program = [sys.executable, "-m", "powerflow"]
    poor = os.environ | {"PYTHONIOENCODING": "latin-1"}
    done = subprocess.run([*program, "--help"], env=poor, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert b"(observe ? enforce)" in done.stdout
    c_locale = os.environ | {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "POSIX"}
    done = subprocess.run([*program, "--help"], env=c_locale, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    for words, code in (("--help >&-", 0), ("nonsense 2>&-", 2), ("nonsense >&- 2>&-", 2)):
        closed = subprocess.run(["sh", "-c", f'"$0" -m powerflow {words}', sys.executable], timeout=60, check=False)
        assert closed.returncode == code, words
