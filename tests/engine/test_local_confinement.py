"""Users, limits, and what a rank finds in a preloaded interpreter."""

import contextlib
import importlib.util
import json
import os
import pwd
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

import powerflow
from powerflow.engine.local.cgroups import killed_for_memory, open_cgroups
from powerflow.engine.local.records import status_from_row, status_row
from powerflow.engine.protocol import EngineError, RankName, RankSpec, RankState, RankStatus
from powerflow.testing.engine_conformance import ended, whole_log
from tests.engine.conftest import LocalPlace

ROOT = os.geteuid() == 0
NOBODY = "nobody"
PATH = {"PATH": "/usr/bin:/bin"}


def rank(*command: str, user: str = "", memory_bytes: int = 0, cpus: float = 0.0, directory: str = "/") -> RankSpec:
    return RankSpec(RankName("g", 0, 0), "n1", command, PATH, directory, user, memory_bytes, cpus)


def log_of(place: LocalPlace, spec: RankSpec) -> str:
    engine = place()
    engine.launch(spec)
    assert ended(engine, spec.name).code == 0
    return whole_log(engine, spec.name).decode()


def open_to_all(directory: Path) -> None:
    """Let other users through to a directory of this test's own."""
    for above in [directory, *directory.parents]:
        if above.name.startswith(("pytest-", "popen-", "test_")):
            above.chmod(0o755)


def python_for(user: str) -> str:
    """A Python that this user may run."""
    for python in (sys.executable, "/usr/bin/python3"):
        check = [python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
        try:
            if subprocess.run(check, user=user, extra_groups=[], env=PATH, cwd="/", check=False).returncode == 0:
                return python
        except OSError:
            continue
    pytest.skip(f"there is no Python that {user} may run")


@pytest.mark.skipif(not ROOT, reason="only root can become somebody else")
class TestAsRoot:
    def test_a_user_is_switched_to_completely(self, place: LocalPlace) -> None:
        entry = pwd.getpwnam(NOBODY)
        text = "id -ru; id -u; id -rg; id -g; id -G; umask; grep -E 'NoNewPrivs|CapEff' /proc/self/status"
        log = log_of(place, rank("sh", "-c", text, user=NOBODY)).split()
        groups = [str(group) for group in os.getgrouplist(NOBODY, entry.pw_gid)]
        uid, gid = str(entry.pw_uid), str(entry.pw_gid)
        assert log == [uid, uid, gid, gid, *groups, "0022", "CapEff:", "0" * 16, "NoNewPrivs:", "1"]

    def test_a_user_cannot_reach_the_engine(self, place: LocalPlace) -> None:
        engine = place()
        engine.launch(rank("ls", str(place.home), user=NOBODY))
        assert ended(engine, RankName("g", 0, 0)).code != 0
        assert b"denied" in whole_log(engine, RankName("g", 0, 0))

    def test_a_directory_must_be_open_to_the_user(self, place: LocalPlace) -> None:
        place()
        with pytest.raises(EngineError, match="may not enter the directory"):
            place().launch(rank("true", user=NOBODY, directory=str(place.home)))

    def test_no_rank_of_a_user_outlives_its_shim(self, place: LocalPlace) -> None:
        """Changing the user undoes the tie to the parent; it must have been made after."""
        engine = place()
        spec = rank("sleep", "600", user=NOBODY)
        engine.launch(spec)
        who = json.loads((place.home / "ranks" / str(spec.name) / "process.json").read_text())
        os.kill(who["shim"][0], signal.SIGKILL)
        assert ended(engine, spec.name).state == "lost"

    def test_a_python_rank_of_a_user_has_its_rights_only_and_no_foreign_secret(
        self, place: LocalPlace, tmp_path: Path
    ) -> None:
        """It is a fork of the fork server, so it must not find in its memory what the fork server was once told."""
        engine = place()
        foreign, own = "vq7-secret-of-another", "zk3-secret-of-its-own"
        engine.launch(RankSpec(RankName("other", 0, 0), "n1", ("sleep", "600"), PATH | {"TOKEN": foreign}, "/"))
        text = f"""if True:
            import os, re
            status = open("/proc/self/status").read()
            capabilities, privileges = (re.search(f"{{key}}:.(.*)", status)[1] for key in ("CapPrm", "NoNewPrivs"))
            print(os.getuid(), os.geteuid(), capabilities, privileges)
            wanted, found = (b"{foreign[::-1]}", b"{own[::-1]}"), [False, False]
            with open("/proc/self/mem", "rb", buffering=0) as memory:
                for line in open("/proc/self/maps"):
                    if " rw" in line:
                        start, end = (int(word, 16) for word in line.split()[0].split("-"))
                        memory.seek(start)
                        backwards = memory.read(end - start)[::-1]
                        found = [word in backwards or before for word, before in zip(wanted, found)]
            print(*found)
            """
        open_to_all(tmp_path)
        (tmp_path / "script.py").write_text(text)
        env = PATH | {"TOKEN": own}
        spec = RankSpec(RankName("g", 0, 0), "n1", ("python", "script.py"), env, str(tmp_path), NOBODY, python=True)
        log = log_of(place, spec)
        uid = pwd.getpwnam(NOBODY).pw_uid
        assert log == f"{uid} {uid} {'0' * 16} 1\nFalse True\n"

    def test_an_ordinary_user_can_have_an_engine(self, tmp_path: Path) -> None:
        """All of it, but for becoming somebody else."""
        code = """if True:
            import os, sys
            from powerflow.engine.local import LocalEngine
            from powerflow.engine.protocol import EngineError, RankName, RankSpec
            with LocalEngine(sys.argv[1], {"n": 1}) as engine:
                try:
                    assert "user" not in engine.limits()
                    spec = RankSpec(RankName("g", 0, 0), "n", ("id", "-u"), dict(os.environ), "/")
                    engine.launch(spec)
                    while [rank.code for rank in engine.ranks()] != [0]:
                        engine.wait(60.0)
                    print(engine.log(spec.name)[0].decode().strip())
                    engine.launch(RankSpec(RankName("g", 0, 1), "n", ("true",), dict(os.environ), "/", "nobody"))
                    try:
                        engine.launch(RankSpec(RankName("g", 0, 2), "n", ("true",), dict(os.environ), "/", "root"))
                    except EngineError as error:
                        print(error)
                finally:
                    engine.shutdown(kill=True)
            """
        entry = pwd.getpwnam(NOBODY)
        home = tmp_path / "home"
        home.mkdir()
        os.chown(home, entry.pw_uid, entry.pw_gid)
        open_to_all(tmp_path)
        source = Path(powerflow.__file__).parents[1]
        done = subprocess.run(
            [python_for(NOBODY), "-c", code, str(home / "engine")],
            user=NOBODY,
            group=entry.pw_gid,
            extra_groups=[],
            env=PATH | {"PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"},
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stderr == ""
        assert done.returncode == 0
        uid, refused = done.stdout.splitlines()
        assert int(uid) == entry.pw_uid
        assert "only root can run ranks as another user" in refused


def test_memory_is_limited_where_it_can_be(place: LocalPlace) -> None:
    engine = place()
    if "memory" not in engine.limits():
        pytest.skip("no control group for memory can be made here")
    spec = rank(sys.executable, "-c", "x = bytearray(300 << 20); print('got it')", memory_bytes=64 << 20)
    other = replace(rank("sh", "-c", "kill -9 $$"), name=RankName("g", 0, 1))  # it has no limit of its own
    for each in (spec, other):
        engine.launch(each)
    found = [ended(engine, each.name) for each in (spec, other)]
    assert whole_log(engine, spec.name) == b""
    assert [(status.code, status.out_of_memory) for status in found] == [(-9, True), (-9, False)]


@pytest.mark.parametrize("file", ["memory.events", "memory.oom_control"])
def test_the_kernel_says_whether_it_killed_for_memory(tmp_path: Path, file: str) -> None:
    """Lines of both versions of control groups; an old kernel does not count."""
    groups = [str(tmp_path / name) for name in ("none", "old", "zero", "two")]
    for name, text in {"old": "under_oom 0\n", "zero": "oom 3\noom_kill 0\n", "two": "oom_kill 2\n"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text(text)
    assert killed_for_memory(groups[:2]) is None
    assert killed_for_memory(groups[:3]) is False
    assert killed_for_memory(groups) is True
    assert killed_for_memory(groups[::-1]) is True


@pytest.mark.parametrize("rebooted", [False, True])
@pytest.mark.parametrize("out_of_memory", [None, False, True])
def test_how_a_rank_ended_is_read_as_it_was_written(rebooted: bool, out_of_memory: bool | None) -> None:
    status = RankStatus(RankName("g", 0, 0), "n1", RankState.EXITED, 7, -9, 1.0, 2.0, rebooted)
    status = replace(status, out_of_memory=out_of_memory)
    assert status_from_row(json.loads(json.dumps(status_row(status)))) == status


def test_cpus_are_limited_where_they_can_be(place: LocalPlace) -> None:
    if "cpus" not in place().limits():
        pytest.skip("no control group for CPUs can be made here")
    text = "d=$(sed -n 's/^[0-9]*:\\([a-z,]*,\\)*cpu\\(,[a-z,]*\\)*://p' /proc/self/cgroup); echo $d"
    text += "; cat /sys/fs/cgroup/cpu*/$d/cpu.cfs_quota_us /sys/fs/cgroup$d/cpu.max 2>/dev/null | head -1"
    group, quota = log_of(place, rank("sh", "-c", text, cpus=0.5)).split()
    assert group.endswith("/g.0.0")
    assert quota == "50000"


def test_cgroups_of_version_2_are_used_where_they_are_delegated(tmp_path: Path) -> None:
    """A system as systemd makes it, laid out in files."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/user.slice/app\n")
    (tmp_path / "proc/self/mountinfo").write_text("25 1 0:2 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n")
    own = tmp_path / "sys/fs/cgroup/user.slice/app"
    below = own / "powerflow-x"
    below.mkdir(parents=True)
    (own / "cgroup.subtree_control").write_text("memory pids")
    (below / "cgroup.subtree_control").write_text("")
    groups = open_cgroups("x", tmp_path)
    assert groups.all_ranks == below
    assert groups.limits() == {"memory", "cpus"}
    groups.enter("g.0.0", 42, memory_bytes=1 << 30, cpus=1.5)
    found = {path.name: path.read_text() for path in (below / "g.0.0").iterdir()}
    assert found == {"cgroup.procs": "42", "memory.max": str(1 << 30), "cpu.max": "150000 100000"}


def test_cgroups_that_cannot_be_made_limit_nothing(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("4:memory:/a\n3:cpu,cpuacct:/b\n1:name=systemd:/\n0::/\n")
    (tmp_path / "proc/self/mountinfo").write_text(
        "25 1 0:2 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
        "26 1 0:3 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"
        "27 1 0:4 /else /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
    )
    assert open_cgroups("x", tmp_path).limits() == frozenset()
    (tmp_path / "sys/fs/cgroup/cpu/b").mkdir(parents=True)
    groups = open_cgroups("x", tmp_path)
    assert groups.limits() == {"cpus"}
    groups.enter("g.0.0", 42, memory_bytes=1 << 30, cpus=0.25)
    home = tmp_path / "sys/fs/cgroup/cpu/b/powerflow-x/g.0.0"
    assert {path.name: path.read_text() for path in home.iterdir()} == {
        "cgroup.procs": "42",
        "cpu.cfs_period_us": "100000",
        "cpu.cfs_quota_us": "25000",
    }


def scripts(place: LocalPlace, tmp_path: Path, text: str, env: dict[str, str], count: int, *preload: str) -> list[str]:
    """Output of some ranks of one script."""
    engine = place(*preload)
    assert engine.notices() == []
    (tmp_path / "script.py").write_text(text)
    names = [RankName("g", 0, number) for number in range(count)]
    for name in names:
        engine.launch(RankSpec(name, "n1", ("python", "script.py"), env, str(tmp_path), python=True))
    logs = []
    for name in names:
        code = ended(engine, name).code
        logs.append(whole_log(engine, name).decode())
        assert code == 0, logs[-1]
    return logs


def test_preloaded_modules_are_there(place: LocalPlace, tmp_path: Path) -> None:
    text = "import sys\nprint('colorsys' in sys.modules, 'wave' in sys.modules)\n"
    assert scripts(place, tmp_path, text, PATH, 1, "colorsys") == ["True False\n"]


def test_variables_that_only_a_new_process_heeds_get_one(place: LocalPlace, tmp_path: Path) -> None:
    text = "import sys\nprint('colorsys' in sys.modules, sys.flags.optimize, sys.dont_write_bytecode)\n"
    env = {"PATH": os.path.dirname(sys.executable)}
    assert scripts(place, tmp_path, text, env | {"PYTHONDONTWRITEBYTECODE": "1"}, 1, "colorsys") == ["True 0 True\n"]
    place().forget(RankName("g", 0, 0))
    assert scripts(place, tmp_path, text, env | {"PYTHONOPTIMIZE": "1"}, 1, "colorsys") == ["False 1 False\n"]


def test_files_of_a_rank_are_its_own(place: LocalPlace, tmp_path: Path) -> None:
    """What the fork server held when it forked is closed at once, not when it is collected: numbers are used again."""
    engine = place()
    engine.ranks()
    waiters = [threading.Thread(target=engine.wait, args=(60.0,)) for _ in range(8)]
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(engine._connection()) for _ in range(8)]
        assert len(held) == 8
        for waiter in waiters:
            waiter.start()
        text = """if True:
            import gc, os
            files = [os.open("/dev/null", os.O_WRONLY) for _ in range(64)]
            gc.collect()
            print(min(files), sum(os.write(file, b"x") for file in files))
            """
        log = scripts(place, tmp_path, text, PATH, 1)
    for waiter in waiters:
        waiter.join()
    assert log == ["3 64\n"]


def test_ranks_do_not_share_random_numbers(place: LocalPlace, tmp_path: Path) -> None:
    text = "import random, numpy\nprint(random.random(), numpy.random.rand())\n"
    found = [log.split() for log in scripts(place, tmp_path, text, PATH, 3, "random", "numpy.random")]
    assert len({word for log in found for word in log}) == 6


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
def test_preloaded_torch_computes_with_the_threads_asked_for(place: LocalPlace, tmp_path: Path) -> None:
    text = """if True:
        import os, torch
        x = torch.ones(400, 400, requires_grad=True)
        (x @ x).sum().backward()
        print(torch.get_num_threads(), float(x.grad[0, 0]), len(os.listdir("/proc/self/task")) >= 1)
        """
    assert scripts(place, tmp_path, text, PATH | {"OMP_NUM_THREADS": "3"}, 2, "torch") == ["3 800.0 True\n"] * 2
