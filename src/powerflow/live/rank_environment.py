"""Make the environment of a rank: from a login shell, the shell of the submission, the job, and PowerFlow itself."""

from __future__ import annotations

import contextlib
import os
import pwd
import sys
from pathlib import Path

from powerflow.agent.devices import SEEN
from powerflow.agent.logins import login_environment
from powerflow.api.job_spec import JobSpec
from powerflow.engine.local.environment import PATH
from powerflow.engine.protocol import EngineError, RankName
from powerflow.gangs.context import ARRAY_ID, ARRAY_TASK, JOB_ID, JOB_NAME, JOB_USER, Environment
from powerflow.live.emulation import Emulation
from powerflow.live.gpus.gpus import ClusterGpus
from powerflow.store.database import StoreError
from powerflow.store.models import StoredJob
from powerflow.store.store import Store


def rank_environment(power: ClusterGpus, emulation: Emulation, store: Store, as_user: bool) -> Environment:
    """Return the function that makes the environment of a rank. Its machine adds the variables of its GPUs.

    Args:
        power: Knows the GPUs of each node.
        emulation: True costs of jobs on emulated GPUs.
        store: Knows the user of each job.
        as_user: True if ranks run as the users of their jobs.
    """

    def environment(job_id: str, spec: JobSpec, node: str, numbers: tuple[int, ...], name: RankName) -> dict[str, str]:
        try:
            job, shell = store.job(job_id), store.environments.of(job_id)
        except StoreError as error:
            raise EngineError(str(error), retry=error.retry) from error
        base = {"PATH": f"{Path(sys.executable).parent}:{PATH}", "LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1"}
        if not as_user:  # otherwise the rank's machine says what its user finds there
            with contextlib.suppress(KeyError):
                base |= login_environment(pwd.getpwuid(os.geteuid()).pw_name)
        base |= {**shell, **spec.env, **job_variables(job)}
        kind, emulated = power.node_kind(node)
        if emulated:
            base |= emulation.environment(job.user, spec, kind)
        return {**base, SEEN: ",".join(map(str, numbers))}

    return environment


def job_variables(job: StoredJob) -> dict[str, str]:
    """Return the environment variables that tell a rank which job it belongs to."""
    told = {JOB_ID: job.id, JOB_NAME: job.spec.name, JOB_USER: job.user}
    if job.array_id is not None:
        told |= {ARRAY_ID: job.array_id, ARRAY_TASK: str(job.array_task)}
    return told
