"""Read from Slurm which job holds which GPU.

``squeue --json --states=all`` tells it in one request: the GPUs of a running job with their numbers
(``gpu:2(IDX:0-1)``), and the exact end of jobs that ended a few minutes ago. Every user may ask. Where ``PrivateData``
hides the jobs of others, `powerflow.watch.sources.slurm_private` finds out which GPUs these hold, and not whose they
are. No request is made more often than the caller asks.
"""

from __future__ import annotations

import itertools
import json
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from powerflow.errors import InputError
from powerflow.osutil.host_names import short_host
from powerflow.watch.owners import GpuAddress, Holding, OwnersLook, WatchedJob
from powerflow.watch.sources.slurm_private import CONFIG, CONFIG_S, NODES, hidden_gpus, hidden_kinds, numbers_in

#: The request. ``SLURM_BITSTR_LEN=0`` keeps numbers of array tasks whole.
COMMAND = ("squeue", "--json", "--states=all")
#: How long Slurm may take to answer, seconds.
TIMEOUT_S = 20.0
#: Most nodes that a range in brackets may name: a damaged answer must not fill the memory.
_MOST_NODES = 100_000

#: Slurm cuts off fractions of a second: on average, a moment is this much later than it says.
_CUT_S = 0.5

_GPUS = re.compile(r"(?:gres[:/])?gpu(?::[^:()]+)?(?::(\d+))?\(IDX:([0-9,\-]+)\)")
#: Parts of GPUs that jobs share: shards, and percent of MPS.
_SHARES = re.compile(r"(?:gres[:/])?(?:shard|mps)(?::[^:()]+)?(?::(\d+))?\(IDX:([0-9,\-]+)\)")
_HOST = re.compile(r"([^,\[\]]+)(?:\[([0-9,\-]+)\])?([^,\[\]]*)")
#: States in which a job has its GPUs; Slurm gives them back before it leaves COMPLETING.
_HOLDS = {"RUNNING", "SUSPENDED", "COMPLETING", "CONFIGURING", "SIGNALING", "STAGE_OUT", "STOPPED", "RESIZING"}
_ENDED = {
    *("COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "DEADLINE"),
    *("OUT_OF_MEMORY", "REVOKED"),
}


def ask_slurm(command: Sequence[str] = COMMAND, timeout_s: float = TIMEOUT_S) -> str:
    """Return Slurm's answer to one request.

    Raises:
        InputError: Slurm is not installed, does not answer in time, or refuses; the message has Slurm's first line.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False, errors="replace")
    except FileNotFoundError:
        raise InputError(
            f"there is no {command[0]}", where="Slurm", fix="run this on a node where users submit jobs", exit_code=5
        ) from None
    except subprocess.TimeoutExpired:
        raise InputError(f"{command[0]} did not answer in {timeout_s:g} s", where="Slurm", exit_code=5) from None
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())[:200] or f"exit code {done.returncode}"
        raise InputError(said, where=f"Slurm's {command[0]}", exit_code=5)
    return done.stdout


def read_jobs(text: str, now_s: float) -> OwnersLook:
    """Read the jobs in the output of ``squeue --json``, of Slurm 21.08 and newer.

    Args:
        text: The output.
        now_s: When it was asked for, Unix seconds.

    Returns:
        Jobs that hold GPUs, with their GPUs; and jobs that have ended, whose GPUs Slurm no longer tells.

    Raises:
        InputError: The text is not such an output.
    """
    try:
        document = json.loads(text)
        records = document["jobs"]
        assert isinstance(records, list)
    except (ValueError, KeyError, TypeError, AssertionError, RecursionError):
        raise InputError(
            "its answer is no list of jobs in JSON", where="Slurm", fix="Slurm 21.08 or newer is needed"
        ) from None
    if errors := document.get("errors"):
        raise InputError(f"squeue says {_said(errors)}", where="Slurm", exit_code=5)
    jobs: dict[str, WatchedJob] = {}
    unplaced: list[str] = []
    holdings: list[Holding] = []
    requeued_s: dict[str, float] = {}
    unread = hidden = 0
    for record in records:
        try:
            job, gpus, known = _job(record)
            if _number(record.get("restart_cnt")):  # Slurm submits the job anew when it takes the GPUs away
                requeued_s[f"slurm:{int(record['job_id'])}"] = _number(record.get("submit_time")) + _CUT_S
        except (KeyError, TypeError, ValueError):
            unread += 1
            continue
        if job is None:
            continue
        hidden += not known
        if not known and job.end_s is None:
            unplaced.append(job.key)
        if gpus or job.end_s is not None:
            jobs[job.key] = job
        holdings += [Holding(job.key, gpu, job.start_s, job.end_s, shared=shared) for gpu, shared in gpus.items()]
    notes = []
    if unread:
        notes.append(f"Slurm: {unread} jobs could not be read")
    if hidden:
        notes.append(f"Slurm: {hidden} jobs hold GPUs whose numbers it does not tell (IDX); their energy is nobody's")
    return OwnersLook(now_s, jobs, holdings, notes, requeued_s=requeued_s, unplaced=unplaced)


def _said(errors: object) -> str:
    """Return the errors in an answer of Slurm in words; its exit code may be 0 all the same."""
    listed = errors if isinstance(errors, list) else [errors]
    words = [
        str(each.get("error") or each.get("description") or each) if isinstance(each, Mapping) else str(each)
        for each in listed
    ]
    return " ".join("; ".join(words).split())[:200]


def _job(record: Mapping[str, Any]) -> tuple[WatchedJob | None, Mapping[GpuAddress, bool], bool]:
    """Read one job; return it, its GPUs, and whether all its GPUs are known. None: it has no GPU now and had none.

    Of each GPU it is told whether other jobs may hold it, too.
    """
    states = _states(record)
    start_s = _number(record.get("start_time"))
    holds, ended = bool(states & _HOLDS), bool(states & _ENDED)
    if not start_s or not (holds or ended):
        return None, {}, True
    gpus, known = _gpus(record) if holds or record.get("gres_detail") else ({}, True)
    if holds and not gpus and known:
        return None, {}, True
    end_s = _number(record.get("end_time")) if ended or "COMPLETING" in states else 0.0
    job = WatchedJob(
        key=f"slurm:{int(record['job_id'])}@{int(start_s)}",
        id=_id(record),
        start_s=start_s + _CUT_S,
        end_s=end_s + _CUT_S if end_s else None,
        name=str(record.get("name") or ""),
        user=str(record.get("user_name") or _number(record.get("user_id")) or ""),
        account=str(record.get("account") or ""),
        partition=str(record.get("partition") or ""),
        submitted_s=_number(record.get("submit_time")) or None,
        state=next(iter(sorted(states & (_ENDED | _HOLDS), key=lambda state: (state not in _ENDED, state))), ""),
        comment=str(record.get("comment") or ""),
    )
    return job, gpus, known


def _states(record: Mapping[str, Any]) -> set[str]:
    """Return the state and its flags; until Slurm 23.02 it is one word, later a list."""
    state = record["job_state"]
    return {str(each) for each in state} if isinstance(state, list) else {str(state)}


def _number(value: object) -> float:
    """Return a number; until Slurm 23.02 it is plain, later an object that may say that there is none. Else 0."""
    if isinstance(value, Mapping):
        value = value.get("number") if value.get("set", True) and not value.get("infinite", False) else 0
    return float(value) if isinstance(value, (int, float)) else 0.0


def _id(record: Mapping[str, Any]) -> str:
    """Return the number of a job as squeue and sacct show it: ``7``, ``7_3`` (array), ``7+1`` (heterogeneous job)."""
    if whole := int(_number(record.get("het_job_id"))):
        return f"{whole}+{int(_number(record.get('het_job_offset')))}"
    array, task = int(_number(record.get("array_job_id"))), record.get("array_task_id")
    if isinstance(task, Mapping):
        task = _number(task) if task.get("set", False) else None
    return f"{array}_{int(task)}" if array and task is not None else str(int(record["job_id"]))


def _gpus(record: Mapping[str, Any]) -> tuple[Mapping[GpuAddress, bool], bool]:
    """Return the GPUs of a job, and whether all are known: Slurm tells them per node, in the order of its nodes.

    Each GPU has True if the job has only a part of it.
    """
    detail = [str(each) for each in record.get("gres_detail") or ()]
    nodes = [*hosts(str(record.get("nodes") or ""))]
    found: dict[GpuAddress, bool] = {}
    known = True
    for node, words in zip(nodes, detail, strict=False):
        ranges = _GPUS.findall(words)
        for each, shared in ((ranges, False), (_SHARES.findall(words), True)):
            for _, numbers in each:
                found |= {GpuAddress(short_host(node), number): shared for number in numbers_in(numbers)}
        known &= bool(ranges) or "gpu" not in words
    wants = "gpu" in str(record.get("tres_alloc_str") or "") or any("gpu" in words for words in detail)
    return found, known and (bool(found) or not wants) and (not detail or len(detail) == len(nodes))


def hosts(text: str) -> Iterator[str]:
    """Yield the names in a host list such as ``n[01-03,7],login,gpu[1-2]-ib``."""
    for head, numbers, tail in _HOST.findall(text):
        if not numbers:
            yield head + tail
            continue
        for part in numbers.split(","):
            first, _, last = part.partition("-")
            for number in itertools.islice(range(int(first), int(last or first) + 1), _MOST_NODES):
                yield f"{head}{number:0{len(first)}d}{tail}"


class Slurm:
    """Slurm, as a source of owners."""

    name = "Slurm (squeue)"

    def __init__(
        self,
        command: Sequence[str] = COMMAND,
        config: Sequence[str] = CONFIG,
        nodes: Sequence[str] = NODES,
    ) -> None:
        """Prepare to ask with these commands; the defaults are those of Slurm."""
        self._command, self._config, self._nodes = command, config, nodes
        self._hidden: set[str] = set()
        self._config_s = 0.0

    def look(self, now_s: float) -> OwnersLook:
        """Return the jobs that hold GPUs, as of a moment (Unix seconds).

        It is one request; two where ``PrivateData`` hides jobs; one more each hour, to know that.

        Raises:
            InputError: Slurm does not answer, or not in a form that can be read.
        """
        look = read_jobs(ask_slurm(self._command), now_s)
        if now_s - self._config_s >= CONFIG_S:
            try:
                self._hidden, self._config_s = hidden_kinds(ask_slurm(self._config)), now_s
            except InputError as error:
                return replace(look, notes=[*look.notes, f"{error}; whether jobs are hidden is not known"])
        if "jobs" not in self._hidden:
            return look
        try:
            nodes = ask_slurm(self._nodes)
        except InputError:  # who may not see nodes is refused
            if "nodes" not in self._hidden:
                raise
            note = "Slurm hides jobs and nodes (PrivateData): who holds the other GPUs is not known; run this as a user"
            return replace(look, notes=[*look.notes, f"{note} who may see them"], complete=False)
        whole = {each.gpu for each in look.holdings if not each.shared}  # nodes tell parts by themselves
        return replace(look, hidden=hidden_gpus(nodes, whole))
