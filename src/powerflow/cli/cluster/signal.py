"""``powerflow signal``: set and show the cost and the emissions of a kWh over time."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from powerflow.api import operations as ops
from powerflow.api.governance import SignalKind, SignalOrder, SignalRecord
from powerflow.cli.cluster.client import ControllerClient
from powerflow.cli.cluster.controller_command import Watch, asks, say
from powerflow.cli.options import Json
from powerflow.cli.sanitize import line
from powerflow.cli.show import show
from powerflow.cli.when import stamp
from powerflow.energy.kinds import CURRENCY, Kind, unit_of
from powerflow.errors import InputError
from powerflow.units import parse_length, prose

if TYPE_CHECKING:
    from rich.console import RenderableType

#: A request body has at most 1 MiB; this leaves room for escapes in the JSON text.
MOST_BYTES = 900_000

app = typer.Typer(rich_markup_mode=None)


Which = Annotated[Kind, typer.Argument(metavar="KIND", help="tariff: money per kWh; carbon: g CO2 per kWh.")]


@asks
def set_signal(
    controller: ControllerClient,
    kind: Which,
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="CSV file, http address of a CSV, or one number for all times.")
    ],
    fallback: Annotated[
        float | None, typer.Option(help="Value for times without data. Default: the mean of the series.")
    ] = None,
    max_age: Annotated[str, typer.Option(help="Time for which a value is valid.")] = "2h",
    weight: Annotated[
        float,
        typer.Option(
            min=0.0, max=1000.0, help="Weight of this signal in the energy price. With 0, only accounts use the signal."
        ),
    ] = 1.0,
    currency: Annotated[str, typer.Option(help="Currency of a tariff, such as EUR, for what jobs cost.")] = "",
    json: Json = False,
) -> None:
    """Set how much a kWh costs or emits over time. The energy price follows the signal, and accounts use it."""
    if fallback is not None:
        _finite(fallback, "--fallback")
    if not re.fullmatch(CURRENCY, currency):
        raise InputError(f"{currency!r} is not a currency", where="--currency", fix="give its three letters, as EUR")
    url, number = source if source.startswith(("http://", "https://")) else None, _number(source)
    text = _text(source) if url is None and number is None else None
    max_age_s = parse_length(max_age, "--max-age")
    order = SignalOrder(kind, text, url, number, source, fallback, max_age_s, weight, currency)
    signal = controller.ask(ops.SET_SIGNAL, order)
    why = f" ({line(signal.fell_back)})" if signal.fell_back else ""
    say("signal", {"signal": signal}, f"{signal.kind}: {_value(signal)} now, from {line(signal.source)}{why}", json)
    if not json and weight and not controller.ask(ops.TOP).energy_price:
        print("the energy price is 0 now: until a budget sets a price, the signal is used in accounts only")


@asks
def show_signals(controller: ControllerClient, json: Json = False, watch: Watch = None) -> None:
    """Show signals, and their present values."""
    show("signals", lambda: controller.ask(ops.SIGNALS).items, _draw, json=json, every_s=watch)


@asks
def drop(controller: ControllerClient, kind: Which, json: Json = False) -> None:
    """Remove a signal."""
    gone = controller.ask(ops.DROP_SIGNAL, SignalKind(kind))
    say("signal", {"signal": gone}, f"there is no {gone.kind} signal any more", json)


app.command("set")(set_signal)
app.command("show")(show_signals)
app.command("drop")(drop)


def _number(text: str) -> float | None:
    """Return the number that the source of a signal is; None if the source is a file.

    Raises:
        InputError: The number is not finite.
    """
    try:
        value = float(text)
    except ValueError:
        return None
    return _finite(value, "SOURCE")


def _finite(value: float, where: str) -> float:
    if not math.isfinite(value):
        raise InputError(f"{value:g} is not a valid value", where=where, fix="give a number")
    return value


def _text(path: str) -> str:
    if Path(path).exists() and not Path(path).is_file():
        raise InputError("is no file", where=path, fix="give a CSV file, an address that begins with http, or a number")
    try:
        if Path(path).stat().st_size > MOST_BYTES:
            raise InputError(f"has more than {MOST_BYTES} bytes", where=path, fix="remove old values")
        return Path(path).read_text("utf-8")
    except OSError as error:
        fix = "give a CSV file, an address that begins with http, or a number"
        code = 3 if isinstance(error, FileNotFoundError) else 2
        raise InputError(f"cannot be read ({error.strerror})", where=path, fix=fix, exit_code=code) from error
    except UnicodeDecodeError as error:
        raise InputError("is not text in UTF-8", where=path) from error


def _value(signal: SignalRecord) -> str:
    return f"{prose(signal.value, 4)} {unit_of(signal.kind, signal.currency)}"


def _draw(signals: Sequence[SignalRecord], width: int) -> RenderableType:
    from rich.text import Text

    from powerflow.cli.cluster.job_table import plain

    if not signals:
        return Text("no signals")
    heads = ("signal", "now", "mean of a week", "weight", "known until", "source", "note")
    table = plain(*heads, left=("signal", "now", "known until", "source", "note"), wraps=heads)
    for signal in signals:
        table.add_row(
            signal.kind,
            _value(signal),
            prose(signal.mean, 4),
            prose(signal.weight, 4),
            "always" if signal.until_s is None else stamp(signal.until_s),
            signal.source,
            signal.fell_back,
        )
    return table
