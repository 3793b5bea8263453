"""Who is seen for the first time: not by another pod of the workload, nor after all was pruned."""

from emptyfile import new
from hypothesis import given
from hypothesis import strategies as st
from questions import EDGES, EXTERNAL, ROWS, START, WEB1, WEB2, finish, flows, write
from recorded import T, file, flow_row, lost
from test_failures import key_of

from ctk.ask.caveats import BeganLater, HasGaps, StrangersForgotten
from ctk.ask.new import New
from ctk.ask.new import new as ask
from ctk.model import Filters, FlowRow, Term
from ctk.store import peers, prune, rollup
from ctk.store.orphans import Orphans
from ctk.store.peers import Peer
from ctk.timespan import DAY, SECOND

DB = Peer("shop/web", "shop/db", 5432, "tcp")


def _told(answer: New) -> dict[Peer, int]:
    return {row.peer: (row.first_ns - T) // SECOND for row in answer.rows}


def test_a_peer_is_new_once_and_not_again_by_another_pod_of_its_workload() -> None:
    conn = file((0, 120), rows=[flow_row(10, 0), flow_row(70, 1), flow_row(80, 7)])
    out = Peer("shop/web", "203.0.113.0", 443, "tcp")
    assert _told(ask(conn, Filters())) == {DB: 10, out: 80}
    assert _told(ask(conn, Filters(since_ns=T + 60 * SECOND))) == {out: 80}
    assert _told(ask(conn, Filters(until_ns=T + 60 * SECOND))) == {DB: 10}
    conn.close()


def test_a_filter_picks_flows_but_does_not_make_an_old_peer_new() -> None:
    conn = file((0, 120), rows=[flow_row(10, 0), flow_row(70, 1)])
    web2 = Term("pod", "from", (f"{WEB2.namespace}/{WEB2.name}",))
    since = Filters(since_ns=T + 60 * SECOND, terms=(web2,))
    assert _told(ask(conn, since)) == {}
    assert _told(ask(conn, since._replace(since_ns=None))) == {DB: 10}
    conn.close()


def test_the_counts_are_those_of_the_span() -> None:
    conn = file((0, 120), rows=[flow_row(10, 0, 500), flow_row(70, 0, 700)])
    [row] = ask(conn, Filters(until_ns=T + 60 * SECOND)).rows
    assert (row.counts.connections, row.counts.bytes) == (3, 500)
    conn.close()


def test_what_was_seen_first_only_since_the_recording_began_is_said() -> None:
    conn = file((0, 120), gaps=[lost(5)], rows=[flow_row(10, 0), flow_row(70, 0)])
    caveats = ask(conn, Filters()).caveats
    assert caveats[0] == BeganLater(T)
    assert caveats[0].text == (
        "recording began 2024-11-25T18:40:00Z: what was there before was first seen then"
    )
    assert [type(caveat) for caveat in caveats[1:]] == [HasGaps]
    assert ask(conn, Filters(since_ns=T + 60 * SECOND)).caveats == ()
    conn.close()


def test_where_strangers_were_too_many_to_remember_it_is_said(monkeypatch) -> None:
    conn = file((0, 120), rows=[flow_row(10, 0)])
    monkeypatch.setattr(peers, "MOST_STRANGERS", 0)
    assert StrangersForgotten() in ask(conn, Filters()).caveats
    conn.close()


@given(ROWS, st.integers(0, 3 * DAY), st.lists(st.integers(0, 4 * DAY), max_size=2))
def test_new_is_what_no_flow_before_the_span_had_whatever_was_pruned(
    rows: list[FlowRow], cut_ns: int, prunes: list[int]
) -> None:
    """Rows come in order, as they do; what was pruned is asked about no more."""
    conn = new()
    rows = sorted(rows, key=lambda row: row.started_ns)
    since_ns = START + cut_ns
    before = [row for row in rows if row.started_ns < since_ns]
    write(conn, before)
    for at_ns in (min(prune_ns, cut_ns) for prune_ns in prunes):
        finish(rollup.fold(conn, START + at_ns))
        orphans = Orphans(conn, lambda table, ids: None)
        finish(
            prune.by_age(conn, START + at_ns, dict.fromkeys(("flow", "1m", "1h", "1d"), 0), orphans)
        )
        finish(orphans.sweep())
    write(conn, rows[len(before) :])
    whole = new()
    write(whole, rows)
    first: dict[Peer, int] = {}
    for flow in flows(whole):
        client, service, backend, port, proto = key_of(flow)
        server = service or (
            f"{flow.dst_namespace}/{flow.dst_workload}" if flow.dst_workload else backend
        )
        first.setdefault(Peer(client, server, port, proto), flow.started_ns)
    found = {row.peer: row.first_ns for row in ask(conn, Filters(since_ns=since_ns)).rows}
    assert found == {peer: at_ns for peer, at_ns in first.items() if at_ns >= since_ns}
    conn.close()
    whole.close()


def test_an_old_edge_of_which_nothing_is_known_is_not_new() -> None:
    conn = file((0, 120), rows=[flow_row(10, 0)])
    conn.execute("UPDATE edge SET first_ns = NULL")
    assert ask(conn, Filters()).rows == ()
    conn.close()


def test_the_names_of_these_tests_are_those_of_the_edges() -> None:
    assert (EDGES[0].src, EDGES[1].src, EDGES[7].dialled) == (WEB1, WEB2, EXTERNAL[0])
