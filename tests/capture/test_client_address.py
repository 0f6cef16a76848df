"""Addresses through proxies: right to left, trusted by configuration only, and never an exception."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_middleware.capture.client_address import AddressResolver, parse_address


def resolve(peer="10.0.0.1", *, xff=None, forwarded=None, trusted=("10.0.0.0/8",), port=1234, header="auto"):
    def encode(text):
        return text.encode("latin-1") if text is not None else None

    found = AddressResolver(trusted, header).source(peer, port, forwarded_for=encode(xff), forwarded=encode(forwarded))
    return found[:2]


def test_nothing_is_trusted_by_default():
    assert resolve(xff="6.6.6.6", trusted=()) == ("10.0.0.1", "peer")


def test_a_peer_that_is_not_trusted_cannot_name_another_address():
    assert resolve("203.0.113.9", xff="6.6.6.6") == ("203.0.113.9", "peer")


def test_the_first_hop_from_the_right_that_is_not_trusted_is_the_client():
    assert resolve(xff="6.6.6.6, 203.0.113.7, 10.0.0.5") == ("203.0.113.7", "forwarded")


def test_a_forged_left_most_address_is_ignored():
    assert resolve(xff="127.0.0.1, 203.0.113.7")[0] == "203.0.113.7"


def test_when_every_hop_is_trusted_the_left_most_stands():
    assert resolve(xff="10.9.9.9, 10.0.0.5") == ("10.9.9.9", "forwarded")


@pytest.mark.parametrize(
    "hop", ["unknown", "", "_hidden", 'evil"}', "1.2.3", "1.2.3.4.5", "::g", "999.1.1.1", "a" * 70_000]
)
def test_a_hop_that_cannot_be_read_ends_what_can_be_known(hop):
    assert resolve(xff=f"{hop}, 10.0.0.5") == ("10.0.0.5", "unknown")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("203.0.113.7:4711", "203.0.113.7"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        (" 203.0.113.7 ", "203.0.113.7"),
    ],
)
def test_ports_brackets_and_mapped_addresses_are_read(text, expected):
    assert str(parse_address(text)) == expected


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("for=203.0.113.7", "203.0.113.7"),
        ('For="[2001:db8::1]:4711";proto=https;by=10.0.0.1', "2001:db8::1"),
        ("for=6.6.6.6, for=203.0.113.7;by=10.0.0.2, for=10.0.0.5", "203.0.113.7"),
        ('proto=http;for="203.0.113.7:80"', "203.0.113.7"),
    ],
)
def test_rfc7239_section_4_forwarded_is_read(header, expected):
    assert resolve(forwarded=header) == (expected, "forwarded")


@pytest.mark.parametrize(
    "header", ["for=_secret", "for=unknown", "proto=https", 'for="', ";;;", ",,,", "for=", 'for="1.2.3.4']
)
def test_rfc7239_section_6_obfuscated_or_broken_identifiers_are_unknown(header):
    assert resolve(forwarded=header) == ("10.0.0.1", "unknown")


def test_two_headers_that_disagree_are_not_believed_unless_one_is_named():
    """A proxy passes on the header it does not write as the client sent it."""
    both = {"xff": "203.0.113.7", "forwarded": "for=6.6.6.6"}
    assert resolve(**both) == ("10.0.0.1", "unknown")
    assert resolve(**both, header="X-Forwarded-For") == ("203.0.113.7", "forwarded")
    assert resolve(**both, header="Forwarded") == ("6.6.6.6", "forwarded")
    assert resolve(xff="203.0.113.7", forwarded="for=203.0.113.7") == ("203.0.113.7", "forwarded")


def test_an_address_the_server_rewrote_is_not_believed_with_trusted_proxies_either():
    assert resolve("6.6.6.6", xff="6.6.6.6", trusted=("6.0.0.0/8",), port=0) == ("6.6.6.6", "unknown")


def test_a_quote_that_is_never_closed_hides_nothing_behind_it():
    assert resolve(forwarded='for="6.6.6.6, for=203.0.113.7') == ("203.0.113.7", "forwarded")


def test_a_header_made_to_be_slow_costs_little():
    began = time.perf_counter()
    for hostile in ('"\\' * 16000, '"' * 4096, ';for="' * 600, "," * 4096, " " * 4096):
        resolve(forwarded=hostile)
        resolve(xff=hostile)
    assert time.perf_counter() - began < 1


def test_a_zone_of_an_address_is_left_out():
    assert resolve(xff=f"fe80::1%{'A' * 3000}") == ("fe80::1", "forwarded")


def test_an_address_the_server_rewrote_from_a_header_is_not_believed():
    """uvicorn does that by default, and shows it by port 0."""
    assert resolve("6.6.6.6", xff="6.6.6.6", trusted=(), port=0) == ("6.6.6.6", "unknown")


def test_no_peer_at_all_is_unknown():
    assert resolve(None) == ("unknown", "unknown")
    assert resolve("/run/app.sock") == ("/run/app.sock", "unknown")


def test_a_wrong_network_is_refused_at_start_up():
    with pytest.raises(ValueError, match="not-a-network"):
        AddressResolver(["not-a-network"])


def test_the_cache_answers_as_the_first_look_did_and_stays_bounded():
    resolver = AddressResolver(["10.0.0.0/8"])
    for number in range(3000):
        header = f"203.0.113.{number % 256}, 10.{number % 200}.0.5".encode()
        once = resolver.source("10.0.0.1", 1, forwarded_for=header, forwarded=None)
        assert resolver.source("10.0.0.1", 1, forwarded_for=header, forwarded=None) == once
    assert len(resolver._cache) <= 1024


@given(st.text(st.characters(codec="latin-1")), st.text(st.characters(codec="latin-1")), st.text())
def test_no_header_ever_raises(xff, forwarded, peer):
    ip, verdict = resolve(peer, xff=xff or None, forwarded=forwarded or None)
    assert verdict in {"peer", "forwarded", "unknown"}
    assert ip
