"""What was done is said in a sentence, with human values."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from powerflow.api.acts import _WHAT, said


@pytest.mark.parametrize(
    ("action", "target", "fields", "sentence"),
    [
        ("job submitted", "job 3", {"name": "resnet", "gpus": "1..8", "project": "vision"},
         "submitted by ada: resnet, 1..8 GPUs, project vision"),
        ("job submitted", "job 3", {"name": "", "gpus": "1", "project": ""}, "submitted by ada: 1 GPU"),
        ("job cancelled", "job 3", {"owner": "bob"}, "cancelled by ada"),
        ("node drained", "n1", {"reason": "fan is loud"}, "n1 set to drain by ada: fan is loud"),
        ("node drained", "n1", {"reason": ""}, "n1 set to drain by ada"),
        ("node up", "n1", {"reason": ""}, "n1 put back into use by ada"),
        ("node declare-off", "n1", {"reason": "no power"}, "n1 declared off by ada: no power"),
        ("cap set", "rack:r0", {"number": 4, "scope": "rack:r0", "watts": 60000.0, "start_s": 0.0, "end_s": None,
                                "deadline_s": None, "ramp_w_per_s": 100.0},
         "cap 4 on rack:r0 set by ada: 60 kW from 1970-01-01 00:00 UTC ramp 100 W/s until it is lifted"),
        ("cap lifted", "cluster", {"number": 4, "watts": 60000.0}, "cap 4 on cluster lifted by ada"),
        ("budget set", "cluster", {"amount_j": 1.44e9, "period": "day", "zone": "UTC"},
         "budget of the cluster set by ada: 400 kWh a day (UTC)"),
        ("budget dropped", "vision", {}, "budget of project vision dropped by ada"),
        ("share set", "vision", {"share": 2.0}, "share of vision set to 2 by ada"),
        ("signal set", "tariff", {"source": "a.csv", "weight": 1.0, "fallback": 1e-05},
         "tariff signal set by ada: source a.csv, weight 1, fallback 0.00001"),
        ("mode set", "all projects", {"stage": "observe"}, "stage of all projects set to observe by ada"),
        ("clock set", "n1/0", {"clock_mhz": 1110.0}, "clock of n1/0 set to 1110 MHz by ada"),
        ("clock asked", "n1/0", {"clock_mhz": 1110.0, "read_mhz": 210.0},
         "clock of n1/0 set to 1110 MHz, but it runs at 210 MHz by ada"),
        ("token created", "bob", {"role": "user", "id": "x1"}, "token of bob created by ada: role user, id x1"),
        ("authentication failed", "", {"times": 3}, "authentication failed 3 times by ada"),
        ("something new", "cluster", {"idle_w": 1500.0, "for_s": 7200.0},
         "cluster: something new by ada: idle 1.5 kW, for 2 h"),
    ],
)  # fmt: skip
def test_a_sentence(action: str, target: str, fields: dict[str, Any], sentence: str) -> None:
    assert said(action, target, "ada", fields) == sentence


FIELDS = st.dictionaries(
    st.sampled_from(
        ["number", "watts", "start_s", "end_s", "share", "amount_j", "period", "stage", "clock_mhz", "odd"]
    ),
    st.one_of(st.none(), st.booleans(), st.text(), st.floats(0.0, 1e10), st.integers(0, 10**9)),
)


@given(st.sampled_from([*_WHAT, "unheard of"]), st.text(), FIELDS)
def test_an_entry_of_another_version_is_still_said(action: str, target: str, fields: dict[str, Any]) -> None:
    assert said(action, target, "", fields)
