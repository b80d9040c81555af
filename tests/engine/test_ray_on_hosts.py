"""The engine over Ray passes what every engine of several nodes must, with a raylet on each of three real hosts."""

from collections.abc import Iterator

import pytest

from powerflow.testing.bed import Bed
from powerflow.testing.engine_conformance_nodes import MultiNodeConformance
from powerflow.testing.hosts import Hosts, why_not
from tests.engine.ray_on_hosts import RayOnHosts

pytest.importorskip("ray")
pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not() or "")


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


class TestRayOnHosts(MultiNodeConformance):
    """`bed` comes from this module."""

    many = 24
