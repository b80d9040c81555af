"""The live page's script: built once for its sources, small, and never a reason for an installation to fail."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
MOST_BYTES = 60_000


@pytest.fixture(scope="module")
def hook() -> ModuleType:
    spec = spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec
    assert spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tree(tmp_path: Path, hook: ModuleType) -> Path:
    """A checkout whose live page was built: with what counts for the build, and results of another content."""
    shutil.copytree(ROOT / "web", tmp_path / "web", ignore=shutil.ignore_patterns("node_modules"))
    folder = hook.static(tmp_path)
    folder.mkdir(parents=True)
    (folder / "live.js").write_bytes(hook._mark(tmp_path) + b"built();")
    (folder / "live.css").write_text("")
    (folder / "live.txt").write_text("")
    return tmp_path


def test_what_was_built_of_the_present_sources_is_not_built_again_and_needs_no_node(
    tree: Path, hook: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    assert hook.build(tree) == ""
    assert (hook.static(tree) / "live.js").read_bytes().endswith(b"built();")


def test_without_node_or_with_an_old_one_an_installation_goes_on_without_the_page(
    tree: Path, hook: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was built of older sources is removed: it would speak of other things than the service."""
    old = tree / "bin"
    old.mkdir()
    for name in ("node", "npm"):
        (old / name).write_text("#!/bin/sh\necho v16.1.0\n")
        (old / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(old))
    assert not hook.has_node()
    with (tree / "web" / "src" / "main.tsx").open("a") as file:
        file.write("// changed\n")
    assert not hook.is_built(tree)
    assert "no Node" in hook.build(tree)
    assert not list(hook.static(tree).glob("live.*"))


def test_where_npm_fails_the_reason_is_said_in_one_line(
    tree: Path, hook: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tree / "bin"
    folder.mkdir()
    (folder / "node").write_text("#!/bin/sh\necho v20.1.0\n")
    (folder / "npm").write_text("#!/bin/sh\necho npm error code ECONNREFUSED >&2\necho more >&2\nexit 1\n")
    for name in ("node", "npm"):
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/bin:/usr/bin")
    (hook.static(tree) / "live.css").unlink()
    assert hook.build(tree) == "CalledProcessError: npm error code ECONNREFUSED more"


def test_packages_are_pinned_and_no_registry_is_named() -> None:
    wanted = json.loads((ROOT / "web/package.json").read_text())
    versions = [*wanted["dependencies"].values(), *wanted["devDependencies"].values()]
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in versions)
    locked = json.loads((ROOT / "web/package-lock.json").read_text())["packages"]
    assert not [name for name, package in locked.items() if "resolved" in package]
    assert [name for name, package in locked.items() if name and "integrity" not in package] == []


def test_the_script_is_small_and_names_no_other_host(hook: ModuleType) -> None:
    if not hook.is_built(ROOT):
        pytest.skip("the live page was not built: make test builds it where npm's registry can be reached")
    script = (hook.static(ROOT) / "live.js").read_bytes()
    style = (hook.static(ROOT) / "live.css").read_bytes()
    assert len(gzip.compress(script)) + len(gzip.compress(style)) <= MOST_BYTES
    hosts = set(re.findall(rb"https?://([\w.-]+)", script + style))
    assert hosts <= {b"www.w3.org", b"github.com"}, "names of formats, and of a library's home in its licence comment"
    assert b"eval(" not in script
