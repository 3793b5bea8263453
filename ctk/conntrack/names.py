"""Protocols and events as people name them."""

from collections.abc import Mapping
from typing import Literal, get_args

from ctk.errors import UsageError, nearest

# The kernel's events of a connection.
EventName = Literal["new", "update", "destroy"]
EVENT_NAMES: tuple[EventName, ...] = get_args(EventName)

# IANA protocol numbers that have a name here; others are the number as text.
PROTOCOLS: Mapping[int, str] = {
    1: "icmp",
    2: "igmp",
    4: "ipip",
    6: "tcp",
    17: "udp",
    33: "dccp",
    47: "gre",
    50: "esp",
    51: "ah",
    58: "icmpv6",
    132: "sctp",
    136: "udplite",
}
PROTOCOL_NUMBERS: Mapping[str, int] = {name: number for number, name in PROTOCOLS.items()}


def parse_protocol(text: str) -> int:
    """Turn "tcp", "UDP" or "132" into the protocol's number."""
    number = PROTOCOL_NUMBERS.get(text.lower())
    if number is None and text.isdecimal() and text.isascii() and len(text) <= 3:
        number = int(text)
    if number is None or number > 255:
        raise UsageError(
            f"{text!r} is not a protocol",
            hint=nearest(text, PROTOCOL_NUMBERS)
            or f"a number up to 255, or {', '.join(PROTOCOLS.values())}",
        )
    return number


def protocol_name(number: int) -> str:
    """Give the name that a flow has for a protocol: its number as text where it has none."""
    return PROTOCOLS.get(number, str(number))
