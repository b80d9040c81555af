"""Run the ``powerflow`` program by ``python -m powerflow``."""

from powerflow.cli.main import run

run()
