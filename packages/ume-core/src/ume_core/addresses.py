"""Which IP addresses are a public host's, for fetching what strangers name.

Refused is every block of IANA's special-purpose registries, those called globally reachable there
included (they hold anycast relays and sinks, no web servers), multicast and reserved space, and
every IPv6 form that carries an IPv4 address which is refused itself.

Sources, as of 2025-10-09: https://www.iana.org/assignments/iana-ipv4-special-registry,
https://www.iana.org/assignments/iana-ipv6-special-registry,
https://www.iana.org/assignments/ipv6-address-space.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

_IPV4 = tuple(
    IPv4Network(block)
    for block in (
        "0.0.0.0/8",  # this network, RFC 791
        "10.0.0.0/8",  # private, RFC 1918
        "100.64.0.0/10",  # shared (carrier NAT; Alibaba's metadata), RFC 6598
        "127.0.0.0/8",  # loopback, RFC 1122
        "168.63.129.16/32",  # Azure's host, publicly numbered
        "169.254.0.0/16",  # link-local (most clouds' metadata), RFC 3927
        "172.16.0.0/12",  # private, RFC 1918
        "192.0.0.0/24",  # protocol assignments (192.0.0.192: Oracle's metadata), RFC 6890
        "192.0.2.0/24",  # documentation, RFC 5737
        "192.31.196.0/24",  # AS112, RFC 7535
        "192.52.193.0/24",  # AMT, RFC 7450
        "192.88.99.0/24",  # 6to4 relays (deprecated), RFC 7526
        "192.168.0.0/16",  # private, RFC 1918
        "192.175.48.0/24",  # AS112, RFC 7534
        "198.18.0.0/15",  # benchmarking, RFC 2544
        "198.51.100.0/24",  # documentation, RFC 5737
        "203.0.113.0/24",  # documentation, RFC 5737
        "224.0.0.0/4",  # multicast, RFC 5771
        "240.0.0.0/4",  # reserved, broadcast, RFC 1112
    )
)
# Global unicast is 2000::/3 alone. Loopback, link-local, unique local, site-local, multicast,
# discard (100::/64), segment routing (5f00::/16), local NAT64 (64:ff9b:1::/48), IPv4-compatible
# (::/96) and IPv4-translated (::ffff:0:0:0/96) addresses all lie outside it.
_GLOBAL = IPv6Network("2000::/3")
_IPV6 = tuple(
    IPv6Network(block)
    for block in (
        "2001::/23",  # protocol assignments: Teredo, benchmarking, ORCHID, AMT…, RFC 2928
        "2001:db8::/32",  # documentation, RFC 3849
        "2002::/16",  # 6to4 (deprecated), RFC 3056
        "2620:4f:8000::/48",  # AS112, RFC 7534
        "3fff::/20",  # documentation, RFC 9637
    )
)
# Hosts of IPv4 as IPv6-only networks and dual-stack sockets name them: the IPv4 address decides.
_WRAPPED = (IPv6Network("::ffff:0:0/96"), IPv6Network("64:ff9b::/96"))  # RFC 4291, RFC 6052
_ISATAP = frozenset((0x00005EFE, 0x02005EFE))  # third quarter of an address, RFC 5214


def is_public(address: str) -> bool:
    """Whether a numeric IPv4 or IPv6 address may be a public host's.

    Raises:
        ValueError: it is no address.
    """
    found = ip_address(address.partition("%")[0])  # a zone, as in fe80::1%eth0
    return _is_public_v4(found) if isinstance(found, IPv4Address) else _is_public_v6(found)


def _is_public_v4(address: IPv4Address) -> bool:
    return not any(address in block for block in _IPV4)


def _is_public_v6(address: IPv6Address) -> bool:
    low = IPv4Address(int(address) & 0xFFFFFFFF)
    if any(address in block for block in _WRAPPED):
        return _is_public_v4(low)
    if address not in _GLOBAL or any(address in block for block in _IPV6):
        return False
    return int(address) >> 32 & 0xFFFFFFFF not in _ISATAP or _is_public_v4(low)
