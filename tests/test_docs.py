"""The pages say what is there: links lead somewhere, and commands, options, files and modules exist."""

from __future__ import annotations

import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
from benchmarks import results_data

from powerflow.cli.main import COMMANDS, build_app

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src/powerflow"
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
#: Looks like a module, and is a group of entry points.
NO_MODULES = {"powerflow.policies"}

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


@cache
def text_of(page: Path) -> str:
    return page.read_text("utf-8")


def code_of(page: Path) -> list[str]:
    """Lines of code blocks, and what stands in backticks elsewhere."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text_of(page), re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^```.*?^```", "", text_of(page), flags=re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()] + re.findall(r"`([^`\n]+)`", prose)


@cache
def anchors_of(page: Path) -> set[str]:
    """Anchors as GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        path, _, anchor = target.partition("#")
        if "://" in path:
            continue
        there = (page.parent / path).resolve() if path else page
        if not there.exists() or (anchor and anchor not in anchors_of(there)):
            wrong.append(target)
    assert not wrong


def test_the_index_names_every_page() -> None:
    named = set(re.findall(r"\]\(([\w-]+\.md)", text_of(DOCS / "index.md")))
    assert {page.name for page in DOCS.glob("*.md")} - {"index.md"} == named


@each_page
def test_files_and_folders_exist(page: Path) -> None:
    everything = ["/" + str(path.relative_to(SOURCE)) for path in SOURCE.rglob("*") if "__pycache__" not in path.parts]
    wrong = []
    for code in code_of(page):
        for name in re.findall(r"(?<![\w./<>-])([a-z]\w*(?:/\w+)*(?:\.py|/))(?![\w.<])", code):
            known = (ROOT / name).exists() or any(path.endswith("/" + name.rstrip("/")) for path in everything)
            if not known and ("/" in name.rstrip("/") or name.endswith("/")):
                wrong.append(name)
    assert not wrong


@each_page
def test_modules_exist(page: Path) -> None:
    wrong = []
    for code in code_of(page):
        for name in re.findall(r"(?<![\w/])(?:powerflow|benchmarks)(?:\.\w+)+", code):
            if name not in NO_MODULES and not is_there(name):
                wrong.append(name)
        for name, imported in re.findall(r"^from (powerflow\S*) import (.+)$", code):
            wrong += [what for what in re.findall(r"\w+", imported) if not is_there(f"{name}.{what}")]
    assert not wrong


def is_there(name: str) -> bool:
    """Whether a dotted name is a module, or a name that one defines."""
    parts = name.split(".")
    at = SOURCE if parts[0] == "powerflow" else ROOT / "benchmarks"
    for i, part in enumerate(parts[1:], 1):
        if (at / part).is_dir():
            at /= part
            continue
        module = at / f"{part}.py"
        if module.exists():
            return i == len(parts) - 1 or defines(module, parts[i + 1])
        return i == len(parts) - 1 and (at / "__init__.py").exists() and defines(at / "__init__.py", part)
    return True


def defines(module: Path, name: str) -> bool:
    return re.search(rf"\b{name}\b", module.read_text("utf-8")) is not None


@each_page
def test_commands_exist(page: Path) -> None:
    wrong = []
    for code in code_of(page):
        if said := re.match(r"\s*(?:\$ )?powerflow ([^#>…(]+)", code):
            try:
                words = [word.rstrip(",;") for word in shlex.split(said[1].split(" | ")[0])]
                words = words[: words.index("--")] if "--" in words else words  # what follows is another command
            except ValueError:
                continue
            wrong += [f"{code.strip()}: {word}" for word in unknown(words)]
    assert not wrong


def unknown(words: list[str]) -> list[str]:
    """Those of a command's words that the command line does not know: commands and options."""
    if words[0].startswith("-"):
        return [word for word in words if word not in ("--help", "--version")]
    if words[0] not in {command.name for command in COMMANDS}:
        return words[:1]
    command = command_of(words[0])
    rest = words[1:]
    if hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        if rest[0] not in command.commands:
            return rest[:1]
        command, rest = command.commands[rest[0]], rest[1:]
    options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    return [word for word in rest if re.match(r"--?[a-z]", word) and word.partition("=")[0] not in options]


@cache
def command_of(name: str) -> Any:
    whole: Any = typer.main.get_command(build_app([name]))
    return whole.commands[name]


def test_the_architecture_names_every_room() -> None:
    rooms = {path.name for path in SOURCE.iterdir() if path.is_dir() and (path / "__init__.py").exists()}
    rooms |= {path.stem for path in SOURCE.glob("*.py")} - {"__init__", "__main__"}
    assert not {room for room in rooms if not re.search(rf"`{room}/?`", text_of(DOCS / "architecture.md"))}


def test_results_show_what_their_data_files_say() -> None:
    rows = results_data.read(DOCS / "results")
    page = text_of(DOCS / "results.md")
    assert results_data.completion_table(rows) in page
    assert results_data.belief_table(rows) in page
    for name, columns in results_data.COLUMNS.items():
        assert results_data.to_csv(name, rows[name]) == (DOCS / f"results/{name}.csv").read_text("utf-8")
        assert set(rows[name][0]) == set(columns)
