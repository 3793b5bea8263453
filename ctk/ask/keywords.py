"""
What may be asked about flows, by name: one table for the command line's flags and for Python.

`--from-pod web --not --to-port 53` and `from_pod="web", not_to_port=53` are the same `Filters`.
A list of values is "or", different names are "and".
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import NamedTuple, TypedDict, get_args

from ctk.ask.selectors import edge_condition, row_condition
from ctk.errors import UsageError
from ctk.model import Field, Filters, Kind, Side, Term
from ctk.timespan import FOREVER_NS, format_time, parse_time


class FilterField(NamedTuple):
    """What a filter asks about, how its value is written, and the sides it can be asked of."""

    field: Field
    form: str | None  # None where it takes no value
    help: str
    sides: Sequence[Side] = ("any", "from", "to")


_FIELDS = (
    FilterField("namespace", "NAME", "Pods of a namespace."),
    FilterField("pod", "[NS/]NAME", "A pod; web-* for all that start so."),
    FilterField("workload", "[NS/]NAME", "Pods of a Deployment, DaemonSet, CronJob, ..."),
    FilterField("service", "[NS/]NAME", "What was dialled by this service.", ("any", "to")),
    FilterField("label", "SELECTOR", "A Kubernetes selector: 'app=web,tier in (a,b),!old'."),
    FilterField("node", "NAME", "A node, and the pods on it."),
    FilterField("kind", "|".join(get_args(Kind)), "What an address belongs to."),
    FilterField("ip", "ADDRESS|CIDR", "An address: who dialled, was dialled or answered."),
    FilterField("port", "PORT", "The port dialled or answered on; --from-port: the source's."),
    FilterField("protocol", "NAME", "tcp, udp, icmp, ... or the number.", ("any",)),
    FilterField("failed", None, "Only what was refused or got no reply.", ("any",)),
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
SPAN = ("since", "until", "first", "last")

Moment = str | int | datetime
Address = str | IPv4Address | IPv6Address | IPv4Network | IPv6Network
Text = str | Iterable[str]
Addresses = Address | Iterable[Address]
Ports = int | str | Iterable[int | str]


class Asked(TypedDict, total=False):
    """
    The filters as keyword arguments, for a type checker; None asks nothing.

    `since` and `until` take an age before now ("15m"), RFC 3339 text, a datetime (UTC where it
    has no zone) or nanoseconds since the epoch. `first` and `last` cut the answer to so many flows.
    """

    since: Moment | None
    until: Moment | None
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
    kind: Text | None
    not_kind: Text | None
    from_kind: Text | None
    not_from_kind: Text | None
    to_kind: Text | None
    not_to_kind: Text | None
    ip: Addresses | None
    not_ip: Addresses | None
    from_ip: Addresses | None
    not_from_ip: Addresses | None
    to_ip: Addresses | None
    not_to_ip: Addresses | None
    port: Ports | None
    not_port: Ports | None
    from_port: Ports | None
    not_from_port: Ports | None
    to_port: Ports | None
    not_to_port: Ports | None
    protocol: Ports | None
    not_protocol: Ports | None
    failed: bool | None
    not_failed: bool | None


def as_flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def filters_of(
    asked: Mapping[str, object],
    *,
    now_ns: int,
    spelled: Callable[[str], str] = str,
    others: Iterable[str] = (),
) -> Filters:
    """
    Turn keyword arguments, or flags by those names, into Filters.

    A name that is neither a filter nor of the span is a TypeError with the nearest there is,
    `others` among them; a value that makes no sense is a UsageError. `spelled` writes a name as
    the user did.
    """
    for name in asked:
        if name not in NAMES and name not in SPAN:
            raise TypeError(_unknown(name, others))
    since_ns, until_ns = (_moment(asked.get(name), now_ns) for name in ("since", "until"))
    if since_ns is not None and until_ns is not None and since_ns > until_ns:
        since, until = spelled("since"), spelled("until")
        raise UsageError(f"{since} is later than {until}", hint=f"{since} 2h {until} 1h")
    first, last = (_count(asked.get(name)) for name in ("first", "last"))
    if first is not None and last is not None:
        raise UsageError(
            f"{spelled('first')} and {spelled('last')} exclude each other", hint="give one of them"
        )
    terms = tuple(_terms(asked, spelled))
    # Both refuse a value that they cannot ask about: here, where it was given.
    edge_condition(terms)
    row_condition(terms)
    return Filters(since_ns=since_ns, until_ns=until_ns, first=first, last=last, terms=terms)


def flags_of(filters: Filters) -> str:
    """Give the terms of Filters as flags; not the span, which may move on."""
    words = []
    for term in filters.terms:
        name = term.field if term.side == "any" else f"{term.side}-{term.field}"
        flag = f"--not --{name}" if term.negated else f"--{name}"
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
    if isinstance(value, bool) or not isinstance(value, int | Address):
        raise UsageError(f"{value!r} is neither a text nor a number", hint='write it as "web-1"')
    return str(value)


def _moment(value: object, now_ns: int) -> int | None:
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        if not -FOREVER_NS <= value <= FOREVER_NS:
            raise UsageError(
                f"{value} is outside the years 1677 to 2262", hint="give ns since the epoch"
            )
        return value
    if isinstance(value, str):
        return parse_time(value, now_ns)
    if isinstance(value, datetime):
        moment = value if value.tzinfo else value.replace(tzinfo=UTC)
        return (moment - _EPOCH) // timedelta(microseconds=1) * 1_000
    raise UsageError(
        f"{value!r} is no time", hint=f"an age, {format_time(now_ns)!r}, a datetime or ns"
    )


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _count(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= FOREVER_NS:
        return value
    raise UsageError(f"{value!r} is not a number of flows", hint="write it as 50")
