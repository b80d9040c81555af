"""Conformance suites, fakes and checks of invariants, for tests of PowerFlow and of other engines."""
