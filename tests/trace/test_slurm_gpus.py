"""Whole GPUs, MIG slices and shares of a GPU are told apart, in every way that Slurm has written them."""

import json
from pathlib import Path

import pytest

from powerflow.errors import InputError
from powerflow.trace.fields import Unusable
from powerflow.trace.formats.slurm_gpus import (
    SlurmGpus,
    gres_gpus,
    held_gpus,
    mig_profile,
    node_count,
    parse_tres,
    slice_share,
    submitted_gpus,
    tres_gpus,
)
from powerflow.trace.read import read_trace


@pytest.mark.parametrize(
    ("tres", "gpus"),
    [
        ("billing=8,cpu=64,gres/gpu:a100=8,gres/gpu=8,mem=4G,node=1", SlurmGpus(8)),
        ("gres/gpu:v100=2,gres/gpu:a100=2", SlurmGpus(4)),
        ("gres/gpu=4,gres/gpu:a100=2", SlurmGpus(4)),  # only one type is tracked by itself
        ("gres/gpu:nvidia_a100-sxm4-80gb=2,gres/gpu=2", SlurmGpus(2)),
        ("cpu=8,gres/gpu=1K", SlurmGpus(1024)),
        ("cpu=4,gres/gpumem=12G,gres/gpuutil=80,mem=1G", SlurmGpus()),
        ("gres/gpu:1g.5gb=7,gres/gpu=7", SlurmGpus(0, {"1g.5gb": 7})),
        ("gres/gpu:a100_3g.20gb=1,gres/gpu=1", SlurmGpus(0, {"3g.20gb": 1})),
        ("gres/gpu=2,gres/gpu:h200=1,gres/gpu:1g.33gb=1", SlurmGpus(1, {"1g.33gb": 1})),
        ("gres/gpu:nvidia_a100_80gb_pcie_2g.20gb=1", SlurmGpus(0, {"2g.20gb": 1})),
        ("gres/gpu:mig-1g.10gb=2,gres/gpu=2", SlurmGpus(0, {"1g.10gb": 2})),
        ("gres/shard:h100=12,gres/shard=12", SlurmGpus(shares="gres/shard=12")),
        ("gres/mps=25", SlurmGpus(shares="gres/mps=25")),
        ("gres/mps:v100=25", SlurmGpus(shares="gres/mps=25")),
        ("", SlurmGpus()),
    ],
)
def test_trackable_resources(tres: str, gpus: SlurmGpus) -> None:
    assert tres_gpus(parse_tres(tres)) == gpus


@pytest.mark.parametrize(
    ("gres", "nodes", "gpus"),
    [
        ("PER_NODE:gpu:4", 2, SlurmGpus(8)),
        ("PER_NODE:gpu:v100:4", 2, SlurmGpus(8)),
        ("PER_JOB:gpu:6", 3, SlurmGpus(6)),
        ("PER_JOB:gpu:8,PER_NODE:gpu:4", 2, SlurmGpus(8)),  # both say the same eight
        ("gpu:2", 1, SlurmGpus(2)),
        ("gpu:0", 1, SlurmGpus()),
        ("gpu", 3, SlurmGpus(3)),
        ("gpu:tesla", 1, SlurmGpus(1)),
        ("gpu:tesla:2(S:0-1)", 1, SlurmGpus(2)),
        ("gpu:a100:2(IDX:0,3)", 3, SlurmGpus(6)),
        ("gres:gpu:a100:8", 1, SlurmGpus(8)),
        ("gres/gpu=3", 1, SlurmGpus(3)),
        ("7696487:4", 2, SlurmGpus(8)),  # the plugin's number, in databases of Slurm 14 to 20
        ("gpu:a100:1,gpu:v100:1", 1, SlurmGpus(2)),
        ("craynetwork:1,gpu:1", 1, SlurmGpus(1)),
        ("gpu:1g.5gb:2", 1, SlurmGpus(0, {"1g.5gb": 2})),
        ("gpu:a100_1g.5gb:1(IDX:0)", 2, SlurmGpus(0, {"1g.5gb": 2})),
        ("shard:4", 1, SlurmGpus(shares="gres/shard=4")),
        ("gpu:2", None, SlurmGpus(2, one_node_assumed=True)),
    ],
)
def test_generic_resources_of_older_versions(gres: str, nodes: int | None, gpus: SlurmGpus) -> None:
    assert gres_gpus(gres, nodes) == gpus


@pytest.mark.parametrize("gres", ["PER_TASK:gpu:1", "PER_SOCKET:gpu:2", "gpu:a100:x", "shard:all"])
def test_counts_that_cannot_be_known_are_refused(gres: str) -> None:
    with pytest.raises(Unusable):
        gres_gpus(gres, 2)


def test_any_column_may_say_that_it_is_a_slice_or_a_share() -> None:
    whole = SlurmGpus(1)
    asked = submitted_gpus("sbatch -p gpu --gres=gpu:1g.5gb:1 run.sh")[0]
    assert held_gpus([whole], [whole], asked) == SlurmGpus(0, {"1g.5gb": 1})
    assert held_gpus([whole], [SlurmGpus(0, {"3g.20gb": 1})], SlurmGpus()) == SlurmGpus(0, {"3g.20gb": 1})
    assert held_gpus([SlurmGpus(2)], [SlurmGpus(4)], SlurmGpus()) == SlurmGpus(2)  # what was allocated wins
    assert held_gpus([], [SlurmGpus(4)], SlurmGpus()) == SlurmGpus(4)
    assert held_gpus([whole], [SlurmGpus(shares="gres/shard=2")], SlurmGpus()) == SlurmGpus(shares="gres/shard=2")
    assert held_gpus([SlurmGpus(1, shares="gres/shard=8")], [whole], SlurmGpus()) == whole  # all shards of a whole GPU


@pytest.mark.parametrize(
    ("line", "option"),
    [
        ("sbatch --gpus 4 run.sh", "--gpus 4"),
        ("sbatch -N 2 --gpus-per-node=a100:4 run.sh", "--gpus-per-node=a100:4"),
        ("srun --gres=gpu:2 --pty bash", "--gres=gpu:2"),
        ("salloc -G 2", "-G 2"),
        ("sbatch --gres=craynetwork:1 run.sh", ""),
        ("sbatch --gpus=0 run.sh", ""),
        ("sbatch run.sh", ""),
    ],
)
def test_the_submit_line_says_that_gpus_were_asked_for(line: str, option: str) -> None:
    assert submitted_gpus(line)[1] == option


def test_slices_as_shares() -> None:
    assert slice_share("1g.5gb") == pytest.approx(1 / 7)
    assert slice_share("3g.40gb") == pytest.approx(3 / 7)
    assert slice_share("2g.12gb") == 0.5  # an A30 has four slices
    assert slice_share("1c.3g.20gb") == pytest.approx(1 / 7)  # a compute instance of a slice
    assert slice_share("mig") is None
    assert mig_profile("gtx1060_6gb") == mig_profile("v100-32gb") == ""
    assert mig_profile("a100_mig") == "mig"


def test_nodes_of_a_node_list() -> None:
    assert node_count("gpu[01-03,07],login1") == 5
    assert node_count("r[1-2]n[1-4]") == 8
    assert node_count("gpu-node-1") == 1
    assert node_count("None assigned") is None
    assert node_count("") is None


HEAD = "JobID|JobName|Account|Submit|Start|End|ElapsedRaw|State|AllocTRES\n"
TIMES = "2024-03-01T08:00:00|2024-03-01T08:00:10|2024-03-01T09:00:10|3600|COMPLETED"


def test_slices_and_shares_are_left_out_by_name(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text(
        HEAD
        + f"1|slice|p|{TIMES}|gres/gpu:1g.5gb=7,gres/gpu=7\n"
        + f"2|mixed|p|{TIMES}|gres/gpu=2,gres/gpu:h200=1,gres/gpu:3g.71gb=1\n"
        + f"3|shard|p|{TIMES}|gres/shard=12\n"
        + f"4|mps|p|{TIMES}|gres/mps=25\n"
        + f"5|whole|p|{TIMES}|gres/gpu:a100=4,gres/gpu=4\n"
    )
    trace = read_trace(path)
    assert [(job.id, job.gpus) for job in trace.jobs] == [("5", 4)]
    assert {line.line: line.why for line in trace.skipped} == {
        2: "holds MIG slices, not whole GPUs (7 × 1g.5gb)",
        3: "holds MIG slices, not whole GPUs (1 × 3g.71gb, 1 whole)",
        4: "shares a GPU through shard (gres/shard=12)",
        5: "shares a GPU through mps (gres/mps=25)",
    }
    assert any("2 jobs on MIG slices are left out: 1.4 GPU-hours" in note for note in trace.notes)  # 7/7 + 3/7
    assert any("2 jobs that share a GPU" in note for note in trace.notes)


def test_per_node_counts_take_nodes_from_whichever_column_has_them(tmp_path: Path) -> None:
    path = tmp_path / "log"
    head = "JobID|Submit|Elapsed|State|AllocGRES|ReqGRES|"
    row = "1|2020-01-01T00:00:00|01:00:00|COMPLETED||PER_NODE:gpu:4|"
    for column, value in (("NNodes", "2"), ("AllocNodes", "2"), ("NodeList", "n[1-2]"), ("AllocTRES", "cpu=9,node=2")):
        path.write_text(f"{head}{column}\n{row}{value}\n")
        assert read_trace(path).jobs[0].gpus == 8
    path.write_text(f"{head}QOS\n{row}normal\n")
    trace = read_trace(path)
    assert trace.jobs[0].gpus == 4
    assert any("no NNodes" in note for note in trace.notes)


def test_a_site_that_does_not_account_for_gpus_is_told_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text(HEAD.strip() + f"|SubmitLine\n7|a|p|{TIMES}|cpu=4,node=1|sbatch --gpus 4 run.sh\n")
    with pytest.raises(
        InputError, match=r"requested GPUs but none are recorded.*AccountingStorageTRES=gres/gpu.*gpus 4"
    ):
        read_trace(path)
    path.write_text(HEAD + f"7|a|p|{TIMES}|cpu=4,node=1\n8|b|p|{TIMES}|cpu=4,node=1\n")
    with pytest.raises(
        InputError, match=r"no GPU: this is a CPU job.*2 jobs have no GPU.*AccountingStorageTRES=gres/gpu"
    ):
        read_trace(path)
    path.write_text(HEAD + f"7|a|p|{TIMES}|cpu=4,node=1\n8|b|p|{TIMES}|gres/gpu=1\n")
    assert not any("AccountingStorageTRES" in note for note in read_trace(path).notes)  # CPU jobs are just that


def test_the_same_in_json(tmp_path: Path) -> None:
    def job(number: int, tres: list[dict[str, object]], **more: object) -> dict[str, object]:
        time = {"submission": 1, "start": 2, "end": 3602, "elapsed": 3600}
        return {
            "job_id": number,
            "state": {"current": ["COMPLETED"]},
            "time": time,
            "tres": {"allocated": tres},
            **more,
        }

    def gres(name: str, count: object) -> dict[str, object]:
        return {"type": "gres", "name": name, "count": count}

    path = tmp_path / "log"
    number = {"set": True, "infinite": False, "number": 2}
    jobs = [
        job(1, [gres("gpu", 1), gres("gpu:1g.5gb", 1)]),
        job(2, [gres("shard", 4)]),
        job(3, [{"type": "cpu", "name": "", "count": 4}], submit_line="sbatch --gpus 4 run.sh"),
        job(4, [gres("gpu", number), gres("gpumem", 5)]),
    ]
    path.write_text(json.dumps({"jobs": jobs}))
    trace = read_trace(path)
    assert [(job.id, job.gpus) for job in trace.jobs] == [("4", 2)]
    assert [line.why.partition(",")[0].partition(" (")[0] for line in trace.skipped] == [
        "holds MIG slices",
        "shares a GPU through shard",
        "requested GPUs but none are recorded: the site lacks AccountingStorageTRES=gres/gpu in slurm.conf",
    ]
