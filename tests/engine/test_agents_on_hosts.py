"""The engine of many machines passes what every engine of several nodes must, with agents on three real hosts."""

import asyncio
from collections.abc import Iterator
from functools import partial

import pytest

from powerflow.engine.cluster.engine import ClusterEngine
from powerflow.engine.protocol import RankName
from powerflow.testing.bed import Bed, rank, started
from powerflow.testing.engine_conformance import until
from powerflow.testing.engine_conformance_nodes import MultiNodeConformance
from powerflow.testing.hosts import Hosts, why_not
from tests.engine.agents_on_hosts import AgentsOnHosts
from tests.engine.shells import ran

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not() or "")


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    tmp_path = tmp_path_factory.mktemp("bed")
    with Hosts(4, tmp_path) as hosts:
        there = AgentsOnHosts(hosts, tmp_path)
        try:
            yield there.bed()
        finally:
            there.close()


class TestAgentsOnHosts(MultiNodeConformance):
    """`bed` comes from this module."""

    many = 48  # more are measured by a benchmark, not by each run of the tests

    def test_a_shell_is_on_the_host_of_its_rank_as_its_user(self, bed: Bed, names: list[str]) -> None:
        engine = bed.place()
        assert isinstance(engine, ClusterEngine)
        text, user = "hostname; id -un; echo $A", bed.user
        specs = [
            rank(name, "sh", "-c", f"{text}; exec sleep 600", number=i, user=user, env={"A": name})
            for i, name in enumerate(names)
        ]
        started(engine, specs)
        for spec in specs:
            until(engine, partial(_has_lines, engine, spec.name, 3))
            done = asyncio.run(ran(engine.shells, spec.node, spec.name, "sh", "-c", text))
            assert done == (0, engine.log(spec.name)[0], b"")
            assert engine.log(spec.name)[0].endswith(f"\n{user}\n{spec.node}\n".encode())


def _has_lines(engine: ClusterEngine, name: RankName, count: int) -> bool:
    return engine.log(name)[0].count(b"\n") == count
