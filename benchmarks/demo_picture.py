"""Draws the README's picture of the demo: the live table as it stood fifty seconds into a real run.

``python -m benchmarks.demo_picture docs/images/demo.svg`` runs the demo for it.
"""

from __future__ import annotations

import io
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from powerflow.api.records import Top
from powerflow.cli.cluster.top import draw
from powerflow.cli.demo import cluster, run_jobs
from powerflow.demo.jobs import arrivals

AFTER_S = 50.0
WIDTH = 128


def picture(top: Top) -> str:
    """The cluster as an SVG that fetches nothing: any fixed-width font will do."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(draw(top, WIDTH))
    svg = console.export_svg(title="powerflow demo")
    return re.sub(r"<!--.*?-->|@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL).replace("Fira Code, ", "")


def main() -> None:
    directory = Path(tempfile.mkdtemp(prefix="powerflow-demo-"))
    began_s, drawn = time.monotonic(), ""

    def see(top: Top, coming: int) -> None:
        nonlocal drawn
        if not drawn and time.monotonic() - began_s >= AFTER_S:
            drawn = picture(top)

    try:
        with cluster(directory) as live:
            run_jobs(live, arrivals(), see)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    Path(sys.argv[1]).write_text(drawn, encoding="utf-8")


if __name__ == "__main__":
    main()
