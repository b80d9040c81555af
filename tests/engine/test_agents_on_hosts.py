"""The engine of many machines passes what every engine of several nodes must, with agents on three real hosts."""

from collections.abc import Iterator

import pytest

from powerflow.testing.bed import Bed
from powerflow.testing.engine_conformance_nodes import MultiNodeConformance
from powerflow.testing.hosts import Hosts, why_not
from tests.engine.agents_on_hosts import AgentsOnHosts

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
