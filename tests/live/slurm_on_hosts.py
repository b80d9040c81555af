"""Slurm over the hosts of a test bed: its controller and a node on host 1, and a node on each other host."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import powerflow
from powerflow.testing import hosts as beds
from powerflow.testing.hosts import Hosts

#: Root of this source tree.
TREE = Path(__file__).parents[2]
#: The batch script.
SCRIPT = TREE / "deploy" / "slurm" / "powerflow-ray.sbatch"
#: A user without privileges, who submits everything.
USER = "nobody"
#: GPUs of each node. Slurm sees device files, the agents emulate them.
GPUS = 4
_FREEZER = Path("/sys/fs/cgroup/freezer")
#: Debian's packages slurmctld, slurmd, slurm-client, slurm-wlm-basic-plugins and munge.
_TOOLS = ("slurmctld", "slurmd", "sbatch", "munged", "setpriv")
_CONF = """
ClusterName=bed
SlurmctldHost={names[0]}({addresses[0]})
SlurmUser=root
AuthType=auth/munge
StateSaveLocation=/run/slurm/ctld
SlurmdSpoolDir=/run/slurm/d
SlurmctldPidFile=/run/slurm/ctld.pid
SlurmdPidFile=/run/slurm/d.pid
ProctrackType=proctrack/cgroup
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
DefMemPerNode=1000
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
KillWait=5
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str:
    """Say in one line why there can be no Slurm here; return "" if there can be one."""
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        return f"Slurm on hosts needs {', '.join(missing)} (Debian: slurmctld, slurmd, slurm-client, munge)"
    if not _FREEZER.is_dir():
        return "Slurm on hosts needs control groups of version 1"
    return beds.why_not()


class SlurmOnHosts:
    """A Slurm cluster, and a user who has a home that all hosts share, at ``/run/home`` on each of them.

    ``settings`` are more lines of slurm.conf. All hosts find the files of ``home / "slurm"`` in ``/run/conf``.
    """

    def __init__(self, hosts: Hosts, home: Path, settings: str = "") -> None:
        self.hosts, self.home = hosts, home
        self._groups = [_FREEZER / hosts.name(i) for i in hosts.numbers()]
        key, conf = home / "munge.key", home / "slurm"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        self._configure(conf, settings)
        (home / "user").mkdir()
        shutil.chown(home / "user", USER)
        for i in hosts.numbers():
            self._prepare(i, conf)
        self._run(1, "slurmctld", "-D")
        for i in hosts.numbers():
            self.start_node(i)
        self.until(lambda: self.root("sinfo", "--noheader", "--format=%t").split() == ["idle"])

    def _configure(self, conf: Path, settings: str) -> None:
        conf.mkdir(exist_ok=True)
        names = [self.hosts.name(i) for i in self.hosts.numbers()]
        addresses = [self.hosts.address(i) for i in self.hosts.numbers()]
        lines = [
            f"NodeName={name} NodeAddr={address} CPUs=8 RealMemory=4000 Gres=gpu:{GPUS}"
            for name, address in zip(names, addresses, strict=True)
        ]
        text = _CONF.format(names=names, addresses=addresses, nodes="\n".join(lines))
        (conf / "slurm.conf").write_text(text + settings)
        (conf / "gres.conf").write_text(f"Name=gpu File=/run/slurm/gpu[0-{GPUS - 1}]\n")
        (conf / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupMountpoint=/run/cgroup\n")

    def _prepare(self, i: int, conf: Path) -> None:
        """Give a host what is its own: an id, temporary folders, GPUs, control groups, and munge."""
        machine = self.hosts.disk(i) / "machine-id"
        machine.write_text(secrets.token_hex(16) + "\n")
        group = self._groups[i - 1]
        group.mkdir()
        gpus = [f"mknod /run/slurm/gpu{k} c 1 3" for k in range(GPUS)]
        script = [
            "cd /run && mkdir -p slurm/ctld slurm/d munge home conf tmp mine cgroup/freezer",
            "chmod 1777 /run/tmp /run/mine",
            f"mount --bind {machine} /etc/machine-id",
            f"mount --bind {self.home / 'user'} /run/home",
            f"mount --bind {conf} /run/conf",
            f"mount --bind {group} /run/cgroup/freezer",
            "mount --bind /run/mine /var/tmp",
            *gpus,
            f"cp {self.home / 'munge.key'} /run/munge/key",
            "munged --force --key-file=/run/munge/key --pid-file=/run/munge/pid --log-file=/run/munge/log"
            " --seed-file=/run/munge/seed",
            *_ways_in(),
        ]
        self.hosts.output(i, ["sh", "-ec", "\n".join(script)])

    def start_node(self, i: int) -> None:
        """Start Slurm's daemon of a host."""
        self._run(i, "slurmd", "-D", "-N", self.hosts.name(i))

    def _run(self, i: int, *words: str) -> None:
        log = os.open(self.home / f"{words[0]}-{i}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        env = {"SLURM_CONF": "/run/conf/slurm.conf"}
        self.hosts.run(i, words, env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        os.close(log)

    # -- commands -----------------------------------------------------------------------------------------------------

    def root(self, *words: str) -> str:
        """Run a command of root on host 1, and return its output."""
        return self.hosts.output(1, words, {"SLURM_CONF": "/run/conf/slurm.conf"})

    def user(self, i: int, *words: str, name: str = USER) -> str:
        """Run a command of a user on a host, in the home that all hosts share, and return its output."""
        as_user = ["setpriv", f"--reuid={name}", "--regid=nogroup", "--clear-groups", "--inh-caps=-all"]
        own = {
            "SLURM_CONF": "/run/conf/slurm.conf",
            "HOME": "/run/home",
            "TMPDIR": "/run/tmp",
            "POWERFLOW_BIN": str(Path(sys.prefix) / "bin"),
            "POWERFLOW_STATE": "/run/home/state",
            "POWERFLOW_SHARED": "/run/home/shared",
            "POWERFLOW_PRELOAD": "",
        }
        return self.hosts.output(i, [*as_user, "sh", "-c", 'cd "$HOME" && exec "$@"', "sh", *words], own)

    def powerflow(self, i: int, *words: str) -> Any:
        """Run a command of PowerFlow on a host, and return its JSON."""
        return json.loads(self.user(i, str(Path(sys.prefix) / "bin" / "powerflow"), *words, "--json"))

    def allocate(self, *nodes: int) -> str:
        """Submit the batch script for these hosts, wait until a controller answers, and return the job of Slurm."""
        names = ",".join(self.hosts.name(i) for i in nodes)
        wanted = ["--parsable", f"--nodelist={names}", f"--nodes={len(nodes)}", f"--gpus-per-node={GPUS}", "--time=60"]
        job = self.user(1, "sbatch", *wanted, str(SCRIPT), "--ray-emulate", f"1x{GPUS}:A100", "--interval", "1").strip()

        def answers() -> bool:
            assert self.runs(job), self.log(job)
            with contextlib.suppress(subprocess.CalledProcessError):
                up = [
                    node["name"] for node in self.powerflow(nodes[0], "node", "list")["nodes"] if node["state"] == "up"
                ]
                return sorted(up) == sorted(map(self.hosts.name, nodes))
            return False

        self.until(answers)
        return job

    def runs(self, job: str) -> bool:
        """Return True until Slurm's job has ended."""
        return job in self.root("squeue", "--noheader", "--format=%i").split()

    def log(self, job: str) -> str:
        """Return the output of the batch script."""
        path = self.home / "user" / f"powerflow-{job}.log"
        return path.read_text() if path.exists() else ""

    def processes(self) -> list[str]:
        """Return the processes of the user on all hosts."""
        listing = ["sh", "-c", "ps -N -u root -o args= || :"]  # which fails if there is none
        found = [self.hosts.output(i, listing) for i in self.hosts.numbers()]
        return [line for text in found for line in text.splitlines()]

    def until(self, reached: Callable[[], bool], most_s: float = 120.0) -> None:
        """Wait until a function returns True."""
        deadline_s = time.monotonic() + most_s
        while not reached():
            assert time.monotonic() < deadline_s, "waited in vain"
            time.sleep(0.3)

    def close(self) -> None:
        """Remove the control groups, after the hosts are gone."""
        for group in self._groups:
            for folder in sorted(group.rglob("*/"), reverse=True):
                folder.rmdir()
            group.rmdir()


def _ways_in() -> list[str]:
    """Return commands for a host, after which every user can reach the interpreter and this source tree.

    They may be below a folder that only root may enter.
    """
    source = Path(powerflow.__file__).parents[1]
    needed = {Path(each).resolve() for each in (sys.prefix, sys.base_prefix, TREE, source)}
    needed = {each for each in needed if not any(other in each.parents for other in needed)}
    closed: dict[Path, list[Path]] = {}
    for each in sorted(needed):
        barred = [folder for folder in reversed(each.parents) if not folder.stat().st_mode & 0o001]
        if barred:
            closed.setdefault(barred[0], []).append(each)
    commands = []
    for folder, kept in closed.items():
        for number, each in enumerate(kept):
            commands.append(f"mkdir /run/kept{number} && mount --bind {each} /run/kept{number}")
        commands.append(f"mount -t tmpfs -o mode=755 tmpfs {folder}")
        for number, each in enumerate(kept):
            commands.append(f"mkdir -p {each} && mount --move /run/kept{number} {each} && rmdir /run/kept{number}")
    return commands


def folder() -> tempfile.TemporaryDirectory[str]:
    """Return a new folder that all hosts see."""
    return tempfile.TemporaryDirectory(prefix="powerflow-slurm-", dir="/tmp")
