"""The Community ID of a flow, version 1: a hash of its two ends that other tools compute too."""

from base64 import b64encode
from hashlib import sha1
from socket import AF_INET, AF_INET6, inet_pton

from ctk.conntrack.names import PROTOCOL_NUMBERS
from ctk.store.columns import FlowRecord

_WITH_PORTS = frozenset(PROTOCOL_NUMBERS[name] for name in ("tcp", "udp", "sctp"))
_ICMP = frozenset(PROTOCOL_NUMBERS[name] for name in ("icmp", "icmpv6"))
_SEED = b"\0\0"  # the specification's default


def community_id(record: FlowRecord) -> str | None:
    """
    Give the Community ID of a flow as it was dialled; None where the flow does not say enough.

    That is where several source ports were merged, of ICMP, whose type and code a flow does not
    keep, and of what many addresses were folded into.
    """
    number = protocol_number(record.proto)
    if number is None or number in _ICMP or record.ip_version is None:
        return None
    family = AF_INET if record.ip_version == 4 else AF_INET6
    try:
        ends = [inet_pton(family, record.src), inet_pton(family, record.dst)]
    except (OSError, ValueError):  # no address: what others were folded into
        return None
    ports = b""
    if number in _WITH_PORTS:
        if record.src_port is None or record.dst_port is None:
            return None
        sides = sorted(zip(ends, (record.src_port, record.dst_port), strict=True))
        ends = [end for end, _ in sides]
        ports = b"".join(port.to_bytes(2, "big") for _, port in sides)
    else:
        ends.sort()
    hashed = sha1(_SEED + b"".join(ends) + bytes((number, 0)) + ports, usedforsecurity=False)
    return f"1:{b64encode(hashed.digest()).decode()}"


def protocol_number(name: str) -> int | None:
    """Give a protocol's number by the name that a flow has for it."""
    number = PROTOCOL_NUMBERS.get(name)
    if number is None and name.isdecimal() and int(name) <= 255:
        number = int(name)
    return number
