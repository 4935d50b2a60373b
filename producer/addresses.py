"""Which internet addresses a submit may fetch from: those of the public internet, and no tunnel to others.

The networks are those of IANA's special-purpose registries (RFC 6890 and its successors). Python's own
`is_global` has changed between its releases, so they are written out.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

_NOT_PUBLIC = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",  # this network
            "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16",  # private
            "100.64.0.0/10",  # shared by the customers of a carrier (CGNAT)
            "127.0.0.0/8",  # loopback
            "169.254.0.0/16",  # link-local, and the metadata services of clouds
            "192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24",
            "192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # reserved, and broadcast
        ),
    )
)  # fmt: skip

# Everything public lies in here: loopback, private, link-local and multicast addresses do not, nor does an
# IPv4 address that is mapped (::ffff:0:0/96) or translated (NAT64, 64:ff9b::/96 and 64:ff9b:1::/48).
_PUBLIC_6 = IPv6Network("2000::/3")
_NOT_PUBLIC_6 = tuple(
    map(
        IPv6Network,
        (
            "2001::/23",  # protocol assignments, Teredo among them
            "2001:db8::/32", "3fff::/20",  # documentation
            "2002::/16",  # 6to4: an IPv4 address inside
            "2620:4f:8000::/48",
        ),
    )
)  # fmt: skip


def is_public(address: str) -> bool:
    """Whether an address, as a resolver gives it, is of the public internet and of nothing else."""
    try:
        found = ip_address(address)
    except ValueError:
        return False
    if isinstance(found, IPv4Address):
        return not any(found in network for network in _NOT_PUBLIC)
    return _is_public_6(found)


def _is_public_6(address: IPv6Address) -> bool:
    if address.scope_id is not None or address not in _PUBLIC_6:
        return False
    return not any(address in network for network in _NOT_PUBLIC_6)
