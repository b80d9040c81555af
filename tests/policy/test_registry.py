"""Policies by name, those of other packages included, and what is said when a name leads nowhere."""

from __future__ import annotations

import importlib
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from powerflow.errors import InputError
from powerflow.policy.greedy import Greedy
from powerflow.policy.overlay import FixedClock, ZeusClock
from powerflow.policy.protocol import Policy, View
from powerflow.policy.registry import BUILT_IN, GROUP, load, names
from powerflow.policy.tiresias import Tiresias
from tests.policy.views import assert_valid, make_view, views
from tests.slow import examples

EXAMPLE = Path(__file__).parents[2] / "examples" / "policy_plugin"

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a package with policies on the path, as an installer would leave it: code, and its metadata beside."""

    def install(package: str, entries: dict[str, str], modules: dict[str, str]) -> None:
        site = tmp_path / package
        info = site / f"{package}-0.1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 0.1.0\n")
        lines = "".join(f"{name} = {target}\n" for name, target in entries.items())
        (info / "entry_points.txt").write_text(f"[{GROUP}]\n{lines}")
        for module, text in modules.items():
            (site / f"{module}.py").write_text(text)
            monkeypatch.delitem(sys.modules, module, raising=False)
        monkeypatch.syspath_prepend(site)
        importlib.invalidate_caches()

    return install


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_names_load(name: str) -> None:
    policy = load(name)
    assert isinstance(policy, Policy)
    assert policy.name.partition(":")[0] == name


def test_names_lists_the_default_first() -> None:
    assert names()[: len(BUILT_IN)] == tuple(BUILT_IN)
    assert names()[0] == "prices"


def test_options_and_overlays() -> None:
    greedy = load("greedy:0.3")
    assert isinstance(greedy, Greedy)
    assert greedy.threshold == 0.3
    tiresias = load("tiresias:queues=100/1e3,promote=2")
    assert isinstance(tiresias, Tiresias)
    assert (tiresias.queues.tolist(), tiresias.promote) == ([100.0, 1000.0], 2)
    fixed = load("srtf+clock:1005")
    assert isinstance(fixed, FixedClock)
    assert (fixed.clock, fixed.inner.name, fixed.name) == (1005, "srtf", "srtf+clock:1005")
    zeus = load("tiresias+zeus:0.5")
    assert isinstance(zeus, ZeusClock)
    assert (zeus.eta, zeus.needs_sizes, zeus.period_s) == (0.5, False, 60.0)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("srtff", "unknown policy 'srtff'; did you mean 'srtf'?"),
        ("zzz", "unknown policy 'zzz'; known: prices, greedy, fifo"),
        ("", "unknown policy ''; known: "),
        ("srtf+clok:1", "policy 'srtf+clok:1': unknown overlay 'clok'; did you mean 'clock'?"),
        ("srtf+clock", "overlay 'clock' needs a value; write +clock:0.7"),
        ("srtf+clock:0.7+zeus:0.5", "more than one clock overlay"),
        ("srtf+clock:fast", "'fast' is not an option's value"),
        ("srtf+clock:1,2", "'clock' does not take these options"),
        ("srtf+clock:-1", "policy 'srtf+clock:-1': clock -1 is not a positive number"),
        ("srtf+zeus:1.5", "policy 'srtf+zeus:1.5': η 1.5 is outside [0, 1]"),
        ("srtf:3", "'srtf' does not take these options"),
        ("greedy:-1", "policy 'greedy:-1': threshold -1 is negative"),
        ("greedy:treshold=1", "its options: threshold"),
        ("greedy:nan", "threshold nan is negative"),
        ("greedy:1/2", "'greedy' does not take these options (TypeError"),
        ("tiresias:0", "queue thresholds 0 are not above 0 and ascending"),
        ("tiresias:20/10", "are not above 0 and ascending"),
        ("tiresias:promote=0", "promote 0 is not above 0"),
        ("gandiva:0", "slice 0 is not above 0 s"),
        ("pollux:-1", "decay -1 is not a number ≥ 0"),
        ("pollux:threshold-gpu-s=0", "threshold 0 is not above 0"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(spec: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        load(spec)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@settings(max_examples=examples(200), deadline=None)
@given(text=st.text(alphabet="srtfgeedy:+clockzus=0123456789./,-∞ ", max_size=30))
def test_any_text_loads_or_is_refused(text: str) -> None:
    try:
        load(text)
        said = ""
    except InputError as error:
        said = str(error)
    assert "\n" not in said


def test_the_documented_example_works_once_installed(install: Install) -> None:
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    assert "equal-share" not in names()
    install(
        "powerflow_equal_share",
        project["entry-points"][GROUP],
        {"equal_share": (EXAMPLE / "equal_share.py").read_text()},
    )
    assert "equal-share" in names()
    policy = load("equal-share")
    # 10 GPUs, 3 jobs: a share of 3, so 2 each (counts 1, 2, 4, 8); the second may use only one
    view = make_view([{}, {"gpus_max": 1}, {}], step_time_s=[[8.0, 4.0, 2.0, 1.0]], capacity=10)
    assert policy.decide(view).gpus.tolist() == [2, 1, 2]
    assert load("equal-share+clock:0.7").name == "equal-share+clock:0.7"
    with pytest.raises(InputError, match="did you mean 'equal-share'"):
        load("equal-shares")
    _check_in_any_view(policy)


def _check_in_any_view(policy: Policy) -> None:
    @settings(max_examples=examples(40), deadline=None)
    @given(view=views())
    def check(view: View) -> None:
        assert_valid(view, policy.decide(view))

    check()


COMPLETE = """
class Mine:
    name, needs_sizes, period_s = "mine", False, None
    def __init__(self, knob=1): self.knob = knob
    def decide(self, view): return view.nothing()
"""


@pytest.mark.parametrize(
    ("target", "source", "said"),
    [
        ("mine:Mine", "import nowhere_to_be_found", "cannot be imported from mine:Mine: ModuleNotFoundError"),
        ("mine:Mine", "1 / 0", "cannot be imported from mine:Mine: ZeroDivisionError"),
        ("mine:Other", COMPLETE, "cannot be imported from mine:Other: AttributeError"),
        ("mine:number", "number = 3", "is not a class or function that makes a policy"),
        ("mine:Mine", "class Mine: name = 'mine'", "it has no needs_sizes, no period_s, no decide"),
        ("mine:Mine", COMPLETE.replace('"mine", False, None', '"mine", False, -3'), "period_s is not None or > 0"),
        ("mine:Mine", COMPLETE.replace('"mine", False', '"mine", "no"'), "needs_sizes is not true or false"),
        ("mine:Mine", COMPLETE.replace('"mine", False', "7, False"), "name is not a word"),
        (
            "mine:Mine",
            COMPLETE.replace("self.knob = knob", "raise OSError('two\\nlines')"),
            "cannot be created: OSError",
        ),
    ],
)
def test_broken_plug_ins_are_named(install: Install, target: str, source: str, said: str) -> None:
    install("third_party", {"mine": target}, {"mine": source})
    with pytest.raises(InputError) as caught:
        load("mine")
    assert "policy 'mine'" in str(caught.value)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_plug_ins_take_options_and_built_in_names_are_taken(install: Install) -> None:
    install("third_party", {"mine": "mine:Mine", "fifo": "mine:Mine"}, {"mine": COMPLETE})
    assert vars(load("mine:5")) == {"knob": 5}
    assert vars(load("mine:knob=true")) == {"knob": True}
    with pytest.raises(InputError, match="its options: knob"):
        load("mine:size=5")
    assert load("fifo").name == "fifo"  # the built-in one
    assert names().count("fifo") == 1


def test_two_packages_with_one_name_are_refused(install: Install) -> None:
    install("first_party", {"mine": "mine:Mine"}, {"mine": COMPLETE})
    install("other_party", {"mine": "mine_too:Mine"}, {"mine_too": COMPLETE})
    with pytest.raises(InputError, match="policy 'mine' is defined by first_party and other_party"):
        load("mine")


def test_the_names_cost_no_heavy_import() -> None:
    code = "import sys, powerflow.policy.registry as r; r.names(); r.load('fifo'); sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
