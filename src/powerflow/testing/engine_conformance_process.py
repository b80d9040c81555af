# ruff: noqa: D102 (a test's name says what it holds)
"""Test the behaviour of engines whose ranks are POSIX processes.

The test must see the same file system as the ranks.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
from pathlib import Path

import pytest

from powerflow.engine.protocol import Engine, EngineError, RankName, RankSpec, RankState
from powerflow.osutil.processes import born
from powerflow.testing.engine_conformance import EngineConformance, ended, status_of, until, whole_log


def alive(pid: int) -> bool:
    """Return True if a process runs. A zombie (an ended process that is not removed yet) does not run."""
    return born(pid) is not None


class ProcessConformance(EngineConformance):
    """Tests for engines whose ranks are processes, together with all tests of `EngineConformance`."""

    def script(self, engine: Engine, directory: Path, text: str, *, python: bool = True) -> RankSpec:
        """Return the spec of a rank that runs a Python script."""
        path = directory / "script.py"
        path.write_text(text)
        name, node, env = RankName("script", 0, 0), engine.nodes()[0].name, {"PATH": os.environ["PATH"]}
        return RankSpec(name, node, (sys.executable, str(path), "one", "two"), env, str(directory), python=python)

    def shell(self, engine: Engine, text: str) -> RankSpec:
        """Return the spec of a rank that runs a shell command."""
        return self.spec(engine, "sh", "-c", text)

    def test_environment_is_exactly_what_was_asked(self, engine: Engine) -> None:
        spec = self.spec(engine, "env")
        engine.launch(RankSpec(spec.name, spec.node, ("env",), {"PATH": "/usr/bin:/bin", "A": "b c\nd"}))
        ended(engine, spec.name)
        assert sorted(whole_log(engine, spec.name).splitlines()) == [b"A=b c", b"PATH=/usr/bin:/bin", b"d"]

    def test_words_are_not_read_by_a_shell(self, engine: Engine) -> None:
        spec = self.spec(engine, "echo", "$HOME; $(id) `id` *", "'", '"')
        engine.launch(spec)
        ended(engine, spec.name)
        assert whole_log(engine, spec.name) == b"$HOME; $(id) `id` * ' \"\n"

    def test_stdin_is_empty_and_both_outputs_are_kept(self, engine: Engine, tmp_path: Path) -> None:
        spec = self.shell(engine, "cat; pwd; echo out; echo err >&2; echo out; exit 3")
        engine.launch(RankSpec(spec.name, spec.node, spec.command, spec.env, str(tmp_path)))
        assert ended(engine, spec.name).code == 3
        assert whole_log(engine, spec.name).decode() == f"{tmp_path}\nout\nerr\nout\n"

    def test_no_such_directory(self, engine: Engine, tmp_path: Path) -> None:
        spec = self.spec(engine, "true")
        with pytest.raises(EngineError, match=f"there is no directory {tmp_path}/nowhere") as refused:
            engine.launch(RankSpec(spec.name, spec.node, spec.command, spec.env, str(tmp_path / "nowhere")))
        assert refused.value.final

    def test_what_can_never_be_executed_is_named(self, engine: Engine, tmp_path: Path) -> None:
        files = {
            "lost.py": ("#!/no/such/python3 -u\nprint()\n", 0o755),
            "windows": ("#!/bin/sh\r\ntrue\r\n", 0o755),
            "plain": ("#!/bin/sh\ntrue\n", 0o644),
            "forbidden": (f"#!{tmp_path}/plain\n", 0o755),
            "garbage": ("\x7fELF", 0o755),
        }
        for name, (text, mode) in files.items():
            (tmp_path / name).write_text(text)
            (tmp_path / name).chmod(mode)
        (tmp_path / "link").symlink_to("gone")
        spec = self.spec(engine, "true")
        for command, said in {
            ("./lost.py",): "there is no interpreter /no/such/python3, which the first line of ./lost.py names",
            ("./windows",): "the first line of ./windows ends with a Windows line break",
            ("./plain",): "may not execute ./plain; chmod",
            ("./forbidden",): f"may not execute {tmp_path}/plain, the interpreter",
            ("./garbage",): "./garbage is no program for this machine",
            ("./link",): "./link is a link to gone, which does not exist",
            ("./gone",): f"there is no program ./gone in {tmp_path}",
            ("no-such-command-7f3a",): "there is no program no-such-command-7f3a in the job's PATH",
            (str(tmp_path),): f"{tmp_path} is a directory, not a program",
            (sys.executable, "gone.py"): f"there is no script gone.py in {tmp_path}",
        }.items():
            python = len(command) > 1
            with pytest.raises(EngineError) as refused:
                engine.launch(RankSpec(spec.name, spec.node, command, spec.env, str(tmp_path), python=python))
            assert said in str(refused.value)
            assert refused.value.final, said
            assert not refused.value.retry

    def test_no_such_user(self, engine: Engine) -> None:
        spec = self.spec(engine, "true")
        with pytest.raises(EngineError):
            engine.launch(RankSpec(spec.name, spec.node, spec.command, spec.env, user="no-such-user-7f3a"))

    def test_words_that_no_process_can_have(self, engine: Engine) -> None:
        spec = self.spec(engine, "true")
        for command, env in ((("echo", "a\0b"), {}), (("true",), {"A": "\0"}), (("true",), {"A=": "b"})):
            with pytest.raises(EngineError):
                engine.launch(RankSpec(spec.name, spec.node, command, env))

    def test_a_rank_leads_its_own_group_and_holds_no_foreign_file(self, engine: Engine) -> None:
        spec = self.shell(engine, "ps -o pgid= -p $$; ls /proc/self/fd")
        status = engine.launch(spec)
        ended(engine, spec.name)
        group, *files = whole_log(engine, spec.name).split()
        assert int(group) == status.pid
        assert files == [b"0", b"1", b"2", b"3"]  # 3: the directory that ls reads

    def test_a_signal_reaches_what_a_rank_started(self, engine: Engine, tmp_path: Path) -> None:
        child = (
            f'trap "echo child; touch {tmp_path}/told; exit" TERM; touch {tmp_path}/up; while :; do sleep 0.05; done'
        )
        text = f"trap 'while [ ! -e {tmp_path}/told ]; do sleep 0.05; done; exit 7' TERM; setsid sh -c '{child}' & wait"
        spec = self.shell(engine, text)
        engine.launch(spec)
        until(engine, (tmp_path / "up").exists)
        assert engine.signal(spec.name, signal.SIGTERM)
        assert ended(engine, spec.name).code == 7
        assert b"child\n" in whole_log(engine, spec.name)  # beside what the shell says of its sleep

    def test_grandchildren_never_outlive_a_rank(self, engine: Engine, tmp_path: Path) -> None:
        daemon = f"setsid setsid sh -c 'trap \"\" TERM HUP INT; echo $$ > {tmp_path}/pid; exec sleep 600' &"
        spec = self.shell(engine, f"({daemon}) ; while [ ! -s {tmp_path}/pid ]; do sleep 0.02; done; exit 4")
        engine.launch(spec)
        assert ended(engine, spec.name).code == 4
        assert not alive(int((tmp_path / "pid").read_text()))

    def test_who_ignores_sigterm_is_ended_by_sigkill(self, engine: Engine, tmp_path: Path) -> None:
        text = f"trap '' TERM; touch {tmp_path}/up; while :; do sleep 0.05; done"
        spec = self.shell(engine, text)
        engine.launch(spec)
        until(engine, (tmp_path / "up").exists)
        assert engine.signal(spec.name, signal.SIGTERM)
        assert not engine.wait(0.2) or status_of(engine, spec.name).state is RankState.RUNNING  # type: ignore[union-attr]
        assert engine.signal(spec.name, signal.SIGKILL)
        assert ended(engine, spec.name).code == -signal.SIGKILL

    def test_a_long_log_is_bounded_and_its_offsets_count_on(self, engine: Engine, tmp_path: Path) -> None:
        lines = 500_000
        text = f"import sys\nfor i in range({lines}): sys.stdout.write(f'{{i:099d}}\\n')\n"  # 50 MB
        spec = self.script(engine, tmp_path, text)
        engine.launch(spec)
        assert ended(engine, spec.name).code == 0
        tail, end = engine.log(spec.name, -200, 1 << 20)
        assert end == 100 * lines
        assert [int(line) for line in tail.split()] == [lines - 2, lines - 1]
        kept, offset, first = 0, 0, -1
        while True:
            part, after = engine.log(spec.name, offset, 1 << 20)
            if not part:
                break
            if first < 0:
                first = after - len(part)
            kept += len(part)
            offset = after
        assert offset == end
        assert kept == end - first  # once it begins there is no gap
        assert 100_000 < kept <= 32 << 20

    def test_a_python_rank_ends_as_python_does(self, engine: Engine, tmp_path: Path) -> None:
        cases = [
            ("raise ValueError('broken')", 1, "ValueError: broken"),
            ("import sys\nsys.exit(3)", 3, ""),
            ("import sys\nsys.exit('a reason')", 1, "a reason"),
            ("import os\nprint('x', flush=True)\nos._exit(5)", 5, "x"),
            ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", -9, ""),
            ("import os, signal\nos.kill(os.getpid(), signal.SIGTERM)", -15, ""),
            ("import os\nos.abort()", -6, ""),
            ("x = = 1", 1, "SyntaxError"),
        ]
        specs = []
        for number, (text, _, _) in enumerate(cases):
            folder = tmp_path / str(number)
            folder.mkdir()
            spec = self.script(engine, folder, text)
            specs.append(dataclasses.replace(spec, name=RankName("script", 0, number)))
            engine.launch(specs[-1])
        for spec, (text, code, says) in zip(specs, cases, strict=True):
            assert ended(engine, spec.name).code == code, text
            log = whole_log(engine, spec.name).decode()
            assert says in log
            assert "powerflow" not in log.replace(str(tmp_path), "")  # the frames shown are the script's

    def test_a_python_rank_is_the_main_program(self, engine: Engine, tmp_path: Path) -> None:
        (tmp_path / "lib").mkdir()
        (tmp_path / "lib" / "far_7f3a.py").write_text("WHAT = 'far'\n")
        (tmp_path / "near_7f3a.py").write_text("WHAT = 'near'\n")
        text = """if True:
            import atexit, os, pickle, sys, threading, __main__
            import far_7f3a, near_7f3a
            class Thing: pass
            assert type(pickle.loads(pickle.dumps(Thing()))) is Thing
            assert __name__ == "__main__" and __main__.Thing is Thing and __file__ == sys.argv[0]
            assert sys.argv[1:] == ["one", "two"], sys.argv
            assert far_7f3a.WHAT == "far" and near_7f3a.WHAT == "near"
            assert sorted(os.environ) == ["A", "PATH", "PYTHONPATH"], os.environ
            assert os.getpid() == os.getpgid(0) == os.getsid(0)
            assert sys.stdin.read() == ""
            atexit.register(print, "last")
            threading.Timer(0.1, print, ["thread"]).start()
            print("main")
            """
        spec = self.script(engine, tmp_path, text)
        env = {"A": "b", "PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path / "lib")}
        engine.launch(RankSpec(spec.name, spec.node, spec.command, env, str(tmp_path), python=True))
        code = ended(engine, spec.name).code
        assert (code, whole_log(engine, spec.name)) == (0, b"main\nthread\nlast\n")

    def test_output_is_seen_while_a_rank_runs(self, engine: Engine, tmp_path: Path) -> None:
        spec = self.script(engine, tmp_path, "import time\nprint('begun')\ntime.sleep(600)\n")
        engine.launch(spec)
        until(engine, lambda: engine.log(spec.name)[0] == b"begun\n")
        assert engine.signal(spec.name, signal.SIGKILL)
        ended(engine, spec.name)
