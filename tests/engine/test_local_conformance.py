"""The embedded engine passes what any engine must pass, with and without a preloaded interpreter's modules."""

import os

import pytest

from powerflow.testing.bed import Bed
from powerflow.testing.engine_conformance_nodes import MultiNodeConformance
from powerflow.testing.engine_conformance_process import ProcessConformance
from tests.engine.conftest import LocalPlace


class TestLocalEngine(ProcessConformance):
    """`place` comes from conftest."""


class TestNodesOfOneMachine(MultiNodeConformance):
    """The nodes of a local engine share the machine, so they cannot break; what each node does is tested."""

    many = 64

    @pytest.fixture
    def bed(self, place: LocalPlace) -> Bed:
        return Bed(place, processes=True, user="nobody" if os.geteuid() == 0 else "")
