"""What the file knew of pods and nodes, told again in the order in which it happened."""

from collections.abc import Iterable, Iterator

from ctk.kube.objects import Applied, Deleted, Node, Pod
from ctk.model import KnownObject, ObjectRecord


def changes(known: Iterable[KnownObject]) -> Iterator[Applied | Deleted]:
    """
    Give each state of each object when it began, and its end where it has one.

    A pod's start is that of its first known state: the file keeps neither startTime nor grace.
    """
    states: dict[str, list[KnownObject]] = {}
    for each in known:
        if each.record.kind in ("pod", "node"):
            states.setdefault(each.record.uid, []).append(each)
    told: list[tuple[int, bool, Applied | Deleted]] = []
    for of_one in states.values():
        of_one.sort(key=lambda state: state.record.valid_from_ns)
        started_ns = of_one[0].record.valid_from_ns
        for state in of_one:
            at_ns = state.record.valid_from_ns
            told.append((at_ns, True, Applied(_object(state.record, started_ns), at_ns)))
        ended_ns = of_one[-1].valid_to_ns
        if ended_ns is not None:
            last = _object(of_one[-1].record, started_ns)
            told.append((ended_ns, False, Deleted(last, ended_ns)))
    # Of two at one time an end comes first: what one gave back the other got.
    for _, _, change in sorted(told, key=lambda each: each[:2]):
        yield change


def _object(record: ObjectRecord, started_ns: int) -> Pod | Node:
    if record.kind == "node":
        return Node(
            uid=record.uid,
            name=record.name,
            labels=record.labels,
            addresses=record.addresses,
            pod_cidrs=(),
            started_ns=started_ns,
        )
    return Pod(
        uid=record.uid,
        namespace=record.namespace or "",
        name=record.name,
        labels=record.labels,
        node=record.node,
        workload=record.workload,
        workload_kind=record.workload_kind,
        phase=record.phase,
        host_network=record.host_network,
        addresses=record.addresses,
        started_ns=started_ns,
        ended_ns=None,
    )
