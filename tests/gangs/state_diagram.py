"""Write what `docs/gangs.md` shows of a gang's states, from their table: ``python -m tests.gangs.state_diagram``."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from powerflow.gangs.machine import TABLE, GangState, Trigger

PAGE = Path(__file__).parents[2] / "docs" / "gangs.md"
#: From nearly every state: they would hide the others in the picture, and stand in the table below it.
ASKED = (Trigger.DESIRED, Trigger.KILL, Trigger.FAILURE)


def diagram() -> str:
    """Return the table as a Mermaid state diagram, without what the controller asks for."""
    labels: defaultdict[tuple[GangState, GangState], list[str]] = defaultdict(list)
    for (state, trigger), after in TABLE.items():
        if trigger not in ASKED:
            labels[state, after.state].append(trigger.value + (f" / {after.action.value}" if after.action else ""))
    lines = ["stateDiagram-v2", f"    [*] --> {GangState.ADOPTED.value}"]
    for (state, after_state), texts in labels.items():
        lines.append(f"    {state.value} --> {after_state.value}: {'<br>'.join(texts)}")
    return "\n".join(["```mermaid", *lines, "```"])


def asked() -> str:
    """Return the transitions that the controller asks for, as a table."""
    lines = ["| state | " + " | ".join(trigger.value for trigger in ASKED) + " |", "|---|" + "---|" * len(ASKED)]
    for state in GangState:
        after = [TABLE[state, trigger].state for trigger in ASKED]
        lines.append(f"| {state.value} | " + " | ".join("–" if a is state else a.value for a in after) + " |")
    return "\n".join(lines)


def states() -> str:
    """Return what each state means, as its comment in the source says."""
    source = (Path(__file__).parents[2] / "src/powerflow/gangs/machine.py").read_text("utf-8")
    meaning = dict(re.findall(r'^    [A-Z]+ = "([a-z]+)"  # (.+)$', source, re.MULTILINE))
    return "\n".join(
        ["| state | |", "|---|---|", *(f"| {state.value} | {meaning[state.value]} |" for state in GangState)]
    )


def written(page: str) -> str:
    """Return the page with its parts between ``<!-- NAME -->`` and ``<!-- end -->`` made from the table."""
    for make in (states, diagram, asked):
        part = re.compile(rf"(<!-- {make.__name__} -->\n).*?(<!-- end -->)", re.DOTALL)
        text = make()
        page, found = part.subn(lambda match, text=text: f"{match[1]}\n{text}\n\n{match[2]}", page)  # type: ignore[misc]
        assert found == 1, f"{PAGE} has no part for {make.__name__}"
    return page


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text("utf-8")), "utf-8")
