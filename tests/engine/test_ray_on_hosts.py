"""The engine over Ray passes what every engine of several nodes must, with a raylet on each of three real hosts."""

import os
import signal
from collections.abc import Iterator
from functools import partial

import pytest

from powerflow.engine.protocol import Engine, EngineError, RankName, RankState
from powerflow.testing.bed import Bed, answers, rank, reached, started
from powerflow.testing.engine_conformance import ended, until
from powerflow.testing.engine_conformance_nodes import MultiNodeConformance
from powerflow.testing.hosts import Hosts, why_not
from tests.engine.ray_on_hosts import RayOnHosts
from tests.slow import slow

pytest.importorskip("ray")
pytestmark = [slow, pytest.mark.skipif(bool(why_not()), reason=why_not() or "")]


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayOnHosts]:
    home = tmp_path_factory.mktemp("ray")
    with Hosts(3, home) as hosts:
        found = RayOnHosts(hosts, home)
        try:
            yield found
        finally:
            found.close()


@pytest.fixture
def bed(there: RayOnHosts) -> Bed:
    return Bed(
        there.place,
        processes=True,
        user="nobody",
        cut=there.cut,
        mend=there.mend,
        crash=there.crash,
        boot=there.boot,
        kill_agent=there.kill_agent,
    )


#: What Ray could do wrong; the agents themselves are tested without it. POWERFLOW_TEST_ALL=1 runs all tests.
CHOSEN = (
    "test_secrets_are_in_no_command_line",
    "test_ranks_behind_a_cut_are_unreachable_and_run_on",
    "test_a_rank_is_lost_once_its_node_has_booted",
    "test_ranks_outlive_all_of_ray",
)


class TestRayOnHosts(MultiNodeConformance):
    """`bed` comes from this module."""

    many = 24

    @pytest.fixture(autouse=True)
    def _choose(self, request: pytest.FixtureRequest) -> None:
        if request.node.name not in CHOSEN and not os.environ.get("POWERFLOW_TEST_ALL"):
            pytest.skip("tested with agents alone; POWERFLOW_TEST_ALL=1 runs it over Ray, too")

    def test_ranks_outlive_all_of_ray(self, there: RayOnHosts, engine: Engine, names: list[str]) -> None:
        specs = [rank(name, "sleep", "600", number=i) for i, name in enumerate(names)]
        before = started(engine, specs)
        there.kill(names[0], "ray::Relay")  # the actor
        there.kill(names[1], "raylet/raylet")
        for status in before[:2]:
            back = reached(engine, status.name, RankState.RUNNING)
            assert back.pid == status.pid
        answers(engine, names[1])

        def arrives(name: RankName) -> bool:
            try:
                return engine.signal(name, signal.SIGTERM)
            except EngineError:  # Ray may notice only now
                return False

        for spec in specs:  # orders arrive again
            until(engine, partial(arrives, spec.name))
            assert ended(engine, spec.name).code == -signal.SIGTERM

    def test_ranks_outlive_the_head(self, there: RayOnHosts, engine: Engine, names: list[str]) -> None:
        specs = [rank(name, "sleep", "600", number=i) for i, name in enumerate(names)]
        before = started(engine, specs)
        there.kill_gcs()

        def says() -> bool:
            return any(words.startswith(f"--ray-address {there.address}: Ray cannot be") for words in engine.notices())

        until(engine, says)  # Ray has ended whatever had joined; this process has not, and goes on to try
        for status in before:
            lost = reached(engine, status.name, RankState.UNREACHABLE)
            assert (lost.node, lost.pid) == (status.node, status.pid)
        there.start_head()
        for status in before:
            back = reached(engine, status.name, RankState.RUNNING)
            assert (back.pid, back.started_s) == (status.pid, status.started_s)
        until(engine, lambda: not says())
        for spec in specs:
            assert engine.signal(spec.name, signal.SIGTERM)
            assert ended(engine, spec.name).code == -signal.SIGTERM
