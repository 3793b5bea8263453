"""
Filter terms to SQL conditions.

Names and addresses are conditions on edges, which are few: the edges that fit are found before any
flow is read. Counts (`--failed`, `--min-bytes`, ...) and `--from-port` are conditions on rows: what
fits is a flow, a row of the finest table.

In a name `*` stands for any text and `?` for one character.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from ipaddress import ip_network
from typing import Literal, NamedTuple, assert_never, get_args

from ctk.conntrack.names import parse_protocol, protocol_name
from ctk.errors import UsageError, nearest
from ctk.model import Field, Kind, Side, Term
from ctk.model.numbers import parse_count, parse_ports, parse_size


class Condition(NamedTuple):
    """A piece of SQL that is true or false, never NULL, and the values bound in it."""

    sql: str
    values: tuple[object, ...] = ()


# `edge` stands for the table of that name; the reply's port is null where it is the dialled one.
_SERVICE_NAME = "substr(edge.service, instr(edge.service, '/') + 1)"
_SERVICE_NAMESPACE = "substr(edge.service, 1, instr(edge.service, '/') - 1)"

_SELECTOR_HINT = "--label 'app=web,tier in (front,back),!old'"
_KEY = r"(?:[a-z0-9.-]+/)?[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?"
_VALUE = r"[A-Za-z0-9_.*?-]*"
_REQUIREMENT = (
    rf"\s*(?:(?P<absent>!)\s*(?P<absent_key>{_KEY})"
    rf"|(?P<key>{_KEY})(?:\s*(?P<equal>==|=|!=)\s*(?P<value>{_VALUE})"
    rf"|\s+(?P<set>in|notin)\s*\((?P<values>[^()]*)\))?)\s*(?:,|$)"
)


def edge_condition(terms: Iterable[Term]) -> Condition | None:
    """Give what an edge must be for its flows to fit; None where any edge does."""
    conditions = [_negated(term, _of_edge(term)) for term in terms if not _is_of_row(term)]
    return _join(" AND ", conditions) if conditions else None


def row_condition(terms: Iterable[Term]) -> Condition | None:
    """Give what a row of `flow` must be, beyond its edge; None where any row does."""
    conditions = [_negated(term, _of_row(term)) for term in terms if _is_of_row(term)]
    return _join(" AND ", conditions) if conditions else None


def bucket_condition(terms: Iterable[Term]) -> Condition | None:
    """
    Give what a row of a rollup must be for a flow in it to fit `row_condition`, its port aside.

    A bucket's counts are no smaller than those of each of its flows.
    """
    counts = [term for term in terms if term.field in _COUNTS and not term.negated]
    return _join(" AND ", [_of_row(term) for term in counts]) if counts else None


def folded_condition(terms: Iterable[Term]) -> Condition | None:
    """
    Give which edges of a rollup could stand for flows that fit.

    That is `edge_condition` and, where an address or a port is asked for, the edges that many
    external addresses were folded into (rollup.py): they do not tell these apart any more.
    """
    terms = tuple(terms)
    exact = edge_condition(terms)
    kept = [term for term in terms if term.negated or term.field not in ("ip", "port")]
    if exact is None or len(kept) == len(terms):
        return exact
    rest = edge_condition(kept)
    folded = Condition("edge.id < 0")
    return _or([exact, _join(" AND ", [folded, rest]) if rest else folded])


def all_of(conditions: Sequence[Condition]) -> Condition:
    """Join conditions that must all hold, of which there is one at least."""
    return _join(" AND ", conditions)


def both(conditions: Iterable[str]) -> str:
    """Join conditions that must all hold."""
    return " AND ".join(conditions)


# What was not measured is not known to be that many.
_BYTES = "COALESCE(bytes_out + bytes_in, bytes_out, bytes_in, -1)"
_COUNTS: Mapping[Field, str] = {
    "failed": "(unreplied > 0 OR refused > 0)",
    "refused": "refused > 0",
    "unreplied": "unreplied > 0",
    "min_bytes": f"{_BYTES} >= ?",
    "min_connections": "connections >= ?",
}


def _is_of_row(term: Term) -> bool:
    return term.field in _COUNTS or (term.field == "port" and term.side == "from")


def _of_row(term: Term) -> Condition:
    if term.field == "port":
        return _ports("src_port", term.values)
    parse = parse_size if term.field == "min_bytes" else parse_count
    # Of several the smallest is enough: any of them fits.
    least = (min(map(parse, term.values)),) if term.values else ()
    return Condition(_COUNTS[term.field], least)


def _ports(column: str, values: tuple[str, ...]) -> Condition:
    """Give the condition that the port is there, and in one of the ranges."""
    ranges = list(map(parse_ports, values))
    ports = tuple(ports[0] for ports in ranges if len(ports) == 1)
    fits = [Condition(f"{column} IN ({_marks(ports)})", ports)] if ports else []
    fits += [
        Condition(f"{column} BETWEEN ? AND ?", (ports[0], ports[-1]))
        for ports in ranges
        if len(ports) > 1
    ]
    either = _or(fits)
    return Condition(f"COALESCE({either.sql}, 0)", either.values)


def _of_edge(term: Term) -> Condition:
    match term.field:
        case "namespace" | "pod" | "workload" | "node" | "zone" | "kind" | "label" | "ip":
            of_endpoint = _OF_ENDPOINT[term.field]
            return _of_sides(term, [of_endpoint(text) for text in term.values])
        case "service":
            return _or([_named(text, _SERVICE_NAMESPACE, _SERVICE_NAME) for text in term.values])
        case "port":
            return _or([_ports(f"edge.{side}_port", term.values) for side in ("dst", "nat_dst")])
        case "protocol":
            names = tuple(protocol_name(parse_protocol(text)) for text in term.values)
            return Condition(f"edge.proto IN ({_marks(names)})", names)
        case "cross_namespace":
            return _CROSSES_NAMESPACES
        case "cross_zone":
            return _CROSSES_ZONES
        case "failed" | "refused" | "unreplied" | "min_bytes" | "min_connections":
            raise AssertionError("it is a condition on rows")
        case _:
            assert_never(term.field)


# Where a side has no namespace, it is in none other.
_CROSSES_NAMESPACES = Condition(
    "EXISTS (SELECT 1 FROM endpoint AS src, endpoint AS backend WHERE src.id = edge.src_id"
    " AND backend.id = edge.backend_id AND src.namespace <> backend.namespace)"
)
# Where the zone of a side is not known, it is not known to be another.
_CROSSES_ZONES = Condition(
    "EXISTS (SELECT 1 FROM endpoint AS src, endpoint AS backend, node_zone AS src_zone,"
    " node_zone AS dst_zone WHERE src.id = edge.src_id AND backend.id = edge.backend_id"
    " AND src_zone.node = src.node AND dst_zone.node = backend.node"
    " AND src_zone.zone <> dst_zone.zone)"
)


def _of_sides(term: Term, fits: list[Condition]) -> Condition:
    """Give the condition on an edge that one of its endpoints on the term's side fits one."""
    endpoint = _or(fits)
    chosen = f"(SELECT id FROM endpoint WHERE {endpoint.sql})"
    return _or(
        [Condition(f"edge.{column} IN {chosen}", endpoint.values) for column in _columns(term)]
    )


def _columns(term: Term) -> tuple[str, ...]:
    sides: dict[Side, tuple[str, ...]] = {"from": ("src_id",), "to": ("backend_id",)}
    if term.field == "ip":
        sides["to"] = ("dialled_id", "backend_id")
    return sides.get(term.side, sides["from"] + sides["to"])


def _of_pod(text: str) -> Condition:
    named = _named(text, "namespace", "name", _begins)
    return _join(" AND ", [Condition("kind = 'pod'"), named])


def _of_node(text: str) -> Condition:
    """Fit the node itself, and the pods on it."""
    itself = _join(" AND ", [Condition("kind = 'node'"), _like("name", text)])
    return _or([_like("node", text), itself])


def _of_zone(text: str) -> Condition:
    """Fit the nodes of a topology zone, and the pods on them."""
    zone = _like("zone", text)
    return Condition(
        f"COALESCE(node IN (SELECT node FROM node_zone WHERE {zone.sql}), 0)", zone.values
    )


def _of_kind(text: str) -> Condition:
    if text not in get_args(Kind):
        hint = nearest(text, get_args(Kind)) or f"one of {', '.join(get_args(Kind))}"
        raise UsageError(f"{text!r} is not a kind of endpoint", hint=hint)
    return Condition("kind = ?", (text,))


def _labelled(text: str) -> Condition:
    # What is not an object of the cluster has no labels to select by.
    known = Condition("kind IN ('pod', 'node', 'service')")
    return _join(" AND ", [known, *selector(text)])


def selector(text: str) -> list[Condition]:
    """Turn a Kubernetes label selector into conditions on `labels`, all of which must hold."""
    conditions = []
    requirement = re.compile(_REQUIREMENT)
    at = 0
    while at < len(text) or at == 0:
        match = requirement.match(text, at)
        if match is None or (match.end() == len(text) and text.endswith(",")):
            raise UsageError(f"{text!r} is not a label selector", hint=_SELECTOR_HINT)
        conditions.append(_requirement(match))
        at = match.end()
    return conditions


def _requirement(match: re.Match[str]) -> Condition:
    # Keys hold no quotes, so this path names exactly one of them, dots and slashes included.
    path = f'$."{match["absent_key"] or match["key"]}"'
    label = "json_extract(labels, ?)"
    if match["absent"]:
        return Condition(f"{label} IS NULL", (path,))
    if match["equal"] and re.search(_WILD, match["value"]):
        fits = _like(label, match["value"])
        sql = f"NOT {fits.sql}" if match["equal"] == "!=" else fits.sql
        return Condition(sql, (path, *fits.values))
    if match["equal"]:
        # Like the API server's, != also holds where there is no such label.
        operator = "IS NOT" if match["equal"] == "!=" else "IS"
        return Condition(f"{label} {operator} ?", (path, match["value"]))
    if match["set"]:
        values = tuple(value.strip() for value in match["values"].split(","))
        listed = f"COALESCE({label} IN ({_marks(values)}), 0)"
        return Condition(f"NOT {listed}" if match["set"] == "notin" else listed, (path, *values))
    return Condition(f"{label} IS NOT NULL", (path,))


def _within(text: str) -> Condition:
    if "*" in text:
        # The endpoint that stands for many has no address.
        return _join(" AND ", [Condition("length(packed) > 0"), _like("address", text.lower())])
    try:
        network = ip_network(text, strict=False)
    except ValueError as error:
        raise UsageError(
            f"{text!r} is neither an address nor a CIDR",
            hint="10.244.0.3, 10.244.0.0/16, '10.244.*'",
        ) from error
    low, high = network.network_address.packed, network.broadcast_address.packed
    # Bytes compare like the numbers they are, but only among those of one length.
    return Condition("(packed BETWEEN ? AND ? AND length(packed) = ?)", (low, high, len(low)))


_WILD = r"[*?]"


def _like(column: str, text: str) -> Condition:
    if re.search(_WILD, text):
        return Condition(f"COALESCE({column} GLOB ?, 0)", (text.replace("[", "[[]"),))
    return Condition(f"{column} IS ?", (text,))


def _begins(column: str, text: str) -> Condition:
    """Fit a name, and those that it begins as a word: `web` fits web-7c65d6cfc9-aaaaa."""
    if re.search(_WILD, text):
        return _like(column, text)
    return _or([_like(column, text), _like(column, f"{text}-*")])


def _named(
    text: str,
    namespace_column: str,
    name_column: str,
    like: Callable[[str, str], Condition] = _like,
) -> Condition:
    namespace, slash, name = text.rpartition("/")
    named = like(name_column, name or "*" if slash else name)
    return _join(" AND ", [_like(namespace_column, namespace), named]) if slash else named


_OF_ENDPOINT: Mapping[Field, Callable[[str], Condition]] = {
    "namespace": partial(_like, "namespace"),
    "pod": _of_pod,
    "workload": partial(_named, namespace_column="namespace", name_column="workload"),
    "node": _of_node,
    "zone": _of_zone,
    "kind": _of_kind,
    "label": _labelled,
    "ip": _within,
}


def _negated(term: Term, condition: Condition) -> Condition:
    return Condition(f"NOT {condition.sql}", condition.values) if term.negated else condition


def _or(conditions: Sequence[Condition]) -> Condition:
    return _join(" OR ", conditions)


def _join(word: Literal[" AND ", " OR "], conditions: Sequence[Condition]) -> Condition:
    if len(conditions) == 1:
        return conditions[0]
    sql = word.join(condition.sql for condition in conditions)
    return Condition(f"({sql})", sum((condition.values for condition in conditions), ()))


def _marks(values: tuple[object, ...]) -> str:
    return ", ".join("?" * len(values))
