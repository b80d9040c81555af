"""Conformance suites, fakes and invariants, for the tests of PowerFlow and of other engines."""
