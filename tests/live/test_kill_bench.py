"""The checks of the kill tests find what they are there to find."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from benchmarks import controller_kill

from tests.live.kill_bench import Bench, Outcome

JOBS = {"1": SimpleNamespace(spec=SimpleNamespace(rescale="in-place"))}
#: Two ranks; one leaves, another comes; the two that are there at the end are done in generation 3.
GOOD = """\
start 1.1.0 11 0 1.0
start 1.1.1 12 1 1.1
end 1.1.1 12 told 2 2.0
start 1.2.0 13 2 2.1
end 1.1.0 11 done 3 4.0
end 1.2.0 13 done 3 4.1
"""


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("", ""),
        ("start 1.3.0 14 0 4.2\nend 1.3.0 14 told 3 4.3\n", ""),  # it came too late, and left
        ("start 1.3.0 14 0 4.2\nend 1.3.0 14 done 3 5.0\n", "again by"),
        ("start 1.3.0 14 0 3.0\nend 1.3.0 14 done 4 5.0\n", "by generations"),
        ("start 1.2.0 14 0 3.0\n", "started twice"),
    ],
)
def test_an_in_place_job_that_ends_twice_is_found(tmp_path: Path, more: str, said: str) -> None:
    bench = Bench(tmp_path, seed=1)
    bench.ledger.write_text(GOOD + more)
    if not said:
        bench._check_lives(JOBS)
        return
    with pytest.raises(AssertionError, match=said):
        bench._check_lives(JOBS)


@pytest.mark.parametrize(
    ("found", "code", "said"),
    [
        (Outcome(back_s=[1.0, 1.4], back_cpu_s=[0.5]), 0, ""),
        (
            Outcome(back_s=[1.0, 6.2], back_cpu_s=[0.5]),
            1,
            "does not hold: the controller was back after 6.2 s, not 5 s",
        ),
        (AssertionError("an acknowledged job is lost"), 1, "does not hold: an acknowledged job is lost"),
    ],
)
def test_the_benchmark_ends_with_what_does_not_hold(
    found: Outcome | AssertionError,
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def go(bench: Bench, kills: int) -> Outcome:
        if isinstance(found, AssertionError):
            raise found
        return found

    monkeypatch.setattr(Bench, "go", go)
    monkeypatch.setattr("sys.argv", ["controller_kill", "2"])
    assert controller_kill.main() == code
    assert capsys.readouterr().err.strip() == said
