"""What a job may be or leave behind, and what it finds of whoever started it."""

from __future__ import annotations

import inspect
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import powerflow
from powerflow.engine.local import process
from powerflow.engine.local.environment import PASSED, server_environment
from powerflow.engine.protocol import RankName, RankSpec
from powerflow.testing.engine_conformance import ended, status_of, whole_log
from powerflow.testing.engine_conformance_process import alive
from tests.engine.conftest import LocalPlace
from tests.engine.test_local_confinement import python_for
from tests.engine.test_local_faults import kill_server, shell, wait_for

SECRET = "hunter2-of-the-controller"


def _chain(depth: int, ready: int) -> None:
    """Be the first of a chain of processes, each the child of the one before."""
    for _ in range(depth):
        if os.fork():
            signal.pause()
    os.write(ready, b"x")
    signal.pause()


def test_a_chain_deeper_than_the_stack_is_found_and_ended() -> None:
    depth = 90
    read, write = os.pipe()
    first = os.fork()
    if first == 0:
        process.adopt_orphans()
        _chain(depth, write)
    try:
        os.read(read, 1)
        frames = len(inspect.stack())
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(frames + depth // 2)
        try:
            found = [*process.descendants(first)]
        finally:
            sys.setrecursionlimit(limit)
        assert len(found) == depth
    finally:
        for pid in [*process.descendants(first), first]:
            os.kill(pid, signal.SIGKILL)
        os.waitpid(first, 0)
        os.close(read)
        os.close(write)


def test_descendants_are_found_in_order_and_once() -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        grandchild = os.fork()
        if grandchild == 0:
            os.write(write, b"x")
        signal.pause()
    try:
        os.read(read, 1)
        found = [*process.descendants(os.getpid())]
        assert found.count(child) == 1
        below = process.children(child)
        assert len(below) == 1
        assert found.index(child) < found.index(below[0])
    finally:
        for pid in [*process.descendants(child), child]:
            os.kill(pid, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(read)
        os.close(write)


def test_the_fork_servers_environment_is_built_not_inherited() -> None:
    ours = {
        "PGPASSWORD": SECRET,
        "POWERFLOW_TOKEN": SECRET,
        "https_proxy": SECRET,
        "PATH": "/odd",
        "CUDA_HOME": "/cuda",
    }
    built = server_environment(ours)
    assert built["CUDA_HOME"] == "/cuda"
    assert SECRET not in built.values()
    assert "/odd" not in built["PATH"]
    assert set(built) <= {"PATH", "LANG", "HOME", *PASSED}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_process_can_hide_its_memory_from_its_own_user() -> None:
    code = """if True:
        import os, subprocess, sys
        from powerflow.engine.local import process
        process.hide_memory()
        look = "import sys; open(f'/proc/{sys.argv[1]}/environ').read()"
        print(subprocess.run([sys.executable, "-c", look, str(os.getpid())], capture_output=True).returncode)
        print(len(os.listdir("/proc/self/fd")) > 2, bool(process.descriptors()))
        """
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(powerflow.__file__).parents[1])}
    command = [python_for("nobody"), "-B", "-c", code]
    done = subprocess.run(command, user="nobody", extra_groups=[], env=env, cwd="/", capture_output=True, check=False)
    assert done.stdout.decode() == "1\nTrue True\n", done.stderr.decode()


@pytest.mark.parametrize("python", [True, False], ids=["preloaded", "its own process"])
def test_nothing_of_the_callers_environment_is_in_a_rank(
    place: LocalPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, python: bool
) -> None:
    """Not in its own environment, its parent's, its grandparent's, nor in its memory."""
    for name in ("PGPASSWORD", "AWS_SECRET_ACCESS_KEY", "POWERFLOW_STORE_URL"):
        monkeypatch.setenv(name, SECRET)
    (tmp_path / "look.py").write_text(
        f"""if True:
            import os
            word = {SECRET[::-1]!r}[::-1].encode()
            def parent(pid):
                return int(open(f"/proc/{{pid}}/stat").read().rsplit(")", 1)[1].split()[1])
            shim = os.getppid()
            server = parent(shim)
            for pid in (os.getpid(), shim, server):
                try:
                    print(open(f"/proc/{{pid}}/environ", "rb").read().count(word))
                except PermissionError:
                    print("not ours to read")
            found = 0
            with open("/proc/self/mem", "rb", buffering=0) as memory:
                for line in open("/proc/self/maps"):
                    if " rw" in line:
                        start, end = (int(word, 16) for word in line.split()[0].split("-"))
                        memory.seek(start)
                        found += memory.read(end - start)[::-1].count({SECRET[::-1].encode()!r}) > 1
            print(found, open("/proc/self/comm").read().strip())
            """
    )
    engine = place()
    command = ("/usr/bin/env", "python3", "look.py") if not python else ("python", "look.py")
    spec = RankSpec(RankName("g", 0, 0), "n1", command, {"PATH": os.environ["PATH"]}, str(tmp_path), python=python)
    engine.launch(spec)
    assert ended(engine, spec.name).code == 0, whole_log(engine, spec.name)
    *counts, memory = whole_log(engine, spec.name).decode().splitlines()
    assert counts == ["0", "0", "0"]
    assert memory == f"0 {'powerflow-rank' if python else 'python3'}"


@pytest.mark.parametrize(
    ("command", "told", "code", "rebooted"),
    [
        ("exec sleep 600", False, None, True),  # the power went
        ("exec sleep 600", True, -15, True),  # the system ended all
        ("trap 'exit 0' TERM; echo set; while :; do sleep 0.05; done", True, 0, True),  # it saved and left
        ("exit 0", False, 0, False),  # it had come to its end before
        ("exit 3", False, 3, False),  # so had this one
    ],
)
def test_who_was_ended_by_its_machine_is_told_apart(
    place: LocalPlace, command: str, told: bool, code: int | None, rebooted: bool
) -> None:
    engine = place()
    spec = shell(0, command)
    status = engine.launch(spec)
    record = place.home / "ranks" / str(spec.name) / "process.json"
    who = json.loads(record.read_text())
    if told:
        wait_for(lambda: "trap" not in command or whole_log(engine, spec.name))
        for pid in (who["shim"][0], status.pid):
            os.kill(pid, signal.SIGTERM)
        ended(engine, spec.name)
    elif code is not None:
        ended(engine, spec.name)
    kill_server(place)
    if code is None:
        os.kill(who["shim"][0], signal.SIGKILL)
        wait_for(lambda: not alive(status.pid))
    record.write_text(json.dumps(who | {"boot": "an earlier one"}))
    end = ended(engine, spec.name)
    assert (end.code, end.rebooted) == (code, rebooted)


def test_records_that_a_power_cut_left_do_not_stop_the_fork_server(place: LocalPlace) -> None:
    engine = place()
    healthy = engine.launch(shell(1, "exec sleep 600"))
    done = shell(0, "exit 3")
    engine.launch(done)
    ended(engine, done.name)
    kill_server(place)
    ranks = place.home / "ranks"
    (ranks / "lost+found").mkdir()
    for name, content in (("g.0.7", b"\0" * 64), ("g.0.8", b'{"rank": 1}'), ("g.0.9", b"\xff")):
        (ranks / name).mkdir()
        for file in ("spec.json", "process.json", "status.json"):
            (ranks / name / file).write_bytes(content)
    (place.home / "fences" / "g").write_bytes(b"\0\0")
    assert status_of(engine, healthy.name) == healthy
    assert ended(engine, done.name).code == 3
    engine.launch(shell(7, "true"))
