"""GPU types that the catalogue does not have, and what people call them."""

from __future__ import annotations

import math
import multiprocessing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from powerflow.cost.catalogue import axes_for, catalogue_types, declare, declared, family_model, gpu_type
from powerflow.cost.guess import CardLimits, agree, guessed_type, in_words
from powerflow.cost.model import gpu_power
from powerflow.cost.type_names import matching
from powerflow.errors import InputError

A40 = CardLimits(clock_min_mhz=210, clock_max_mhz=1740, clock_step_mhz=15, limit_w=300, memory_gib=45)


def test_a_guess_keeps_what_is_known_and_says_what_is_not() -> None:
    card = guessed_type("NVIDIA A40", A40)
    assert (card.clock_min_mhz, card.clock_max_mhz, card.limit_w, card.memory_gib) == (210, 1740, 300, 45)
    assert card.speed == pytest.approx(1.0)  # V100 is the type of the catalogue with 300 W
    words = in_words(card)
    assert "210 to 1740 MHz, 300 W, 45 GiB" in words
    assert "a guess: as V100" in words


def test_another_form_of_a_chip_is_scaled_from_that_chip_and_not_from_the_nearest_limit() -> None:
    card = guessed_type("NVIDIA A100-PCIE-40GB", CardLimits(limit_w=250, memory_gib=40, clock_max_mhz=1410))
    assert card.speed == pytest.approx(gpu_type("A100").speed * 250 / 400)
    assert "as A100" in card.sources["speed"]


def test_nothing_known_is_a_guess_throughout() -> None:
    card = guessed_type("NVIDIA Something", CardLimits())
    assert card.limit_w > card.idle_w > 0
    assert "gives no values" in card.sources["limits"]


@given(st.floats(20.0, 2000.0), st.floats(300.0, 4000.0))
def test_whatever_the_limits_a_table_can_be_made(limit_w: float, top_mhz: float) -> None:
    card = guessed_type("NVIDIA Odd 1", CardLimits(clock_max_mhz=top_mhz, limit_w=limit_w))
    declare(card)
    axes = axes_for("NVIDIA Odd 1", 4, [1, 2, 4])
    assert axes.clocks_mhz[-1] == pytest.approx(top_mhz)
    assert (axes.clocks_mhz > 0).all()
    model = family_model("imagenet", "NVIDIA Odd 1")
    watts = gpu_power(model.throughput, model.power, 1, 32, 1, top_mhz, False)
    assert card.idle_w < float(watts) <= limit_w * (1 + 1e-9)


def test_limits_agree_as_far_as_they_are_known() -> None:
    a100 = gpu_type("A100")
    assert agree(a100, CardLimits())
    assert agree(a100, CardLimits(clock_max_mhz=1410, limit_w=400, memory_gib=79.3))
    assert not agree(a100, CardLimits(limit_w=250))
    assert not agree(a100, CardLimits(memory_gib=39.4))
    assert not agree(a100, CardLimits(clock_max_mhz=1980))


def test_a_declared_type_is_found_and_one_of_the_catalogue_stays_as_it_is() -> None:
    with pytest.raises(InputError):
        gpu_type("NVIDIA Never Seen 7")
    declare(guessed_type("NVIDIA Never Seen 7", A40), guessed_type("a100", A40))
    assert gpu_type("never-seen-7").name == "NVIDIA Never Seen 7"
    assert gpu_type("A100").limit_w == 400
    assert all(card.name != "a100" for card in declared())
    assert len({card.name for card in catalogue_types()}) == len(catalogue_types())


def _name_of(cards: object) -> str:
    declare(*cards)  # type: ignore[misc]
    return gpu_type("NVIDIA Handed Over 1").name


def test_a_spawned_process_knows_what_it_is_handed() -> None:
    declare(guessed_type("NVIDIA Handed Over 1", A40))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_name_of, (declared(),)) == "NVIDIA Handed Over 1"


HERE = {
    "A100": ["NVIDIA A100-SXM4-80GB"],
    "NVIDIA A100-PCIE-40GB": ["NVIDIA A100-PCIE-40GB"],
    "NVIDIA L4": ["NVIDIA L4"],
    "NVIDIA L40S": ["NVIDIA L40S"],
    "NVIDIA H200": ["NVIDIA H200"],
    "NVIDIA H200 NVL": ["NVIDIA H200 NVL"],
    "RTX3080Ti": ["NVIDIA GeForce RTX 3080 Ti"],
    "RTX6000": ["Quadro RTX 6000"],
    "NVIDIA RTX 6000 Ada Generation": ["NVIDIA RTX 6000 Ada Generation"],
}


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("A100", ["A100", "NVIDIA A100-PCIE-40GB"]),
        ("A100-SXM4-80GB", ["A100"]),
        ("a100-pcie-40gb", ["NVIDIA A100-PCIE-40GB"]),
        ("NVIDIA-A100-PCIE-40GB", ["NVIDIA A100-PCIE-40GB"]),
        ("L4", ["NVIDIA L4"]),
        ("L40S", ["NVIDIA L40S"]),
        ("L40", []),
        ("H200", ["NVIDIA H200"]),  # bears exactly that name
        ("H200-NVL", ["NVIDIA H200 NVL"]),
        ("RTX3080", []),  # a 3080 Ti is another chip
        ("RTX3080Ti", ["RTX3080Ti"]),
        ("RTX6000", ["RTX6000"]),
        ("A10", []),
        ("NVIDIA", []),
    ],
)
def test_what_people_write_means_what_they_expect(wanted: str, found: list[str]) -> None:
    assert matching(wanted, HERE) == found


def test_a_name_that_is_not_known_is_nan_and_not_zero() -> None:
    assert math.isnan(CardLimits().limit_w)
