"""An address is the connection's, unless a proxy that was named says more."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from powerflow.errors import InputError
from powerflow.service.peers import origin, trusted_proxies

TRUSTED = trusted_proxies(["10.0.0.0/24", "fd00::7"])


@pytest.mark.parametrize(
    ("peer", "forwarded", "said"),
    [
        ("192.0.2.1", [], "192.0.2.1"),
        ("192.0.2.1", ["203.0.113.66"], "192.0.2.1"),
        ("10.0.0.7", [], "10.0.0.7"),
        ("10.0.0.7", ["203.0.113.66"], "203.0.113.66 through 10.0.0.7"),
        ("10.0.0.7", ["8.8.8.8, 203.0.113.66"], "203.0.113.66 through 10.0.0.7"),
        ("10.0.0.7", ["8.8.8.8", "203.0.113.66"], "203.0.113.66 through 10.0.0.7"),
        ("10.0.0.7", ["203.0.113.66, 10.0.0.9"], "203.0.113.66 through 10.0.0.7"),
        ("10.0.0.7", ["<script>alert(1)</script>"], "10.0.0.7"),
        ("10.0.0.7", ["<script>, 10.0.0.9"], "10.0.0.9 through 10.0.0.7"),
        ("10.0.0.7", ["203.0.113.66:4711"], "203.0.113.66 through 10.0.0.7"),
        ("fd00::7", ["[2001:db8::1]:4711"], "2001:db8::1 through fd00::7"),
        ("::ffff:10.0.0.7", ["2001:db8::1"], "2001:db8::1 through ::ffff:10.0.0.7"),
        ("", ["203.0.113.66"], ""),
    ],
)
def test_only_named_proxies_are_believed(peer: str, forwarded: list[str], said: str) -> None:
    assert origin(peer, forwarded, TRUSTED) == said


@given(st.lists(st.text(max_size=200), max_size=5))
def test_nobody_who_is_no_proxy_changes_their_address(forwarded: list[str]) -> None:
    assert origin("192.0.2.1", forwarded, TRUSTED) == "192.0.2.1"
    assert origin("127.0.0.1", forwarded, ()) == "127.0.0.1"


@pytest.mark.parametrize("text", ["", "proxy.example", "10.0.0.0/33", "10.0.0"])
def test_what_is_no_address_is_refused_in_a_line(text: str) -> None:
    with pytest.raises(InputError, match=r"--trusted-proxy: .* is not an address; give an address such as"):
        trusted_proxies([text])
