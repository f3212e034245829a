"""Addresses against IANA's registries, block by block, and against Python's own tables."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import pytest

from ume_core.addresses import is_public

# Every block of https://www.iana.org/assignments/iana-ipv4-special-registry and
# https://www.iana.org/assignments/iana-ipv6-special-registry (2025-10-09), smaller ones within
# larger ones included; then multicast, reserved and deprecated space from the address-space
# registries, and a cloud's host.
SPECIAL = """
0.0.0.0/8 0.0.0.0/32 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24
192.0.0.0/29 192.0.0.8/32 192.0.0.9/32 192.0.0.10/32 192.0.0.170/32 192.0.0.171/32 192.0.2.0/24
192.31.196.0/24 192.52.193.0/24 192.88.99.0/24 192.168.0.0/16 192.175.48.0/24 198.18.0.0/15
198.51.100.0/24 203.0.113.0/24 240.0.0.0/4 255.255.255.255/32
::1/128 ::/128 64:ff9b:1::/48 100::/64 100:0:0:1::/64 2001::/23 2001::/32 2001:1::1/128
2001:1::2/128 2001:1::3/128 2001:2::/48 2001:3::/32 2001:4:112::/48 2001:10::/28 2001:20::/28
2001:30::/28 2001:db8::/32 2002::/16 2620:4f:8000::/48 3fff::/20 5f00::/16 fc00::/7 fe80::/10
224.0.0.0/4 ff00::/8 fec0::/10 ::/96 ::ffff:0:0:0/96 168.63.129.16/32
""".split()
PRIVATE = (
    "127.0.0.1 10.0.0.1 169.254.169.254 192.168.1.1 172.16.0.1 100.100.100.200 0.0.0.0".split()
)
PUBLIC = (
    "93.184.216.34 1.1.1.1 8.8.8.8 192.0.1.1 192.88.98.255 198.17.255.255 198.20.0.0 172.32.0.0 "
    "100.63.255.255 100.128.0.0 223.255.255.255 168.63.129.17 2606:2800:220:1::1 2a00:1450::1 "
    "2001:200::1 2001:4860:4860::8888 2003::1 3ffe:ffff::1 2620:4f:8001::1"
).split()


def wrapped(inner: str) -> dict[str, str]:
    """An IPv4 address in every IPv6 form that carries one."""
    value = int(IPv4Address(inner))

    def at(prefix: str, shift: int = 0) -> str:
        return str(IPv6Address(int(IPv6Address(prefix)) | value << shift))

    return {
        "mapped": at("::ffff:0:0"),
        "compatible": at("::"),
        "translated": at("::ffff:0:0:0"),
        "nat64": at("64:ff9b::"),
        "local nat64": at("64:ff9b:1::"),
        "6to4": at("2002::", 80),
        "teredo": str(IPv6Address(int(IPv6Address("2001::")) | (value ^ 0xFFFFFFFF))),
        "isatap": at("2a00:1450::5efe:0:0"),
        "isatap, universal bit": at("2a00:1450::200:5efe:0:0"),
        "isatap, link-local": at("fe80::5efe:0:0"),
    }


@pytest.mark.parametrize("block", SPECIAL)
def test_no_address_of_a_special_block_is_public(block: str) -> None:
    network = ip_network(block)
    middle = network[network.num_addresses // 2]
    assert [str(a) for a in (network[0], middle, network[-1]) if is_public(str(a))] == []


@pytest.mark.parametrize("inner", [*PRIVATE, "192.0.0.192", "192.88.99.1", "168.63.129.16"])
def test_no_form_that_carries_a_private_address_is_public(inner: str) -> None:
    assert [name for name, address in wrapped(inner).items() if is_public(address)] == []


@pytest.mark.parametrize("address", PUBLIC)
def test_hosts_next_to_special_blocks_are_public(address: str) -> None:
    assert is_public(address)


def test_forms_in_use_of_a_public_ipv4_host_are_public() -> None:
    found = {name for name, address in wrapped("8.8.8.8").items() if is_public(address)}
    assert found == {"mapped", "nat64", "isatap", "isatap, universal bit"}


def test_a_zone_does_not_make_an_address_public() -> None:
    assert not is_public("fe80::1%eth0")
    assert not is_public("::1%lo")


def test_nothing_is_public_that_python_calls_special() -> None:
    blocks = [ip_network(block) for block in SPECIAL]
    edges = {int(e) for b in blocks for e in (b[0], b[-1])}
    for number in sorted({e + d for e in edges for d in (-1, 0, 1) if 0 <= e + d < 1 << 128}):
        forms = [IPv6Address(number)] + ([IPv4Address(number)] if number < 1 << 32 else [])
        for form in forms:
            if form.is_multicast or not form.is_global:
                assert not is_public(str(form)) or _wraps_public(str(form)), form


def _wraps_public(address: str) -> bool:
    """Newer Pythons call all mapped and translated addresses by what they carry; older ones not."""
    found = ip_address(address)
    prefixes = (IPv6Network("::ffff:0:0/96"), IPv6Network("64:ff9b::/96"))
    if not isinstance(found, IPv6Address) or not any(found in p for p in prefixes):
        return False
    inner = IPv4Address(int(found) & 0xFFFFFFFF)
    return inner.is_global and not any(
        inner in b for b in map(ip_network, SPECIAL) if isinstance(b, IPv4Network)
    )
