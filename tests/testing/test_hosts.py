"""Test hosts are hosts of their own, their faults are real ones, and nothing of them remains."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from powerflow.testing.hosts import Hosts, why_not

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())

LISTEN = """
import socket, sys, time
server = socket.create_server((sys.argv[1], 7000))
print("listens", flush=True)
while True:
    connection = server.accept()[0]
    connection.sendall(b"hello")
    kept = connection  # as a service that has nothing to say
"""
#: Prints what it hears, and then whether the connection has ended.
CALL = """
import socket, sys
connection = socket.create_connection((sys.argv[1], 7000), timeout=10)
print(connection.recv(5).decode(), flush=True)
connection.settimeout(float(sys.argv[2]))
try: print("ended" if not connection.recv(1) else "?", flush=True)
except TimeoutError: print("silence", flush=True)
"""


def wait(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, f"{what} did not come about"
        time.sleep(0.01)


def reaches(hosts: Hosts, source: int, target: int) -> bool:
    code = "import socket, sys; socket.create_connection((sys.argv[1], 7000), timeout=0.3)"
    argv = [sys.executable, "-S", "-c", code, hosts.address(target)]
    return hosts.run(source, argv, stderr=subprocess.DEVNULL).wait() == 0


def listen(hosts: Hosts, i: int) -> subprocess.Popen[bytes]:
    server = hosts.run(i, [sys.executable, "-S", "-c", LISTEN, hosts.address(i)], stdout=subprocess.PIPE)
    assert server.stdout is not None
    assert server.stdout.readline() == b"listens\n"
    return server


def python(hosts: Hosts, i: int, code: str) -> str:
    return hosts.output(i, [sys.executable, "-S", "-c", code]).strip()


def test_a_host_shares_nothing_that_a_machine_has_of_its_own(tmp_path: Path) -> None:
    with Hosts(2, tmp_path) as hosts:
        for i in (1, 2):
            hosts.output(i, ["sh", "-c", "for f in . /dev/shm /run /tmp/ray $TMPDIR; do touch $f/of-$(hostname); done"])
        for i in (1, 2):
            listed = hosts.output(i, ["sh", "-c", "ls . /dev/shm /run /tmp/ray $TMPDIR"])
            assert listed.count(f"of-{hosts.name(i)}") == 5
            assert f"of-{hosts.name(3 - i)}" not in listed
            assert hosts.output(i, ["hostname"]).strip() == hosts.name(i)
            assert not Path("/run", f"of-{hosts.name(i)}").exists()
            assert (hosts.disk(i) / f"of-{hosts.name(i)}").exists()
            assert python(hosts, i, f"import os; print(os.path.exists({str(hosts.disk(3 - i))!r}))") == "False"
            assert python(hosts, i, "print(open('/proc/sys/kernel/random/boot_id').read())") == hosts.boot_id(i)
            assert 1000 * i <= float(python(hosts, i, "import time; print(time.monotonic())")) < 1000 * i + 60
            assert len(python(hosts, i, "import os; print(*filter(str.isdigit, os.listdir('/proc')))").split()) == 2
        assert len({hosts.boot_id(1), hosts.boot_id(2), Path("/proc/sys/kernel/random/boot_id").read_text()}) == 3


def test_a_process_of_a_host_is_a_child_of_ours(tmp_path: Path) -> None:
    with Hosts(1, tmp_path) as hosts:
        assert hosts.run(1, ["sh", "-c", "exit 7"]).wait() == 7
        sleeper = hosts.run(1, ["sleep", "100"])
        sleeper.terminate()
        assert sleeper.wait() == -signal.SIGTERM
        with pytest.raises(FileNotFoundError):
            hosts.run(1, ["no-such-program"])
        here = subprocess.run(["hostname"], capture_output=True, text=True, check=True).stdout.strip()
        assert here != hosts.name(1)


def test_orphans_are_reaped(tmp_path: Path) -> None:
    with Hosts(1, tmp_path) as hosts:
        hosts.output(1, ["sh", "-c", "sleep 0.01 & sleep 0.01 & exit 0"])
        count = "import os; print(len([p for p in os.listdir('/proc') if p.isdigit()]))"
        wait(lambda: python(hosts, 1, count) == "2", "the reaping of orphans")


def test_a_cut_is_silence_and_a_mended_cable_works(tmp_path: Path) -> None:
    with Hosts(2, tmp_path) as hosts:
        server = listen(hosts, 1)
        assert reaches(hosts, 2, 1)
        code = [sys.executable, "-S", "-c", CALL, hosts.address(1), "1"]
        caller = hosts.run(2, code, stdout=subprocess.PIPE, text=True)
        assert caller.stdout is not None
        assert caller.stdout.readline() == "hello\n"
        hosts.cut(1)
        assert not reaches(hosts, 2, 1)
        assert caller.stdout.readline() == "silence\n"
        assert server.poll() is None
        hosts.mend(1)
        wait(lambda: reaches(hosts, 2, 1), "the mending")


def test_a_crash_says_no_goodbye_and_a_boot_is_another_one(tmp_path: Path) -> None:
    with Hosts(2, tmp_path) as hosts:
        first = hosts.boot_id(1)
        server = listen(hosts, 1)
        hosts.output(1, ["touch", "kept", "/run/lost"])
        code = [sys.executable, "-S", "-c", CALL, hosts.address(1), "1"]
        caller = hosts.run(2, code, stdout=subprocess.PIPE, text=True)
        assert caller.stdout is not None
        assert caller.stdout.readline() == "hello\n"
        hosts.crash(1)
        assert server.wait() == -signal.SIGKILL
        assert caller.stdout.readline() == "silence\n"
        assert not hosts.running(1)
        with pytest.raises(OSError, match="host 1 is down"):
            hosts.run(1, ["true"])
        hosts.boot(1)
        assert hosts.boot_id(1) != first
        assert python(hosts, 1, "import os; print(os.path.exists('kept'), os.path.exists('/run/lost'))") == "True False"
        assert not reaches(hosts, 2, 1)
        listen(hosts, 1)
        assert reaches(hosts, 2, 1)


def test_two_beds_at_once(tmp_path: Path) -> None:
    with Hosts(1) as one, Hosts(1) as two:
        assert one.address(1) != two.address(1)
        listen(one, 1)
        listen(two, 1)
        assert {one.output(1, ["hostname"]), two.output(1, ["hostname"])} == {f"{one.name(1)}\n", f"{two.name(1)}\n"}


def links() -> str:
    return subprocess.run(["ip", "-br", "link"], capture_output=True, text=True, check=True).stdout


def test_nothing_remains_of_a_closed_bed(tmp_path: Path) -> None:
    with Hosts(2, tmp_path) as hosts:
        sleeper = hosts.run(1, ["sleep", "100"])
        bridge = hosts._bridge
        assert bridge in links()
    assert sleeper.wait() == -signal.SIGKILL
    assert hosts.name(0)[:-2] + "v" not in links()
    assert bridge not in links()


def test_nothing_remains_of_a_killed_process(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from powerflow.testing.hosts import Hosts\n"
        "hosts = Hosts(1, Path(sys.argv[1])); sleeper = hosts.run(1, ['sleep', '100'])\n"
        "print(hosts._bridge, sleeper.pid, flush=True); time.sleep(100)"
    )
    maker = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert maker.stdout is not None
    bridge, pid = maker.stdout.readline().split()
    assert bridge in links()
    maker.kill()
    maker.wait()
    maker.stdout.close()

    def gone() -> bool:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().split()[2]
        except OSError:
            state = "Z"
        return bridge not in links() and state == "Z"

    wait(gone, "the end of the bed")
    assert not [p for p in os.listdir("/proc") if p == pid and Path("/proc", p, "exe").exists()]
