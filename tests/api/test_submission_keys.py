"""Arrays, dependencies, output files and time limits, as ``sbatch`` users write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from powerflow.api.dependency import Condition, Need, read_dependency
from powerflow.api.job_array import MOST_TASKS, read_array
from powerflow.api.job_file import spec_from, spec_of_text
from powerflow.api.output_path import CODES, check_pattern, output_path
from powerflow.errors import InputError


@pytest.mark.parametrize(
    ("text", "tasks", "at_once"),
    [
        ("7", (7,), None),
        ("0-3", (0, 1, 2, 3), None),
        ("8,1,3", (1, 3, 8), None),
        ("0-20:5", (0, 5, 10, 15, 20), None),
        ("1-3,2-4%2", (1, 2, 3, 4), 2),
    ],
)
def test_arrays_are_read_as_sbatch_reads_them(text: str, tasks: tuple[int, ...], at_once: int | None) -> None:
    assert read_array(text) == (tasks, at_once)


@pytest.mark.parametrize("text", ["", "3-1", "a", "1-", "0-9:0", "0-9%0", "0-9%", "-1", "1 2", f"0-{MOST_TASKS}"])
def test_what_is_no_array_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"as an array|has no task|no task may run|are too many"):
        read_array(text)


def test_dependencies_are_read_as_sbatch_reads_them() -> None:
    assert read_dependency("afterok:12:13,after:14,afterok:12") == (
        Need(Condition.COMPLETED, "12"),
        Need(Condition.COMPLETED, "13"),
        Need(Condition.STARTED, "14"),
    )
    for text in ("12", "afterok", "afterok:", "afterok:0", "afterok:1?", "afterok:1,", "singleton", "after:1+5"):
        with pytest.raises(ValueError, match="as a dependency"):
            read_dependency(text)


@given(st.text(st.sampled_from("%jxautNA/. "), max_size=12), st.text(max_size=5))
def test_a_pattern_that_is_accepted_makes_a_path_without_new_folders(pattern: str, name: str) -> None:
    try:
        check_pattern(pattern)
    except ValueError:
        return
    path = output_path(pattern, dict.fromkeys(CODES, name))
    assert path.count("/") == pattern.count("/")


def test_codes_stand_for_what_sbatch_has() -> None:
    values = {"j": "12", "A": "10", "a": "2", "x": "a/b", "u": "ada", "N": "n1", "t": "0"}
    assert output_path("%x/%A_%a-%j.%u.%N.%t.100%%", values) == "a_b/10_2-12.ada.n1.0.100%"


@pytest.mark.parametrize(
    ("text", "seconds"), [("90m", 5400.0), ("12h", 43_200.0), ("01:30:00", 5400.0), ("1-12:00:00", 129_600.0)]
)
def test_time_limits_have_a_unit(text: str, seconds: float) -> None:
    assert spec_from({"run": "x", "time_limit": text}).time_limit == seconds


@pytest.mark.parametrize("text", ["60", "1.5", "1:30", "0s", "1-12", "forever"])
def test_a_time_that_can_be_read_in_two_ways_is_refused(text: str) -> None:
    """``sbatch --time 60`` means minutes, and 1:30 minutes and seconds."""
    with pytest.raises(InputError, match="time_limit"):
        spec_from({"run": "x", "time_limit": text})


def test_the_shells_environment_may_not_pose_as_powerflow() -> None:
    with pytest.raises(InputError, match=r"shell_env sets POWERFLOW_RANK"):
        spec_from({"run": "x", "shell_env": {"POWERFLOW_RANK": "1"}})


def test_a_job_file_needs_a_unit_too() -> None:
    with pytest.raises(InputError, match="time_limit: cannot read '90' as a time limit; write 90m"):
        spec_of_text("run: x\ntime_limit: 90\n")
