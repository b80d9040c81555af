"""Provide tools for tests of PowerFlow and of other engines: conformance tests, fakes, and checks of invariants."""
