"""
What may be asked about flows, by name: one table for the command line's flags and for Python.

`--from-pod web --not --to-port 53` and `from_pod="web", not_to_port=53` are the same `Filters`.
A list of values, or values with commas between, is "or"; different names are "and".
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import tzinfo
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import NamedTuple, TypedDict, get_args

from ctk.ask.moments import Moment, Reference, span_of
from ctk.ask.selectors import edge_condition, row_condition
from ctk.errors import UsageError
from ctk.model import Field, Filters, Kind, Side, Term
from ctk.timespan import FOREVER_NS


class FilterField(NamedTuple):
    """What a filter asks about, how its value is written, and the sides it can be asked of."""

    field: Field
    form: str | None  # None where it takes no value
    help: str
    sides: Sequence[Side] = ("any", "from", "to")


# Where "shop,load" is one of two names: a selector's commas are its own.
_SPLIT = (
    "namespace",
    "pod",
    "workload",
    "service",
    "node",
    "zone",
    "kind",
    "ip",
    "port",
    "protocol",
)

_FIELDS = (
    FilterField("namespace", "NAME", "Pods and services of a namespace."),
    FilterField("pod", "[NS/]NAME", "A pod, or all whose names go on with '-' after NAME."),
    FilterField("workload", "[NS/]NAME", "Pods of a Deployment, DaemonSet, CronJob, ..."),
    FilterField("service", "[NS/]NAME", "What was dialled by this service.", ("any", "to")),
    FilterField("label", "SELECTOR", "A Kubernetes selector: 'app=web,tier in (a,b),!old'."),
    FilterField("node", "NAME", "A node, and the pods on it."),
    FilterField("zone", "NAME", "The nodes of a topology zone, and the pods on them."),
    FilterField("kind", "KIND", f"{', '.join(get_args(Kind)[:-1])} or {get_args(Kind)[-1]}."),
    FilterField("ip", "ADDRESS", "An address or a CIDR: who dialled, was dialled or answered."),
    FilterField("port", "PORT", "The port dialled or answered on; --from-port: the source's."),
    FilterField("protocol", "NAME", "tcp, udp, icmp, ... or the number.", ("any",)),
    FilterField("cross_namespace", None, "Both sides in a namespace, and not the same.", ("any",)),
    FilterField("cross_zone", None, "Between nodes of two topology zones.", ("any",)),
    FilterField("failed", None, "Only what was refused or got no reply.", ("any",)),
    FilterField("refused", None, "Only what was refused.", ("any",)),
    FilterField("unreplied", None, "Only what got no reply.", ("any",)),
    FilterField("min_bytes", "SIZE", "Flows of so many bytes, both directions.", ("any",)),
    FilterField("min_connections", "N", "Flows of so many connections.", ("any",)),
)


class FilterName(NamedTuple):
    """What one name, "pod" or "not_from_pod", asks."""

    asked: FilterField
    side: Side
    negated: bool


def _names() -> Iterator[tuple[str, FilterName]]:
    for asked in _FIELDS:
        for side in asked.sides:
            name = asked.field if side == "any" else f"{side}_{asked.field}"
            yield name, FilterName(asked, side, False)
            yield f"not_{name}", FilterName(asked, side, True)


# Every filter by the name of its keyword argument; a flag has "-" for "_".
NAMES: Mapping[str, FilterName] = dict(_names())
SPAN = ("since", "until", "for_", "first", "last")

AskedAddress = str | IPv4Address | IPv6Address | IPv4Network | IPv6Network
Text = str | Iterable[str]
AskedAddresses = AskedAddress | Iterable[AskedAddress]
Ports = int | str | Iterable[int | str]


class Asked(TypedDict, total=False):
    """
    The filters as keyword arguments, for a type checker; None asks nothing.

    `since` and `until` take a text ("15m", "10 min ago", "09:00", "yesterday", RFC 3339), a
    datetime (UTC where it has no zone) or nanoseconds since the epoch; `for_` is how long from
    `since`, or up to `until`. `first` and `last` cut the answer to so many flows.
    """

    since: Moment | None
    until: Moment | None
    for_: str | int | None
    first: int | None
    last: int | None
    namespace: Text | None
    not_namespace: Text | None
    from_namespace: Text | None
    not_from_namespace: Text | None
    to_namespace: Text | None
    not_to_namespace: Text | None
    pod: Text | None
    not_pod: Text | None
    from_pod: Text | None
    not_from_pod: Text | None
    to_pod: Text | None
    not_to_pod: Text | None
    workload: Text | None
    not_workload: Text | None
    from_workload: Text | None
    not_from_workload: Text | None
    to_workload: Text | None
    not_to_workload: Text | None
    service: Text | None
    not_service: Text | None
    to_service: Text | None
    not_to_service: Text | None
    label: Text | None
    not_label: Text | None
    from_label: Text | None
    not_from_label: Text | None
    to_label: Text | None
    not_to_label: Text | None
    node: Text | None
    not_node: Text | None
    from_node: Text | None
    not_from_node: Text | None
    to_node: Text | None
    not_to_node: Text | None
    zone: Text | None
    not_zone: Text | None
    from_zone: Text | None
    not_from_zone: Text | None
    to_zone: Text | None
    not_to_zone: Text | None
    kind: Text | None
    not_kind: Text | None
    from_kind: Text | None
    not_from_kind: Text | None
    to_kind: Text | None
    not_to_kind: Text | None
    ip: AskedAddresses | None
    not_ip: AskedAddresses | None
    from_ip: AskedAddresses | None
    not_from_ip: AskedAddresses | None
    to_ip: AskedAddresses | None
    not_to_ip: AskedAddresses | None
    port: Ports | None
    not_port: Ports | None
    from_port: Ports | None
    not_from_port: Ports | None
    to_port: Ports | None
    not_to_port: Ports | None
    protocol: Ports | None
    not_protocol: Ports | None
    cross_namespace: bool | None
    not_cross_namespace: bool | None
    cross_zone: bool | None
    not_cross_zone: bool | None
    failed: bool | None
    not_failed: bool | None
    refused: bool | None
    not_refused: bool | None
    unreplied: bool | None
    not_unreplied: bool | None
    min_bytes: int | str | None
    not_min_bytes: int | str | None
    min_connections: int | str | None
    not_min_connections: int | str | None


def as_flag(name: str) -> str:
    return f"--{name.rstrip('_').replace('_', '-')}"


def filters_of(
    asked: Mapping[str, object],
    *,
    now_ns: int,
    reference: Callable[[], Reference] | None = None,
    zone: tzinfo | None = None,
    spelled: Callable[[str], str] = str,
    others: Iterable[str] = (),
) -> Filters:
    """
    Turn keyword arguments, or flags by those names, into Filters.

    Ages and clocks count from `reference`, which is asked where one is given, or from now; a time
    without an offset is of `zone`, or the local one. A name that is neither a filter nor of the
    span is a TypeError with the nearest there is, `others` among them; a value that makes no sense
    is a UsageError. `spelled` writes a name as the user did.
    """
    for name in asked:
        if name not in NAMES and name not in SPAN:
            raise TypeError(_unknown(name, others))
    span = span_of(
        asked,
        now_ns=now_ns,
        reference=reference or (lambda: Reference(now_ns, False)),
        zone=zone,
        spelled=spelled,
    )
    first, last = (_count(asked.get(name)) for name in ("first", "last"))
    if first is not None and last is not None:
        raise UsageError(
            f"{spelled('first')} and {spelled('last')} exclude each other", hint="give one of them"
        )
    terms = tuple(_terms(asked, spelled))
    # Both refuse a value that they cannot ask about: here, where it was given.
    edge_condition(terms)
    row_condition(terms)
    return Filters(**span._asdict(), first=first, last=last, terms=terms)


def flags_of(filters: Filters) -> str:
    """Give the terms of Filters as flags; not the span, which may move on."""
    words = []
    for term in filters.terms:
        flag = as_flag(term.field if term.side == "any" else f"{term.side}_{term.field}")
        flag = f"--not {flag}" if term.negated else flag
        words += [f"{flag} {value}" for value in term.values] or [flag]
    return " ".join(words)


def _unknown(name: str, others: Iterable[str]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, [*others, *SPAN, *NAMES], 1)
    meant = f": did you mean {near[0]!r}?" if near else ""
    return f"{name!r} is not a keyword argument here{meant}"


def _terms(asked: Mapping[str, object], spelled: Callable[[str], str]) -> Iterator[Term]:
    for name, (field, side, negated) in NAMES.items():
        value = asked.get(name)
        if value is None or (value is False and field.form is None):
            continue
        if field.form is None:
            if value is not True:
                raise UsageError(f"{spelled(name)} is {value!r}", hint="give it True or False")
            yield Term(field.field, side, (), negated)
            continue
        texts = tuple(map(_text, [value] if _is_one(value) else _each(value)))
        if field.field in _SPLIT:
            texts = tuple(part.strip() for text in texts for part in text.split(","))
        if not texts or "" in texts:
            raise UsageError(f"{spelled(name)} is empty", hint=f"give it a {field.form}")
        yield Term(field.field, side, texts, negated)


def _is_one(value: object) -> bool:
    # A network is iterable too, but is one value.
    return isinstance(value, str | IPv4Network | IPv6Network) or not isinstance(value, Iterable)


def _each(value: object) -> Iterable[object]:
    assert isinstance(value, Iterable)
    return value


def _text(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | AskedAddress):
        raise UsageError(f"{value!r} is neither a text nor a number", hint='write it as "web-1"')
    return str(value)


def _count(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= FOREVER_NS:
        return value
    raise UsageError(f"{value!r} is not a number of flows", hint="write it as 50")
