"""The server opens public addresses alone for somebody else, however the others are written."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from models.sources.addresses import all_may_be_opened, may_open, read_address

PUBLIC = ["93.184.216.34", "8.8.8.8", "2606:2800:220:1::1", "::ffff:8.8.8.8"]
NOT_PUBLIC = [
    "127.0.0.1", "127.1.2.3", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1",
    "192.0.0.1", "198.18.0.1", "192.88.99.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "::1", "::", "fe80::1",
    "fe80::1%eth0", "fec0::1", "fc00::1", "fd12::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1",
    "::ffff:0:127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b:1::7f00:1", "64:ff9b:1:ffff::1", "2002:7f00::",
    "2001:0:7f00:1::1", "2001:db8::1", "100::1", "5f00::1", "127.1", "0x7f.1", "0177.0.0.1", "2130706433", "0x7f000001",
    "017700000001", "10.1", "0", "0xa9fea9fe",
]  # fmt: skip


@pytest.mark.parametrize("text", PUBLIC)
def test_public_addresses_may_be_opened(text: str) -> None:
    address = read_address(text)
    assert address is not None
    assert may_open(address)


@pytest.mark.parametrize("text", NOT_PUBLIC)
def test_other_addresses_may_not_be_opened_however_they_are_written(text: str) -> None:
    address = read_address(text)
    assert address is not None
    assert not may_open(address)
    assert not all_may_be_opened(["93.184.216.34", text])


@pytest.mark.parametrize(
    "text", ["example.com", "127.0.0.1.example.com", "x", "0x7f.example", "1.2.3.4.5", "256.1.1.1"]
)
def test_a_name_is_no_address(text: str) -> None:
    assert read_address(text) is None


def test_a_network_that_the_operator_allows_may_be_opened_in_each_of_its_spellings() -> None:
    allowed = [ip_network("127.0.0.0/8")]
    for text in ("127.0.0.1", "2130706433", "::ffff:127.0.0.1"):
        address = read_address(text)
        assert address is not None
        assert may_open(address, allowed)


def test_a_name_without_an_address_may_not_be_opened() -> None:
    assert not all_may_be_opened([])
