"""Describe what people and PowerFlow have done in one sentence, the same in the audit and among the events."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from powerflow.units import duration, energy, kwh, power, prose

#: First word of the actions on GPU clocks. There are many, so lists leave them out unless they are asked for.
CLOCK = "clock"


def said(action: str, target: str, user: str, fields: Mapping[str, Any]) -> str:
    """Return an entry of the audit in one sentence, such as ``cap 3 on cluster set by ops: 60 kW until it is lifted``.

    Args:
        action, target, user, fields: As in `powerflow.api.governance.AuditRecord`.
    """
    what = _WHAT.get(action, f"{target}: {action}" if target else action)
    known = {**fields, "target": target, "whose": _whose(target)}
    known["cap"] = f"cap {fields['number']}" if "number" in fields else "cap"
    done = what.format_map(_Known(known))
    more = _more(action, fields)
    return f"{done}{f' by {user}' if user else ''}{f': {more}' if more else ''}"


#: What was done, by action. Names in braces are fields of the entry.
_WHAT = {
    "job submitted": "submitted",
    "job cancelled": "cancelled",
    "job updated": "changed",
    "job held": "held",
    "job released": "released",
    "job shell opened": "shell beside rank {rank} opened",
    "job shell ended": "end of the shell beside rank {rank}, opened",
    "node drained": "{target} set to drain",
    "node up": "{target} put back into use",
    "node failed": "{target} failed",
    "node declare-off": "{target} declared off",
    "cap set": "{cap} on {target} set",
    "cap lifted": "{cap} on {target} lifted",
    "budget set": "budget of {whose} set",
    "budget dropped": "budget of {whose} dropped",
    "share set": "share of {target} set to {share}",
    "signal set": "{target} signal set",
    "signal dropped": "{target} signal dropped",
    "mode set": "stage of {target} set to {stage}",
    "clock set": "clock of {target} set to {clock_mhz}",
    "clock asked": "clock of {target} set to {clock_mhz}, but it runs at {read_mhz}",
    "clock back": "clock of {target} reset",
    "token created": "token of {target} created",
    "token revoked": "token of {target} revoked",
    "authentication failed": "authentication failed {times} times",
}


def _more(action: str, fields: Mapping[str, Any]) -> str:
    """Return the rest of what is known of an act, after the colon."""
    match action:
        case "job submitted":
            gpus = f"{fields.get('gpus')} GPU{'' if fields.get('gpus') == '1' else 's'}"
            project = f"project {fields['project']}" if fields.get("project") else ""
            return ", ".join(word for word in (fields.get("name"), gpus, project) if word)
        case "job updated":
            return ", ".join(f"{_name(key)} {_value(key, value)}" for key, value in fields.items() if key != "owner")
        case "job cancelled" | "job held" | "job released" | "clock set" | "clock asked" | "clock back" | "share set":
            return ""
        case "job shell opened":
            return str(fields.get("command", ""))
        case "job shell ended":
            return str(fields.get("why", ""))
        case "node drained" | "node up" | "node declare-off":
            return str(fields.get("reason", ""))
        case "mode set":
            return str(fields.get("why", ""))
        case "cap set":
            return _cap(fields)
        case "budget set":
            zone = f" ({fields['zone']})" if "zone" in fields else ""
            amount_j = fields.get("amount_j")
            if isinstance(amount_j, int | float) and not isinstance(amount_j, bool):
                amount = kwh(amount_j)
            else:
                amount = _value("amount_j", amount_j)
            return f"{amount} a {fields.get('period', '?')}{zone}" if "amount_j" in fields else ""
        case "cap lifted" | "budget dropped" | "authentication failed":
            return ""
        case _:
            return ", ".join(f"{_name(key)} {_value(key, value)}" for key, value in fields.items() if value != "")


def _cap(fields: Mapping[str, Any]) -> str:
    parts = [_value("power_w", fields["watts"])] if "watts" in fields else []
    parts += [
        f"{word} {_value(key, fields[key])}"
        for key, word in (("start_s", "from"), ("end_s", "until"), ("deadline_s", "met by"), ("ramp_w_per_s", "ramp"))
        if fields.get(key) is not None
    ]
    if "end_s" in fields and fields["end_s"] is None:
        parts.append("until it is lifted")
    return " ".join(parts)


class _Known(dict[str, Any]):
    """The fields of an entry as text; a field that is missing is shown as unknown."""

    def __getitem__(self, key: str) -> str:
        return _value(key, super().__getitem__(key)) if key in self else "?"


def _whose(target: str) -> str:
    return "the cluster" if target == "cluster" else f"project {target}"


def _name(key: str) -> str:
    for unit in ("_w_per_s", "_mhz", "_j", "_w", "_s"):
        key = key.removesuffix(unit)
    return key.replace("_", " ")


def _value(key: str, value: object) -> str:
    """Format a field of an entry; its name ends with its unit."""
    if value is None:
        return "none"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if key in ("start_s", "end_s", "deadline_s"):
        return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(value))
    for unit, write in _UNITS:
        if key.endswith(unit):
            return write(float(value))
    return str(value) if isinstance(value, int) else prose(value)


_UNITS = (
    ("_w_per_s", lambda value: f"{power(value)}/s"),
    ("_mhz", lambda value: f"{value:.0f} MHz"),
    ("_j", energy),
    ("_w", power),
    ("_s", duration),
)
