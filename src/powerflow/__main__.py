"""``python -m powerflow`` is the ``powerflow`` program."""

from powerflow.cli.main import run

run()
