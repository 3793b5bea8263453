"""
Filter terms to ClickHouse's SQL, over the columns of a row: what selectors.py is for SQLite.

Every value is bound. What a row does not tell, such as labels, is no condition here: None.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from ipaddress import ip_network

from ctk.conntrack.names import parse_protocol, protocol_name
from ctk.model import Field, Term
from ctk.model.numbers import parse_count, parse_ports, parse_size

_WILD = re.compile(r"[*?]")
ANSWERED = "ifNull(nat_dst, dst)"  # the backend's address
_SERVICE_NAME = "substring(service, position(service, '/') + 1)"
_SERVICE_NAMESPACE = "substring(service, 1, position(service, '/') - 1)"
_BYTES = "coalesce(bytes_out + bytes_in, bytes_out, bytes_in, -1)"
# What a side does not have is in no other namespace, or zone.
_PLAIN: Mapping[Field, str] = {
    "cross_namespace": "ifNull(src_namespace <> dst_namespace, 0)",
    "cross_zone": "ifNull(src_node_zone <> dst_node_zone, 0)",
    "failed": "(unreplied > 0 OR refused > 0)",
    "refused": "refused > 0",
    "unreplied": "unreplied > 0",
}
_LEAST: Mapping[Field, tuple[Callable[[str], int], str]] = {
    "min_bytes": (parse_size, _BYTES),
    "min_connections": (parse_count, "connections"),
}


class Bound(dict[str, object]):
    """Values to bind, by the names that SQL has for them."""

    def add(self, value: object, kind: str = "String") -> str:
        """Bind a value; give what stands for it."""
        name = f"p{len(self)}"
        self[name] = value
        return f"{{{name}:{kind}}}"


def condition(terms: Iterable[Term], bound: Bound) -> str | None:
    """Give the SQL that all terms hold; None where a row cannot tell."""
    found = []
    for term in terms:
        sql = _of_term(term, bound)
        if sql is None:
            return None
        found.append(f"NOT ({sql})" if term.negated else f"({sql})")
    return " AND ".join(found) or "1"


def _of_term(term: Term, bound: Bound) -> str | None:
    if term.field == "label" or (term.field, term.side) == ("port", "from"):
        return None
    if term.field in _PLAIN:
        return _PLAIN[term.field]
    if term.field in _LEAST:
        parse, counted = _LEAST[term.field]
        return f"{counted} >= {bound.add(min(map(parse, term.values)), 'UInt64')}"
    if term.field == "protocol":
        names = [protocol_name(parse_protocol(text)) for text in term.values]
        return f"has({bound.add(names, 'Array(String)')}, proto)"
    return _or(each for text in term.values for each in _fitting(term, text, bound))


def _fitting(term: Term, text: str, bound: Bound) -> list[str]:
    """Give the conditions of which one must hold for one value of a term."""
    if term.field == "ip":
        return _of_address(term, text, bound)
    if term.field in _OF_SIDE:
        sides = {"from": ("src",), "to": ("dst",)}.get(term.side, ("src", "dst"))
        return [_OF_SIDE[term.field](side, text, bound) for side in sides]
    if term.field == "port":
        return [_port(column, text, bound) for column in ("dst_port", "nat_dst_port")]
    return [_named(text, _SERVICE_NAMESPACE, _SERVICE_NAME, _like, bound)]


def _or(conditions: Iterable[str]) -> str:
    return " OR ".join(f"({each})" for each in conditions)


def _like(column: str, text: str, bound: Bound) -> str:
    if not _WILD.search(text):
        return f"ifNull({column} = {bound.add(text)}, 0)"
    pattern = re.sub(r"[\\%_]", r"\\\g<0>", text).replace("*", "%").replace("?", "_")
    return f"ifNull({column} LIKE {bound.add(pattern)}, 0)"


def _begins(column: str, text: str, bound: Bound) -> str:
    if _WILD.search(text):
        return _like(column, text, bound)
    return _or([_like(column, text, bound), _like(column, f"{text}-*", bound)])


def _named(
    text: str,
    namespace: str,
    name: str,
    like: Callable[[str, str, Bound], str],
    bound: Bound,
) -> str:
    space, slash, rest = text.rpartition("/")
    named = like(name, rest or "*" if slash else rest, bound)
    return f"{_like(namespace, space, bound)} AND ({named})" if slash else named


def _pod(side: str, text: str, bound: Bound) -> str:
    named = _named(text, f"{side}_namespace", f"{side}_name", _begins, bound)
    return f"{side}_kind = 'pod' AND ({named})"


def _node(side: str, text: str, bound: Bound) -> str:
    itself = f"{side}_kind = 'node' AND {_like(f'{side}_name', text, bound)}"
    return _or([_like(f"{side}_node", text, bound), itself])


def _workload(side: str, text: str, bound: Bound) -> str:
    return _named(text, f"{side}_namespace", f"{side}_workload", _like, bound)


_OF_SIDE: Mapping[Field, Callable[[str, str, Bound], str]] = {
    "namespace": lambda side, text, bound: _like(f"{side}_namespace", text, bound),
    "pod": _pod,
    "workload": _workload,
    "node": _node,
    "zone": lambda side, text, bound: _like(f"{side}_node_zone", text, bound),
    "kind": lambda side, text, bound: f"{side}_kind = {bound.add(text)}",
}


def _port(column: str, text: str, bound: Bound) -> str:
    ports = parse_ports(text)
    low, high = bound.add(ports[0], "UInt16"), bound.add(ports[-1], "UInt16")
    return f"ifNull({column} BETWEEN {low} AND {high}, 0)"


def _of_address(term: Term, text: str, bound: Bound) -> list[str]:
    columns = {"from": (("src", "src_id"),), "to": (("dst", "dialled_id"), (ANSWERED, "dst_id"))}
    sides = columns.get(term.side, (*columns["from"], *columns["to"]))
    return [_within(*side, text, bound) for side in sides]


def _within(column: str, row_id: str, text: str, bound: Bound) -> str:
    """Fit an address; the endpoint that stands for many has none."""
    if "*" in text:
        return f"{row_id} > 0 AND {_like(column, text.lower(), bound)}"
    network = ip_network(text, strict=False)
    first, last = (bound.add(str(each)) for each in (network[0], network[-1]))
    six = network.version == 6
    to = "toIPv6" if six else "toIPv4"
    # An address of version 4 is read as one of version 6, too.
    only = f"position({column}, ':') > 0 AND " if six else ""
    return f"{only}ifNull({to}OrNull({column}) BETWEEN {to}({first}) AND {to}({last}), 0)"


def folded_terms(terms: Sequence[Term]) -> Sequence[Term] | None:
    """Give the other terms, where an address or a port is asked for; else None."""
    kept = [term for term in terms if term.negated or term.field not in ("ip", "port")]
    return kept if len(kept) < len(terms) else None
