"""Create policies by name: ``"srtf"``, ``"greedy:0.3"``, ``"srtf+clock:1005"``, or a policy of another package.

A policy is described by a text of the form ``name[:options][+overlay:value]``. An overlay sets clocks on top of the
policy. Options are one value for the policy's first parameter, or ``key=value`` pairs separated by commas. A value is a
number, ``true``/``false``, or ``number/number/…``. Other packages add policies by the entry-point group
``powerflow.policies`` (`GROUP`): each entry names a class or function that returns an object with the attributes of
`Policy`.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable
from functools import partial
from importlib.metadata import EntryPoint, entry_points

from powerflow.errors import InputError
from powerflow.policy.protocol import Policy

GROUP = "powerflow.policies"

#: Import paths; a module is imported only when its policy is used.
BUILT_IN = {
    "prices": "powerflow.policy.prices:Prices",
    "greedy": "powerflow.policy.greedy:Greedy",
    "fifo": "powerflow.policy.fifo:Fifo",
    "srtf": "powerflow.policy.srtf:Srtf",
    "qssf": "powerflow.policy.qssf:Qssf",
    "tiresias": "powerflow.policy.tiresias:Tiresias",
    "gandiva": "powerflow.policy.gandiva:Gandiva",
    "afs": "powerflow.policy.afs:Afs",
    "optimus": "powerflow.policy.optimus:Optimus",
    "pollux": "powerflow.policy.pollux:Pollux",
}

OVERLAYS = {
    "clock": "powerflow.policy.overlay:FixedClock",
    "zeus": "powerflow.policy.overlay:ZeusClock",
}

Option = bool | int | float | tuple[float, ...]


def names() -> tuple[str, ...]:
    """Return the names of all policies that `load` can create: first PowerFlow's, then those of installed packages."""
    return (*BUILT_IN, *sorted({entry.name for entry in entry_points(group=GROUP)} - BUILT_IN.keys()))


def load(spec: str) -> Policy:
    """Return a new policy, described by a text such as ``"srtf"``, ``"greedy:0.3"`` or ``"srtf+clock:1005"``.

    Args:
        spec: ``name[:options][+overlay:value]``; an overlay (``clock`` or ``zeus``) sets clocks on top of the policy.

    Raises:
        InputError: The name, an option or the overlay is unknown or malformed, or the policy is from another package
            and cannot be used.
    """
    base, *overlays = spec.strip().split("+")
    name, _, options = base.partition(":")
    policy = _checked(_make(_factory(name, spec), options, name, spec), name)
    if len(overlays) > 1:
        raise InputError("more than one clock overlay", where=f"policy {spec!r}", fix="give either +clock:… or +zeus:…")
    for overlay in overlays:
        kind, _, value = overlay.partition(":")
        if kind not in OVERLAYS:
            raise _unknown("overlay", kind, tuple(OVERLAYS), spec)
        if not value or "=" in value:
            raise InputError(f"overlay {kind!r} needs a value", where=f"policy {spec!r}", fix=f"write +{kind}:0.7")
        factory = _resolve(OVERLAYS[kind])
        policy = _checked(_make(partial(factory, policy), value, kind, spec), spec)
    return policy


def _resolve(target: str) -> Callable[..., object]:
    module, _, attribute = target.partition(":")
    factory: Callable[..., object] = getattr(importlib.import_module(module), attribute)
    return factory


def _factory(name: str, spec: str) -> Callable[..., object]:
    if name in BUILT_IN:
        return _resolve(BUILT_IN[name])
    entries = [entry for entry in entry_points(group=GROUP) if entry.name == name]
    if not entries:
        raise _unknown("policy", name, names(), spec)
    if len({entry.value for entry in entries}) > 1:
        packages = " and ".join(sorted({_package(entry) for entry in entries}))
        raise InputError(f"policy {name!r} is defined by {packages}", fix="uninstall all but one of them", exit_code=1)
    try:
        factory = entries[0].load()
    except Exception as error:
        raise _broken(name, f"cannot be imported from {entries[0].value}: {_said(error)}") from error
    if not callable(factory):
        raise _broken(name, f"{entries[0].value} is not a class or function that makes a policy")
    made: Callable[..., object] = factory
    return made


def _make(factory: Callable[..., object], options: str, name: str, spec: str) -> object:
    """Return what ``factory`` makes with the given options; every error becomes an `InputError` of one line."""
    where = f"policy {spec!r}"
    unfit = f"{name!r} does not take these options"
    bare: list[Option] = []
    keyed: dict[str, Option] = {}
    for part in options.split(",") if options else ():
        key, equals, value = part.partition("=")
        if equals:
            keyed[key.strip().replace("-", "_")] = _value(value, where)
        else:
            bare.append(_value(part, where))
    try:
        signature = inspect.signature(factory)
        signature.bind(*bare, **keyed)
    except TypeError as error:
        known = ", ".join(signature.parameters) or "none"
        raise InputError(f"{unfit} ({error})", where=where, fix=f"its options: {known}") from error
    try:
        return factory(*bare, **keyed)
    except InputError as error:
        raise InputError(error.what, where=where, fix=error.fix, exit_code=error.exit_code) from error
    except Exception as error:
        if options and isinstance(error, TypeError | ValueError):
            raise InputError(f"{unfit} ({_said(error)})", where=where) from error
        raise _broken(name, f"cannot be created: {_said(error)}") from error


def _value(text: str, where: str) -> Option:
    text = text.strip()
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        if "/" in text:
            return tuple(float(part) for part in text.split("/"))
        return int(text) if text.lstrip("+-").isdigit() else float(text)
    except ValueError:
        raise InputError(
            f"{text!r} is not an option's value", where=where, fix="give a number, true or false"
        ) from None


def _checked(made: object, name: str) -> Policy:
    """Return the object ``made`` if it has all attributes of a policy; raise `InputError` otherwise."""
    if not isinstance(made, Policy):
        missing = [part for part in ("name", "needs_sizes", "period_s", "decide") if not hasattr(made, part)]
        raise _broken(name, f"does not satisfy the Policy protocol: it has no {', no '.join(missing)}")
    period = made.period_s
    wrong = (
        (not isinstance(made.name, str) or not made.name, "name is not a word"),
        (not isinstance(made.needs_sizes, bool), "needs_sizes is not true or false"),
        (period is not None and not (isinstance(period, int | float) and period > 0), "period_s is not None or > 0"),
        (not callable(made.decide), "decide is not a method"),
    )
    for is_wrong, why in wrong:
        if is_wrong:
            raise _broken(name, f"does not satisfy the Policy protocol: {why}")
    return made


def _unknown(what: str, name: str, known: tuple[str, ...], spec: str) -> InputError:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
    where = f"policy {spec!r}" if spec != name else ""
    return InputError(f"unknown {what} {name!r}", where=where, fix=hint)


def _broken(name: str, why: str) -> InputError:
    return InputError(f"policy {name!r} {why}", fix="repair or uninstall the package it comes from", exit_code=1)


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else entry.value


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
