from __future__ import annotations

import pytest

from powerflow.energy.amount import Amount, parse_amount
from powerflow.errors import InputError


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("80%", Amount(0.8, relative=True)),
        (" 62.5 % ", Amount(0.625, relative=True)),
        ("300kWh", Amount(300 * 3.6e6, relative=False)),
        ("1.2 MWh", Amount(1.2 * 3.6e9, relative=False)),
        ("5e8J", Amount(5e8, relative=False)),
        ("2gj", Amount(2e9, relative=False)),
    ],
)
def test_reads_what_people_write(text: str, amount: Amount) -> None:
    read = parse_amount(text)
    assert read.value == pytest.approx(amount.value, rel=1e-12)
    assert read.relative == amount.relative


@pytest.mark.parametrize("text", ["", "80", "kWh", "80 parsecs", "1..2kWh", "--80%", "80%%", "nan%", "1e999kWh"])
def test_refuses_what_is_no_amount(text: str) -> None:
    with pytest.raises(InputError, match="--energy"):
        parse_amount(text)


@pytest.mark.parametrize("text", ["0%", "-5kWh", "1e999kWh"])
def test_refuses_nothing_and_less(text: str) -> None:
    with pytest.raises(InputError, match="more than nothing"):
        parse_amount(text)
