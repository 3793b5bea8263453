"""
Names for what is ranked most: presets of keys, and keys of either side of a flow.

A key of either side is one of an endpoint, be it the one that opened the flow or the one that
answered. A flow counts for both of its ends, and once where they are the same; the whole counts
each flow once.
"""

from collections.abc import Iterable, Sequence
from typing import Literal, get_args

RankedSide = Literal["both", "from", "to"]
SIDES: tuple[RankedSide, ...] = get_args(RankedSide)

PRESETS: dict[str, tuple[str, ...]] = {
    "pods": ("pod",),
    "services": ("service",),
    "workloads": ("workload",),
    "namespaces": ("namespace",),
    "nodes": ("endpoint_node",),
    "external": ("external_ip",),
    "ports": ("dst_port", "proto"),
    "pairs": ("source", "destination"),
    "zones": ("endpoint_zone",),
}

# Over the endpoint of a side; an endpoint that has none of it is in no group.
_EITHER = {
    "pod": "CASE {end}.kind WHEN 'pod' THEN {end}.namespace || '/' || {end}.name END",
    "workload": "{end}.namespace || '/' || {end}.workload",
    "namespace": "{end}.namespace",
    "external_ip": "CASE {end}.kind WHEN 'external' THEN {end}.address END",
    "endpoint_node": "{end}.node",
    "endpoint_zone": "{zone}.zone",
}
EITHER_KEYS = tuple(_EITHER)


def expanded(keys: Iterable[str]) -> tuple[str, ...]:
    """Give the keys that are asked for, those of a preset in its place, each once."""
    return tuple(dict.fromkeys(key for each in keys for key in PRESETS.get(each, (each,))))


def opened(key: str) -> str:
    """Give the SQL of a key of either side for the endpoint that opened the flow."""
    return _EITHER[key].format(end="src", zone="src_zone")


def answered(key: str) -> str:
    """Give the SQL of a key of either side for the endpoint that answered."""
    return _EITHER[key].format(end="backend", zone="dst_zone")


class FlowEnds:
    """Which rows of a flow's two ends make a group, and which of them make the whole."""

    def __init__(self, keys: Sequence[str], side: RankedSide) -> None:
        self.keys = [key for key in keys if key in _EITHER]
        self._side = side if self.keys else "from"

    def arms(self) -> list[tuple[dict[str, str], str, str]]:
        """Give each end's SQL of the keys, which rows have them, and which rows are the whole."""
        src = {key: opened(key) for key in self.keys}
        dst = {key: answered(key) for key in self.keys}
        has_src, has_dst = _known(src.values()), _known(dst.values())
        if self._side == "from":
            return [(src, has_src, "1")]
        if self._side == "to":
            return [(dst, has_dst, "1")]
        same = " AND ".join(f"({src[key]}) IS ({dst[key]})" for key in self.keys)
        return [
            (src, has_src, "1"),
            (dst, f"{has_dst} AND NOT ({same})", f"NOT ({has_src})"),
        ]


def _known(expressions: Iterable[str]) -> str:
    return " AND ".join(f"({sql}) IS NOT NULL" for sql in expressions) or "1"
