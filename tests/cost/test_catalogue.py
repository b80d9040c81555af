"""The catalogue: figures that cohere, names that are found, and what was measured told from what was not."""

from __future__ import annotations

import tomllib
from importlib.resources import files

import numpy as np
import pytest

from powerflow.cost.catalogue import axes_for, families, family, family_model, gpu_type, gpu_types
from powerflow.cost.model import step_time
from powerflow.errors import InputError


@pytest.mark.parametrize("name", gpu_types())
def test_gpu_types_cohere_and_name_their_sources(name: str) -> None:
    card = gpu_type(name)
    assert 0 < card.clock_min_mhz < card.clock_max_mhz / 2
    assert 0 < card.clock_step_mhz < 50
    assert 0 < card.idle_w < card.limit_w / 2.5
    assert card.memory_gib >= 8
    assert set(card.sources) == {"clocks", "power", "speed", "link"}
    assert all(len(text) > 10 for text in card.sources.values())


@pytest.mark.parametrize("name", families())
def test_families_name_their_sources_and_run_everywhere(name: str) -> None:
    kind = family(name)
    assert len(kind.source) > 20
    assert kind.global_batches
    assert kind.gpus_max >= 1
    assert kind.like == "" or ("Modelled" in kind.source and family(kind.like).like == "")
    for card in gpu_types():
        model = family_model(name, card)
        assert model.power.idle_w <= model.power.active_w <= gpu_type(card).limit_w
        assert model.power.h_linear + model.power.h_cubic <= 1 + 1e-9
        assert model.local_batch_max >= 1
        assert model.origin == ("measured" if card == "T4" and not kind.like else "modelled")


def test_the_types_and_families_that_users_expect() -> None:
    assert {"V100", "A100", "H100", "T4", "RTX6000"} <= set(gpu_types())
    assert {"cifar10", "imagenet", "bert", "deepspeech2", "yolov3", "ncf"} <= set(families())
    traced = ["vgg16", "inception3", "gpt2", "resnet50", "vgg11", "vgg19", "alexnet", "googlenet", "resnet152"]
    assert all(family(name) for name in [*traced, "inception4", "resnet101", "deepspeech2", "bert"])


def test_names_are_found_however_they_are_written() -> None:
    assert gpu_type("rtx-6000").name == "RTX6000"
    assert gpu_type("Titan XP").name == "TITAN Xp"
    assert family("ResNet-50").name == "imagenet"
    assert family("BERT_base_uncased").name == "bert"


def test_names_are_unique_among_aliases() -> None:
    called = [name for kind in map(family, families()) for name in (kind.name, *kind.aliases)]
    assert len(called) == len(set(called))


def test_an_unknown_name_lists_what_there_is_the_closest_first() -> None:
    with pytest.raises(InputError, match="unknown GPU type 'V10'; known: V100, "):
        gpu_type("V10")
    with pytest.raises(InputError, match="unknown model family 'imagnet'; known: imagenet, ") as error:
        family("imagnet")
    assert error.value.exit_code == 3


def test_a_faster_gpu_is_faster() -> None:
    times = [
        float(step_time(m.throughput, 1, 64, 1, m.throughput.clock_max_mhz, False))
        for m in (family_model("imagenet", card) for card in ("T4", "RTX6000", "V100", "A100", "H100"))
    ]
    assert times == sorted(times, reverse=True)


@pytest.mark.parametrize("card", gpu_types())
def test_clocks_are_supported_ones_from_half_to_full(card: str) -> None:
    kind, axes = gpu_type(card), axes_for(card, 8, [8, 1, 2, 2])
    np.testing.assert_array_equal(axes.gpu_counts, [1, 2, 8])
    clocks = axes.clocks_mhz
    assert len(clocks) == 7
    assert clocks[-1] == kind.clock_max_mhz
    assert np.all(np.diff(clocks) > 0)
    assert kind.clock_max_mhz / 2 <= clocks[0] <= 0.55 * kind.clock_max_mhz
    steps = (kind.clock_max_mhz - clocks) / kind.clock_step_mhz
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-6)
    np.testing.assert_array_equal(axes_for(card, 8, [1], clocks=1).clocks_mhz, [kind.clock_max_mhz])


@pytest.mark.parametrize(("per_node", "counts", "clocks"), [(0, [1], 7), (8, [], 7), (8, [0, 1], 7), (8, [1], 0)])
def test_impossible_axes_are_refused(per_node: int, counts: list[int], clocks: int) -> None:
    with pytest.raises(InputError):
        axes_for("V100", per_node, counts, clocks)


def test_every_entry_of_the_data_is_used() -> None:
    data = files("powerflow.cost").joinpath("data")
    fitted = tomllib.loads(data.joinpath("fitted.toml").read_text("utf-8"))
    assert set(fitted) == set(families())
