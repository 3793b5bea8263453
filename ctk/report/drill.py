"""What the live table looks into from a row: the filters that the row's flows fit, and by what."""

from collections.abc import Mapping, Sequence

from ctk.ask.keywords import NAMES
from ctk.ask.sums import Value
from ctk.model import Term

# Behind any list come the peers of its row, and behind these their flows.
PEERS = ("source", "destination", "dst_port", "proto")


def terms_of(by: Sequence[str], keys: Sequence[Value]) -> tuple[Term, ...] | None:
    """Give the filters that a row's flows fit; None where they would let others in, too."""
    terms: list[Term] = []
    for key, value in zip(by, keys, strict=True):
        if key == "dst_port" and value is None and "proto" in by:
            continue  # the protocol, which has none, tells as much
        if value is None and key in _NONE_OF:
            term = _term(key, "*")
            term = term and term._replace(negated=True)  # a name of any text is one that is there
        else:
            term = None if value is None or value == "other" else _term(key, str(value))
        if term is None:
            return None
        terms.append(term)
    return tuple(terms)


# Of one side, and what their filters ask is the column itself: what any name fits, and no name not.
_NONE_OF = (
    "service",
    "src_namespace",
    "dst_namespace",
    "src_workload",
    "dst_workload",
)
_FILTER_OF: Mapping[str, str] = {
    "proto": "protocol",
    "dst_port": "to_port",
    "service": "service",
    "src": "from_ip",
    "dst": "to_ip",
    "src_kind": "from_kind",
    "dst_kind": "to_kind",
    "src_namespace": "from_namespace",
    "dst_namespace": "to_namespace",
    "src_name": "from_pod",
    "dst_name": "to_pod",
    "src_workload": "from_workload",
    "dst_workload": "to_workload",
    "pod": "pod",
    "workload": "workload",
    "namespace": "namespace",
    "external_ip": "ip",
    "endpoint_node": "node",
    "endpoint_zone": "zone",
    "src_node": "from_node",
    "dst_node": "to_node",
}


def _term(key: str, value: str) -> Term | None:
    if key in ("source", "destination"):
        side = "from" if key == "source" else "to"
        if _is_address(value):
            name = f"{side}_ip"
        elif "/" not in value:
            name = f"{side}_node"
        else:
            # A destination without a pod is known by its service.
            name = f"{side}_pod"
    elif key in _FILTER_OF:
        name = _FILTER_OF[key]
    else:
        return None
    asked = NAMES[name]
    return Term(asked.asked.field, asked.side, (value,), False)


def _is_address(text: str) -> bool:
    from ipaddress import ip_address

    try:
        ip_address(text)
    except ValueError:
        return False
    return True
