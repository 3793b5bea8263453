"""
Filter terms to SQL conditions.

Names and addresses are conditions on edges, which are few: the edges that fit are found before any
flow is read. Only `--failed` and `--from-port` are conditions on rows.
"""

import re
from collections.abc import Iterable
from ipaddress import ip_network
from typing import Literal, NamedTuple, assert_never, get_args

from ctk.errors import UsageError
from ctk.model import Kind, Side, Term, parse_port, parse_protocol, protocol_name


class Condition(NamedTuple):
    """A piece of SQL that is true or false, never NULL, and the values bound in it."""

    sql: str
    values: tuple[object, ...] = ()


# `edge` stands for the table of that name; the reply's port is null where it is the dialled one.
_SERVICE_NAME = "substr(edge.service, instr(edge.service, '/') + 1)"
_SERVICE_NAMESPACE = "substr(edge.service, 1, instr(edge.service, '/') - 1)"

_SELECTOR_HINT = "--label 'app=web,tier in (front,back),!old'"
_KEY = r"(?:[a-z0-9.-]+/)?[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?"
_VALUE = r"[A-Za-z0-9_.-]*"
_REQUIREMENT = re.compile(
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


def both(conditions: Iterable[str]) -> str:
    """Join conditions that must all hold."""
    return " AND ".join(conditions)


def _is_of_row(term: Term) -> bool:
    return term.field == "failed" or (term.field == "port" and term.side == "from")


def _of_row(term: Term) -> Condition:
    if term.field == "failed":
        return Condition("(unreplied > 0 OR refused > 0)")
    ports = tuple(map(parse_port, term.values))
    return Condition(f"(src_port IS NOT NULL AND src_port IN ({_marks(ports)}))", ports)


def _of_edge(term: Term) -> Condition:  # noqa: PLR0911 - one for each field
    match term.field:
        case "namespace":
            return _of_sides(term, [_like("namespace", text) for text in term.values])
        case "pod":
            pods = [_named(text, "namespace", "name") for text in term.values]
            return _of_sides(term, [_join(" AND ", [Condition("kind = 'pod'"), _or(pods)])])
        case "workload":
            return _of_sides(term, [_named(text, "namespace", "workload") for text in term.values])
        case "node":
            return _of_sides(term, [_of_node(text) for text in term.values])
        case "kind":
            return _of_sides(term, [_of_kind(text) for text in term.values])
        case "label":
            return _of_sides(term, [_labelled(text) for text in term.values])
        case "ip":
            return _of_sides(term, [_within(text) for text in term.values])
        case "service":
            return _or([_named(text, _SERVICE_NAMESPACE, _SERVICE_NAME) for text in term.values])
        case "port":
            ports = tuple(map(parse_port, term.values))
            dialled = f"COALESCE(edge.dst_port IN ({_marks(ports)}), 0)"
            answered = f"COALESCE(edge.nat_dst_port IN ({_marks(ports)}), 0)"
            return Condition(f"({dialled} OR {answered})", ports + ports)
        case "protocol":
            names = tuple(protocol_name(parse_protocol(text)) for text in term.values)
            return Condition(f"edge.proto IN ({_marks(names)})", names)
        case "failed":
            raise AssertionError("it is a condition on rows")
        case _:
            assert_never(term.field)


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


def _of_node(text: str) -> Condition:
    """Fit the node itself, and the pods on it."""
    itself = _join(" AND ", [Condition("kind = 'node'"), _like("name", text)])
    return _or([_like("node", text), itself])


def _of_kind(text: str) -> Condition:
    if text not in get_args(Kind):
        hint = f"one of {', '.join(get_args(Kind))}"
        raise UsageError(f"{text!r} is not a kind of endpoint", hint=hint)
    return Condition("kind = ?", (text,))


def _labelled(text: str) -> Condition:
    # What is not an object of the cluster has no labels to select by.
    known = Condition("kind IN ('pod', 'node', 'service')")
    return _join(" AND ", [known, *selector(text)])


def selector(text: str) -> list[Condition]:
    """Turn a Kubernetes label selector into conditions on `labels`, all of which must hold."""
    conditions = []
    at = 0
    while at < len(text) or at == 0:
        match = _REQUIREMENT.match(text, at)
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
    try:
        network = ip_network(text, strict=False)
    except ValueError as error:
        raise UsageError(
            f"{text!r} is neither an address nor a CIDR", hint="10.244.0.3, 10.244.0.0/16, fd00::/8"
        ) from error
    low, high = network.network_address.packed, network.broadcast_address.packed
    # Bytes compare like the numbers they are, but only among those of one length.
    return Condition("(packed BETWEEN ? AND ? AND length(packed) = ?)", (low, high, len(low)))


def _named(text: str, namespace_column: str, name_column: str) -> Condition:
    namespace, slash, name = text.rpartition("/")
    named = _like(name_column, name)
    return _join(" AND ", [_like(namespace_column, namespace), named]) if slash else named


def _like(column: str, text: str) -> Condition:
    if "*" in text:
        return Condition(f"COALESCE({column} GLOB ?, 0)", (re.sub(r"([\[?])", r"[\1]", text),))
    return Condition(f"{column} IS ?", (text,))


def _negated(term: Term, condition: Condition) -> Condition:
    return Condition(f"NOT {condition.sql}", condition.values) if term.negated else condition


def _or(conditions: list[Condition]) -> Condition:
    return _join(" OR ", conditions)


def _join(word: Literal[" AND ", " OR "], conditions: list[Condition]) -> Condition:
    if len(conditions) == 1:
        return conditions[0]
    sql = word.join(condition.sql for condition in conditions)
    return Condition(f"({sql})", sum((condition.values for condition in conditions), ()))


def _marks(values: tuple[object, ...]) -> str:
    return ", ".join("?" * len(values))
