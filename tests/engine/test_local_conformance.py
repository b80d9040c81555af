"""The embedded engine passes what any engine must pass, with and without a preloaded interpreter's modules."""

from powerflow.testing.engine_conformance_process import ProcessConformance


class TestLocalEngine(ProcessConformance):
    """`place` comes from conftest."""
