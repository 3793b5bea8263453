"""What the file knew of pods and nodes, told again in the order in which it was told."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ctk.kube.objects import GRACE_S, KubeObject, Node, Pod
from ctk.model.history import KnownObject, ObjectRecord, PodTimes
from ctk.timespan import FOREVER_NS


class Recalled(NamedTuple):
    """An object stood so from `at_ns` on, or `ends` then."""

    object: Pod | Node
    at_ns: int
    watched_ns: int | None = None  # since when all pods were known, as of then
    listed: bool = False  # it may have stood so before that: nobody saw it change
    ends: bool = False
    inferred: bool = False
    sure_until_ns: int | None = None


def changes(known: Iterable[KnownObject]) -> Iterator[Recalled]:
    """Give each state of each object when it was told, and its end where it has one."""
    states: dict[str, list[KnownObject]] = {}
    for each in known:
        if each.record.kind in ("pod", "node"):
            states.setdefault(each.record.uid, []).append(each)
    told: list[Recalled] = []
    for of_one in states.values():
        of_one.sort(key=lambda state: state.record.valid_from_ns)
        # Of a file of before m012, a pod's start is that of its first known state.
        started_ns = of_one[0].record.valid_from_ns
        listed = True
        for state in of_one:
            times = state.record.times
            at_ns = state.record.valid_from_ns if times is None else times.told_ns
            # A file of before m012 does not tell who was watched: all were.
            watched_ns = -FOREVER_NS if times is None else times.watched_ns
            told.append(Recalled(_object(state.record, started_ns), at_ns, watched_ns, listed))
            listed = state.inferred
        last = of_one[-1]
        if last.valid_to_ns is not None:
            end = told[-1]._replace(at_ns=last.valid_to_ns, ends=True, inferred=last.inferred)
            told.append(end._replace(sure_until_ns=last.sure_until_ns))
    yield from sorted(told, key=_order)


def is_untold(each: KubeObject) -> bool:
    """Whether it is a pod that may have had an address that it never told."""
    return isinstance(each, Pod) and each.is_untold


def by_address(each: KubeObject) -> tuple[int, int, int, str]:
    """Sort what is told at once by when it got its addresses, and may have used them."""
    if isinstance(each, Pod):
        return each.gained_ns, each.running_ns or each.gained_ns, each.started_ns, each.uid
    return each.started_ns, each.started_ns, each.started_ns, each.uid


def _order(change: Recalled) -> tuple[int, int, tuple[int, int, int, str]]:
    """
    Of several at one time an end comes first: what one gave back the other got.

    What a list tells comes by when it got its addresses, and then ends that nobody saw, last those
    of pods that never told an address: as `Cluster.put_all` takes it in.
    """
    rank = 2 + is_untold(change.object) if change.inferred else 0 if change.ends else 1
    return change.at_ns, rank, by_address(change.object)


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
    times = record.times or PodTimes(record.valid_from_ns, None, started_ns)
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
        started_ns=times.started_ns,
        ended_ns=times.ended_ns,
        grace_s=GRACE_S if times.grace_s is None else times.grace_s,
        networked_ns=times.networked_ns,
        running_ns=times.running_ns,
    )
