"""The embedded engine passes what any engine must pass, with and without a preloaded interpreter's modules."""

from powerflow.engine.conformance_process import ProcessConformance


class TestLocalEngine(ProcessConformance):
    """`place` comes from conftest."""
