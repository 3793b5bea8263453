"""
How many different values were seen: exactly while they are few, then a HyperLogLog.

Two counts of any values add up to the count of both together, whoever made them and when: values
are known by a hash that is the same on every machine. So a count can be folded with its rows.
"""

import struct
import zlib
from collections.abc import Iterable
from hashlib import blake2b
from math import inf, log, sqrt
from typing import Self

EXACT = 256  # values; as hashes they take as much room as the registers do
_BITS = 11  # of a hash choose a register: the error is 1.04 / sqrt(2 ** 11), 2.3 %
_REGISTERS = 1 << _BITS
_REST = 64 - _BITS
_REST_MASK = (1 << _REST) - 1
_HASHES, _PACKED_REGISTERS = b"h", b"r"  # the first byte of what is stored


class Distinct:
    """A count of different values, in at most 20 KB."""

    __slots__ = ("_hashes", "_registers")

    def __init__(self, values: Iterable[bytes] = ()) -> None:
        self._hashes: set[int] = set()
        self._registers: bytearray | None = None  # once there are too many to be kept
        self.update(values)

    def add(self, value: bytes) -> None:
        """Count a value; one that was counted before changes nothing."""
        self.update((value,))

    def update(self, values: Iterable[bytes]) -> None:
        """Count values, in 0.7 us each where they are many."""
        digests = b"".join([blake2b(value, digest_size=8).digest() for value in values])
        numbers = struct.unpack(f">{len(digests) // 8}Q", digests)
        if self._registers is None:
            self._hashes.update(numbers)
            if len(self._hashes) > EXACT:
                self._give_up_exactness()
        else:
            _raise(self._registers, numbers)

    def merge(self, other: "Distinct") -> None:
        """Count what the other has counted, too."""
        if self._registers is None and other._registers is None:
            self._hashes |= other._hashes
            if len(self._hashes) > EXACT:
                self._give_up_exactness()
            return
        if self._registers is None:
            self._give_up_exactness()
        assert self._registers is not None
        if other._registers is None:
            _raise(self._registers, other._hashes)
        else:
            self._registers[:] = map(max, self._registers, other._registers)

    def __len__(self) -> int:
        """Give the count: exact up to EXACT, an estimate past it."""
        return len(self._hashes) if self._registers is None else _estimate(self._registers)

    @property
    def is_exact(self) -> bool:
        return self._registers is None

    def pack(self) -> bytes:
        """Give what `unpack` makes the same count of."""
        if self._registers is not None:
            return _PACKED_REGISTERS + zlib.compress(self._registers)
        return _HASHES + b"".join(number.to_bytes(8, "big") for number in sorted(self._hashes))

    @classmethod
    def unpack(cls, packed: bytes) -> Self:
        """Read what `pack` gave; ValueError where it is something else: files get mailed."""
        made, kind, rest = cls(), packed[:1], packed[1:]
        if kind == _HASHES and len(rest) % 8 == 0 and len(rest) <= 8 * EXACT:
            made._hashes = {
                int.from_bytes(rest[at : at + 8], "big") for at in range(0, len(rest), 8)
            }
            return made
        if kind == _PACKED_REGISTERS:
            try:
                registers = zlib.decompressobj().decompress(rest, _REGISTERS + 1)
            except zlib.error as error:
                raise ValueError("a count of addresses is broken") from error
            if len(registers) == _REGISTERS and max(registers) <= _REST + 1:
                made._registers = bytearray(registers)
                return made
        raise ValueError("a count of addresses is broken")

    def _give_up_exactness(self) -> None:
        self._registers = bytearray(_REGISTERS)
        _raise(self._registers, self._hashes)
        self._hashes = set()


def _raise(registers: bytearray, hashes: Iterable[int]) -> None:
    for number in hashes:
        rank = _REST + 1 - (number & _REST_MASK).bit_length()
        if registers[number >> _REST] < rank:  # noqa: PLR1730 - max() takes 0.1 us
            registers[number >> _REST] = rank


def _estimate(registers: bytearray) -> int:
    """
    Give the count behind the registers.

    The estimator of Otmar Ertl (New cardinality estimation algorithms for HyperLogLog sketches,
    2017, algorithm 6): it has no bias at any count, and needs no tables.
    """
    ranks = [0] * (_REST + 2)
    for rank in registers:
        ranks[rank] += 1
    z = _REGISTERS * _tau(1 - ranks[_REST + 1] / _REGISTERS)
    for count in ranks[_REST:0:-1]:
        z = (z + count) / 2
    z += _REGISTERS * _sigma(ranks[0] / _REGISTERS)
    return round(_REGISTERS * _REGISTERS / (2 * log(2)) / z)


def _sigma(x: float) -> float:
    if x == 1:
        return inf
    y, z, before = 1.0, x, -1.0
    while z != before:
        x, before = x * x, z
        z += x * y
        y += y
    return z


def _tau(x: float) -> float:
    if x in (0, 1):
        return 0.0
    y, z, before = 1.0, 1 - x, -1.0
    while z != before:
        x, before, y = sqrt(x), z, y / 2
        z -= (1 - x) ** 2 * y
    return z / 3
