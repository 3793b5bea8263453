"""
Addresses as text, and as 4 or 16 bytes.

Apart from the other values, since to import socket takes 4 ms, and who reads needs none of it.
"""

from contextlib import suppress
from functools import lru_cache
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton


@lru_cache(maxsize=16_384)
def address_text(packed: bytes) -> str:
    """Return 4 or 16 bytes in network order as inet_ntop writes them."""
    return inet_ntop(AF_INET if len(packed) == 4 else AF_INET6, packed)


def packed(address: str) -> bytes:
    """Return 4 or 16 bytes, network order: a CIDR is a range of them. What is no address is b""."""
    with suppress(OSError):
        return inet_pton(AF_INET6 if ":" in address else AF_INET, address)
    return b""
