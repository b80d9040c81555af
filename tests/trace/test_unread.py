"""Logs that are not read are called by their names, with what to give instead."""

from pathlib import Path

import pytest

from powerflow.errors import InputError
from powerflow.trace.read import read_trace
from tests.trace import examples

UNREAD = {
    "sacct output without its header": "\n".join(examples.SACCT.splitlines()[1:]),
    "sacct output in columns of fixed width": (
        "JobID           JobName      State    Elapsed               Submit  AllocTRES\n"
        "------------ ---------- ---------- ---------- -------------------- ----------\n"
        "12345             train  COMPLETED   01:00:00  2024-03-01T08:00:00 billing=8+\n"
    ),
    "sacct output in columns of fixed width, which cuts": (
        "     User        JobID    Elapsed      State\n--------- ------------ ---------- ----------\n"
        "      ann 12345          01:00:00  COMPLETED\n"
    ),
    "sacct output without its header; leave out --noheader": (
        "12345|gpu:2|COMPLETED|01:00:00\n12346|gpu:2|FAILED|00:10:00"
    ),
    "scontrol show job output": (
        "JobId=5 JobName=train\n   UserId=ann(1001) GroupId=users(100) MCS_label=N/A\n   JobState=RUNNING Reason=None\n"
    ),
    "squeue output": (
        "             JOBID PARTITION     NAME     USER ST       TIME  NODES NODELIST(REASON)\n"
        "              1234       gpu    train      ann  R    1:02:03      1 gpu01\n"
    ),
    "a PBS or Torque accounting log": (
        "03/01/2024 00:00:12;E;123.server;user=ann group=users queue=gpu ctime=1709247612 Resource_List.ngpus=2\n"
        "03/01/2024 00:01:12;S;124.server;user=bob group=users queue=gpu ctime=1709247672\n"
    ),
    "an LSF lsb.acct": '"JOB_FINISH" "10.1" 1709247612 123 1001 33816579 1 1709240000 0 0 1709240010 "ann" "gpu"\n' * 3,
    "a Grid Engine accounting file": (
        "# Version: 8.1.9\n"
        "gpu.q:node1:users:ann:train:123:sge:0:1709240000:1709240010:1709247612:0:0:7602:1.0:2.0:0:0:0:0:0:0:0:0\n" * 2
    ),
    "an HTCondor history": 'MyType = "Job"\nClusterId = 12\nQDate = 1709240000\n',
    "a Kubernetes object list": '{\n  "apiVersion": "v1",\n  "kind": "List",\n  "items": []\n}\n',
    "an sreport summary": (
        "-" * 80 + "\nCluster Utilization 2024-03-01T00:00:00 - 2024-03-31T23:59:59\nUsage reported in TRES Hours\n"
    ),
    "YAML, such as sacct --yaml": "---\njobs:\n- account: p\n  job_id: 5\n",
    "a table of Alibaba's GPU clusters": (
        "job_name,task_name,inst_num,status,start_time,end_time,plan_cpu,plan_mem,plan_gpu,gpu_type\n"
        "a,tensorflow,1,Terminated,100,200,600,29,50,T4\n"
    ),
    "JSON lines": '{"job_id": 1, "time": {"elapsed": 3}}\n{"job_id": 2, "time": {"elapsed": 3}}\n',
}


@pytest.mark.parametrize("kind", UNREAD)
def test_named_with_what_to_give_instead(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text(UNREAD[kind])
    with pytest.raises(InputError) as caught:
        read_trace(path)
    assert f"log: is {kind}" in str(caught.value)
    assert caught.value.fix
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", examples.ALL)
def test_no_log_that_is_read_is_taken_for_one_of_them(name: str, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text(examples.ALL[name])
    assert read_trace(path).format == name
