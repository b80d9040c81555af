from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from powerflow.cluster.spec import MOST_GPUS_PER_NODE, NodeGroup, build_cluster, parse_cluster
from powerflow.errors import InputError


def refusal(text_or_path: str | Path) -> str:
    with pytest.raises(InputError) as caught:
        parse_cluster(text_or_path)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_one_group_in_one_line() -> None:
    cluster = parse_cluster("16x8:A100")
    assert cluster.gpus == 128
    assert [node.index for node in cluster.nodes] == list(range(16))
    assert cluster.nodes[0].name == "a100-0"
    assert {node.rack for node in cluster.nodes[:8]} == {"rack-0"}
    assert {node.rack for node in cluster.nodes[8:]} == {"rack-1"}


def test_several_types_are_several_pools_and_share_no_rack() -> None:
    cluster = parse_cluster("3x8:A100 + 4x4:T4+2x2:A100")
    pools = cluster.pools()
    assert list(pools) == ["A100", "T4"]
    assert [(node.index, node.name, node.gpus) for node in pools["A100"]] == [
        (0, "a100-0", 8),
        (1, "a100-1", 8),
        (2, "a100-2", 8),
        (7, "a100-3", 2),
        (8, "a100-4", 2),
    ]
    assert [node.rack for node in cluster.nodes] == ["rack-0"] * 3 + ["rack-1"] * 4 + ["rack-2"] * 2


def answer(text_or_path: str | Path) -> str:
    """What is said of it: nothing, if it is a cluster."""
    try:
        assert parse_cluster(text_or_path).gpus > 0
    except InputError as error:
        return str(error)
    return ""


FILE = """\
# a cluster
groups:
  - gpu_type: A100
    count: 5
    gpus: 8
    rack_size: 2
    names: gpu[08-12]
    idle_w: 350
    can_sleep: true
    sleep_w: 20.5
    wake_s: 240
  - {gpu_type: T4, count: 3, gpus: 4, racks: [old-a, old-b]}
"""


def test_a_file_says_more(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(FILE)
    cluster = parse_cluster(path)
    assert [node.name for node in cluster.nodes[:5]] == ["gpu08", "gpu09", "gpu10", "gpu11", "gpu12"]
    assert [node.rack for node in cluster.nodes] == [
        *("rack-0", "rack-0", "rack-1", "rack-1", "rack-2"),
        *("old-a", "old-a", "old-b"),
    ]
    first, last = cluster.nodes[0], cluster.nodes[-1]
    assert (first.idle_w, first.can_sleep, first.sleep_w, first.wake_s) == (350.0, True, 20.5, 240.0)
    assert (last.gpu_type, last.gpus, last.can_sleep, last.idle_w) == ("T4", 4, False, 0.0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("   ", "empty"),
        ("0x8:A100", "0 nodes"),
        ("-2x8:A100", "-2 nodes"),
        ("16x0:A100", "0 GPUs per node"),
        (f"16x{MOST_GPUS_PER_NODE + 1}:A100", "65 GPUs per node"),
        ("200000x8:A100", "1600000 GPUs"),
        ("99999999999999999999x8:A100", "COUNTxGPUS:TYPE"),
        ("16x8", "COUNTxGPUS:TYPE"),
        ("16x8:", "COUNTxGPUS:TYPE"),
        ("16x8:A100+", "COUNTxGPUS:TYPE"),
        ("16x8:A100+4x4", "COUNTxGPUS:TYPE"),
        ("16*8:A100", "COUNTxGPUS:TYPE"),
        ("16x8:{}", "name of a GPU type"),
        ("no/such/file.yaml", "no such file"),
        ("./a\0b", "not a path to a file"),
        ("bogus", "COUNTxGPUS:TYPE, such as 16x8:A100, or give a YAML file"),
    ],
)
def test_what_no_cluster_can_be(text: str, said: str) -> None:
    assert said in refusal(text)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "file is empty"),
        ("# only a comment\n", "file is empty"),
        ("just text\n", ":1: expected 'key: value'"),
        ("groups: []\n", ":1: 'groups' is not a list"),
        ("nodes: 3\n", ":1: unknown key 'nodes'"),
        ("groups:\n  - gpu_type: A100\n    count: 2\n    gpu: 8\n", ":4: unknown key 'gpu'"),
        ("groups:\n  - gpu_type: A100\n    count: 2\n", ":2: the node group has no 'gpus'"),
        ("groups:\n  - {gpu_type: A100, count: two, gpus: 8}\n", ":2: count is 'two'"),
        ("groups:\n  - {gpu_type: A100, count: 2.5, gpus: 8}\n", ":2: count is 2.5"),
        ("groups:\n  - {gpu_type: A100, count: true, gpus: 8}\n", ":2: count is True"),
        ("groups:\n  - {gpu_type: A100, count: 0, gpus: 8}\n", ":2: 0 nodes"),
        ("groups:\n  - {gpu_type: A100, count: 2, gpus: 8, rack_size: 0}\n", ":2: rack_size is 0"),
        ("groups:\n  - {gpu_type: A100, count: 2, gpus: 8, rack_size: 1, racks: [a]}\n", "both rack_size and racks"),
        ("groups:\n  - {gpu_type: A100, count: 2, gpus: 8, racks: [a, b, c]}\n", "3 racks for 2 nodes"),
        ("groups:\n  - {gpu_type: A100, count: 2, gpus: 8, racks: [a, a]}\n", "twice"),
        ("groups:\n  - {gpu_type: A100, count: 2, gpus: 8, racks: a}\n", "not a list of names"),
        ("groups:\n  - {gpu_type: A100, count: 2, gpus: 8, names: gpu}\n", "write a range"),
        ("groups:\n  - {gpu_type: A100, count: 2, gpus: 8, names: 'gpu[1-3]'}\n", "3 names for 2 nodes"),
        ("groups:\n  - {gpu_type: A100, count: 2, gpus: 8, idle_w: -1}\n", "idle_w is -1"),
        ("groups:\n  - {gpu_type: A100, count: 2, gpus: 8, idle_w: .nan}\n", "idle_w is nan"),
        ("groups:\n  - {gpu_type: A100, count: 2, gpus: 8, can_sleep: 1}\n", "give true or false"),
        ("groups:\n  - {gpu_type: A100, count: 2, gpus: 8, can_sleep: true}\n", "can_sleep without wake_s"),
        ("groups:\n  - {gpu_type: A100, count: 2, count: 3, gpus: 8}\n", "'count' occurs twice"),
        ("groups: [\n", "not YAML"),
        ("a: &a [*a]\n", "unknown key"),
        ("groups:\n  - [1, 2]\n", ":2: expected 'key: value'"),
    ],
)
def test_what_no_file_may_say(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(content)
    message = refusal(path)
    assert said in message
    assert message.startswith(str(path))


def test_two_nodes_of_one_name() -> None:
    groups = [NodeGroup("A100", 2, 8, names="n[1-2]"), NodeGroup("T4", 2, 4, names="n[2-3]")]
    with pytest.raises(InputError, match="two nodes have the name 'n2'"):
        build_cluster(groups, source="test")


def test_files_that_are_something_else(tmp_path: Path) -> None:
    binary = tmp_path / "binary"
    binary.write_bytes(bytes(range(256)))
    assert "binary file" in refusal(binary)
    zeros = tmp_path / "zeros"
    zeros.write_bytes(b"\0" * 100)
    assert "binary file" in refusal(zeros)
    large = tmp_path / "trace.csv"
    large.write_text("a,b\n" * 300_000)
    assert "1 MiB" in refusal(large)
    assert "directory" in refusal(tmp_path)


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=30) | st.from_regex(r"[-0-9x:+A-Z]{1,20}", fullmatch=True))
def test_any_text_gives_a_cluster_or_one_line(text: str) -> None:
    assert len(answer(text).splitlines()) <= 1


@settings(max_examples=150, deadline=None)
@given(content=st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_file_gives_a_cluster_or_one_line(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.yaml"
    path.write_bytes(content)
    assert len(answer(path).splitlines()) == 1


@settings(max_examples=150, deadline=None)
@given(line=st.integers(0, 11), column=st.integers(0, 30), put=st.sampled_from(list("[]{}:,&*!|-'\"\t\n #0a")))
def test_a_slip_of_the_keyboard_is_survived(
    tmp_path_factory: pytest.TempPathFactory, line: int, column: int, put: str
) -> None:
    lines = FILE.splitlines()
    lines[line] = lines[line][:column] + put + lines[line][column + 1 :]
    path = tmp_path_factory.getbasetemp() / "slip.yaml"
    path.write_text("\n".join(lines))
    message = answer(path)
    assert not message or message.startswith(str(path))
    assert len(message.splitlines()) <= 1
