"""Pods that are killed or done before their address is told: whose it was is not made up."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_endpoints import (
    T0,
    S,
    backs,
    cluster,
    dial,
    finally_named,
    known,
    listed,
    missed,
    node,
    pod,
    recalled,
    service,
    who,
)

from ctk.kube.objects import Applied, Deleted, Pod
from ctk.kube.ownership import Claim, Ownership
from ctk.kube.untold import Gone, Untold
from ctk.model import Endpoint
from ctk.model.history import Completed, ServiceFound
from ctk.timespan import FOREVER_NS

ADDRESS = "10.244.0.9"
OLD = pod("old", networked_ns=T0, running_ns=T0 + S)
NEXT = pod("next", start=12, networked_ns=T0 + 13 * S, running_ns=T0 + 14 * S)
WAITING = pod("job", "", start=10, phase="Pending")
DONE = replace(WAITING, phase="Succeeded", ended_ns=T0 + 15 * S)
JOB = pod(
    "job",
    start=10,
    networked_ns=T0 + 11 * S,
    running_ns=T0 + 12 * S,
    phase="Failed",
    ended_ns=T0 + 14 * S,
)
OVER = replace(OLD, phase="Failed", ended_ns=T0 + 11 * S)
ASKED_LATE = 0.9  # a window's rows are made at its end
# What is told of whom, and when; None: it is deleted.
Told = tuple[Pod, Pod | None, float]

STORIES: dict[str, tuple[list[Told], dict[float, str]]] = {
    "a Job that is done may have had the address of a pod that was deleted": (
        [(OLD, None, 10), (WAITING, WAITING, 10.2), (DONE, DONE, 15.5)],
        {9: "pod old", 12.5: "unknown", 14.5: "unknown"},
    ),
    "and so it may have had it before the other is said to be gone": (
        [
            (OLD, replace(OLD, terminating=True), 10),
            (WAITING, WAITING, 10.2),
            (DONE, DONE, 15.5),
            (OLD, None, 16),
        ],
        {9: "pod old", 12.5: "unknown", 17: "unknown"},
    ),
    "a Job of another node had another address": (
        [
            (OLD, None, 10),
            (WAITING, replace(WAITING, node="n2"), 10.2),
            (DONE, replace(DONE, node="n2"), 15.5),
        ],
        {9: "pod old", 12.5: "pod old"},
    ),
    "it may be told after the next pod of the address": (
        [
            (OLD, None, 10),
            (WAITING, WAITING, 10.2),
            (NEXT, NEXT, 15),
            (JOB, JOB, 15.5),
        ],
        {9: "pod old", 10.1: "pod old", 12.5: "pod job", 15: "pod next"},
    ),
    "or be gone then": (
        [(OLD, None, 10), (WAITING, WAITING, 10.2), (NEXT, NEXT, 15), (WAITING, None, 15.5)],
        {9: "pod old", 12.5: "unknown", 15: "pod next"},
    ),
    "or have another address": (
        [
            (OLD, None, 10),
            (WAITING, WAITING, 10.2),
            (NEXT, NEXT, 15),
            (WAITING, pod("job", "10.244.0.8", start=10), 16),
        ],
        {9: "pod old", 10.1: "pod old", 12.5: "pod old", 15: "pod next"},
    ),
    "the last second of a pod is its own once the next one is told, and no third was there": (
        [(OVER, OVER, 11.5), (NEXT, NEXT, 15)],
        {9: "pod old", 10.7: "pod old", 15: "pod next"},
    ),
    "where a third was there it is nobody's": (
        [
            (OVER, OVER, 11.5),
            (WAITING, WAITING, 10.2),
            (NEXT, NEXT, 15),
            (JOB, replace(JOB, networked_ns=T0 + 10 * S, running_ns=T0 + 10 * S), 16),
        ],
        {9: "pod old", 10.7: "unknown", 11.5: "pod job", 15: "pod next"},
    ),
    "a pod that is deleted after it gave its address back had it up to when the next ran": (
        [
            (OLD, replace(OLD, terminating=True), 10),
            (OLD, None, 15),
            (NEXT, NEXT, 16),
        ],
        {9: "pod old", 13.5: "pod old", 14.5: "pod next", 15.5: "pod next"},
    ),
    "nobody's is the second in which one that is gone may have left an address": (
        [
            (OLD, None, 5),
            (WAITING, WAITING, 10.2),
            (WAITING, None, 12.5),
            (NEXT, replace(NEXT, running_ns=T0 + 13 * S), 15),
        ],
        {13.5: "unknown", 14: "pod next"},
    ),
}


@pytest.mark.parametrize(("story", "named"), STORIES.values(), ids=STORIES)
def test_what_was_dialled(story: list[Told], named: dict[float, str]) -> None:
    endpoints = cluster(node(), OLD)
    events: list[tuple[float, Told | None]] = [(told[2], told) for told in story]
    dials = {at: T0 + int(at * S) for at in named}
    events += [(at + ASKED_LATE, None) for at in dials]
    asked_of = iter(dials.values())
    answers = []
    for at, told in sorted(events, key=lambda event: event[0]):
        if told is None:
            answers.append(endpoints.at(ADDRESS, next(asked_of)))
            continue
        was, now, _ = told
        at_ns = T0 + int(at * S)
        endpoints.apply(Deleted(was, at_ns) if now is None else Applied(now, at_ns))
    # Long after, when nothing more can be told of it.
    endpoints.apply(Applied(pod("later", "10.244.0.77", start=500), T0 + 500 * S))
    assert finally_named(endpoints, answers) == list(named.values())
    asked = [endpoints.at(ADDRESS, at_ns) for at_ns in dials.values()]
    assert [f"{each.kind} {each.name or ''}".strip() for each in asked] == list(named.values())


def test_a_last_second_is_named_at_once() -> None:
    endpoints = cluster(node(), OLD)
    answer = endpoints.at(ADDRESS, T0 + 10 * S + S // 2)
    endpoints.apply(Applied(OVER, T0 + 11 * S + S // 2))
    endpoints.apply(Applied(NEXT, T0 + 15 * S))
    owned = endpoints.at(ADDRESS, T0 + 10 * S + S // 2)
    assert (owned.name, owned.valid_from_ns) == ("old", answer.valid_from_ns)


def test_one_that_the_file_knew_and_a_list_lacks_may_have_had_the_address() -> None:
    endpoints = recalled(known(OLD), known(replace(WAITING, started_ns=T0 + 95 * S)))
    answers = [endpoints.at(ADDRESS, T0 + at * S) for at in (99, 101, 104)]
    listed(endpoints, [], 110)
    endpoints.apply(Applied(pod("later", "10.244.0.77", start=500), T0 + 500 * S))
    assert finally_named(endpoints, answers) == ["pod old", "unknown", "unknown"]


def test_who_had_the_address_before_the_last_owner_is_no_reason_not_to_name_the_next() -> None:
    """All that was missed is told at once, also of one that was killed long before."""
    endpoints = recalled(known(OLD))
    second = pod("second", start=103, networked_ns=T0 + 104 * S, running_ns=T0 + 105 * S)
    over = replace(second, phase="Failed", ended_ns=T0 + 109 * S)
    third = pod("third", start=108, networked_ns=T0 + 109 * S, running_ns=T0 + 109 * S)
    waiting = replace(WAITING, started_ns=T0 + 101 * S)
    changes = [Applied(waiting, 0), Deleted(OLD, 0), Applied(second, 0), Applied(over, 0)]
    missed(endpoints, *changes, Applied(replace(third, addresses=(), phase="Pending"), 0))
    listed(endpoints, [node(), waiting, over, replace(third, addresses=(), phase="Pending")], 110)
    endpoints.apply(Applied(third, T0 + 111 * S))
    assert who(endpoints, ADDRESS, 109.5) == "pod third"


def test_what_was_dialled_at_an_address_in_doubt_gets_the_service_of_who_had_it() -> None:
    """An address is taken from the pod that was named for it, and then another tells that one."""
    endpoints = cluster(node(), service(), backs("web"), OLD)
    endpoints.apply(Applied(replace(WAITING, started_ns=T0 + 9 * S), T0 + 9 * S))
    endpoints.apply(Deleted(OLD, T0 + 10 * S))
    edge = dial(endpoints, ADDRESS, 8080, at=14.5)
    endpoints.apply(Deleted(WAITING, T0 + 14 * S + S * 3 // 4))
    endpoints.apply(Applied(replace(NEXT, networked_ns=T0 + 12 * S), T0 + 16 * S))
    endpoints.apply(Applied(backs("web", ADDRESS), T0 + 16 * S + S // 2))
    history = endpoints.drain()
    rows = {edge.dialled}
    for each in history:
        if isinstance(each, Completed) and each.unknown in rows:
            rows.add(each.known)
    found = [each for each in history if isinstance(each, ServiceFound)]
    assert [(each.dialled in rows, each.service) for each in found] == [(True, "shop/web")]
    assert NEXT.uid in {row.uid for row in rows}


def test_one_that_was_gone_before_another_did_not_have_its_address() -> None:
    """What was missed is told in order, though not when it was."""
    for first, name in ((WAITING, "pod old"), (OLD, "unknown")):
        waiting = replace(WAITING, started_ns=T0 + 90 * S)
        endpoints = recalled(known(OLD), known(waiting))
        answer = endpoints.at(ADDRESS, T0 + 105 * S)
        second = OLD if first is WAITING else waiting
        missed(endpoints, Deleted(waiting if first is WAITING else OLD, 0), Deleted(second, 0))
        listed(endpoints, [], 110)
        endpoints.apply(Applied(pod("later", "10.244.0.77", start=500), T0 + 500 * S))
        assert finally_named(endpoints, [answer]) == [name]


TIMES = st.integers(0, 30)
GONE = st.builds(
    Gone, st.sampled_from(("n1", "n2")), from_ns=TIMES, to_ns=TIMES, left_ns=TIMES, told_ns=TIMES
)


@given(st.lists(GONE, max_size=40), st.tuples(TIMES, TIMES, TIMES), st.booleans())
def test_those_that_are_gone_answer_as_if_each_was_looked_at(
    all_gone: list[Gone], times: tuple[int, int, int], in_order: bool
) -> None:
    if in_order:
        all_gone.sort(key=lambda each: each.told_ns)
    since, going, to = times
    to += since + 1
    untold = Untold()
    for each in all_gone:
        untold.went(each)
    endpoint = Endpoint(address=ADDRESS, kind="pod", valid_from_ns=0, node="n1")
    owned = Ownership(endpoint, 0, Claim(0, 0), going_ns=going)
    mine = [each for each in all_gone if each.node == "n1" and each.from_ns < to]
    may_have = [each for each in mine if since < each.to_ns and going <= each.told_ns]
    assert untold.first_ns(owned, since, to) == min(
        (max(since, each.from_ns) for each in may_have), default=to
    )
    assert untold.left_ns("n1", since, to) == max(
        (each.left_ns for each in mine if since < each.left_ns), default=-FOREVER_NS
    )
    untold.expire(going)
    left = [each.left_ns for each in mine if max(since, going - 1) < each.left_ns]
    assert untold.left_ns("n1", max(since, going - 1), to) == max(left, default=-FOREVER_NS)


class Looked(Gone):
    """It counts how often it is looked at."""

    times = 0

    @property
    def to_ns(self) -> int:
        Looked.times += 1
        return self[2]


def test_a_pod_that_goes_is_held_against_few_of_those_that_were_rejected() -> None:
    untold = Untold()
    for n in range(20_000):
        untold.went(Looked("n1", n * S, n * S + 3, n * S + 3, n * S + 3))
    endpoint = Endpoint(address=ADDRESS, kind="pod", valid_from_ns=0, node="n1")
    owned = Ownership(endpoint, 0, Claim(0, 0), going_ns=0)
    Looked.times = 0
    assert untold.first_ns(owned, 11_000 * S + 5, 12_000 * S) == 11_001 * S
    assert Looked.times < 20


@given(st.lists(st.tuples(st.sampled_from("abc"), st.none() | TIMES)), TIMES)
def test_one_that_has_told_its_address_is_not_awaited(
    told: list[tuple[str, int | None]], when: int
) -> None:
    untold, there = Untold(), dict[str, int]()
    for uid, since in told:
        if since is None:
            assert untold.told(uid) == (there.pop(uid, None) is not None)
        else:
            untold.await_address(uid, since)
            there[uid] = since
    assert untold.awaits(when) == any(since <= when for since in there.values())
