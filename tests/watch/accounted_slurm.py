"""A Slurm with accounts on the hosts of a test bed: slurmdbd and its database on host 1, and two users."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from pathlib import Path

from powerflow.testing.hosts import Hosts
from tests.live import slurm_on_hosts
from tests.live.slurm_on_hosts import USER, SlurmOnHosts

#: The users who submit jobs, and the account of each.
ACCOUNTS = {USER: "physics", "games": "chemistry"}
#: Slurm gives up a node that does not answer after this time, seconds.
NODE_LOST_S = 30
#: Debian's packages slurmdbd and mariadb-server.
_TOOLS = ("slurmdbd", "sacct", "sacctmgr", "mariadbd", "mariadb-install-db", "mariadb")
_CONF = f"""
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStorageEnforce=associations
AccountingStorageTRES=gres/gpu
JobAcctGatherType=jobacct_gather/none
SlurmdTimeout={NODE_LOST_S}
"""
_DBD_CONF = """
AuthType=auth/munge
DbdHost=localhost
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm_acct_db
PidFile=/run/slurm/dbd.pid
"""


def why_not() -> str:
    """Say in one line why there can be no such Slurm here; return "" if there can be one."""
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        return f"a Slurm with accounts needs {', '.join(missing)} (Debian: slurmdbd, mariadb-server)"
    return slurm_on_hosts.why_not()


class AccountedSlurm(SlurmOnHosts):
    """As `SlurmOnHosts`; `sacct` answers, and each user of `ACCOUNTS` has an account."""

    def __init__(self, hosts: Hosts, home: Path) -> None:
        super().__init__(hosts, home, _CONF)

    def _configure(self, conf: Path, settings: str) -> None:
        super()._configure(conf, settings)
        (conf / "slurmdbd.conf").write_text(_DBD_CONF)
        (conf / "slurmdbd.conf").chmod(0o600)

    def _prepare(self, i: int, conf: Path) -> None:
        super()._prepare(i, conf)
        if i != 1:
            return
        (self.home / "user").chmod(0o1777)
        data = ["--no-defaults", "--user=root", "--datadir=/run/db"]
        self.root("mariadb-install-db", *data, "--auth-root-authentication-method=normal", "--skip-test-db")
        self.root("mkdir", "/run/mysqld")
        small = ["--innodb-buffer-pool-size=16M", "--innodb-log-file-size=8M", "--performance-schema=OFF"]
        self._run(1, "mariadbd", *data, *small, "--socket=/run/mysqld/mysqld.sock", "--skip-networking")
        self.until(lambda: self._answers("mariadb", "-e", "select 1"))
        self._run(1, "slurmdbd", "-D")
        self.until(lambda: self._answers("sacctmgr", "--immediate", "add", "cluster", "bed"))
        for user, account in ACCOUNTS.items():
            self.root("sacctmgr", "--immediate", "add", "account", account, "cluster=bed")
            self.root("sacctmgr", "--immediate", "add", "user", user, f"account={account}", "cluster=bed")

    def _answers(self, *words: str) -> bool:
        with contextlib.suppress(subprocess.CalledProcessError):
            self.root(*words)
            return True
        return False

    def submit(self, user: str, *words: str) -> str:
        """Submit a batch job of a user; return its number."""
        return self.user(1, "sbatch", "--parsable", *words, name=user).strip().partition(";")[0]
