"""What holds for tests of the controller."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from powerflow.gangs import log_matcher
from tests.live.controller_bench import Bench
from tests.live.external_bench import DEAR, ExternalBench


@pytest.fixture(scope="session", autouse=True)
def _patient_matcher() -> Iterator[None]:
    """Steps stand in a log's answer at once, however busy this machine is: tests have a clock of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log_matcher, "WAIT_S", 600.0)
        yield


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.close()


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[ExternalBench]:
    bench = ExternalBench(tmp_path, energy_price=DEAR)
    yield bench
    bench.close()
