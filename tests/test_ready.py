"""The file that a probe looks at: there once there are names, and as old as the last commit."""

from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue

import pytest
from click.testing import Result
from test_pipeline import Source, T, ask, listed, tick
from wire import SECOND, Connection, batch

from ctk.errors import UsageError
from ctk.kube.objects import Change, Lost, Resource
from ctk.model import Datagrams
from ctk.record import loop
from ctk.record.plan import Listening, Plan
from ctk.record.ready import ReadyFile
from ctk.store import connect

Invoke = Callable[..., Result]


def opened(n: int) -> Datagrams:
    """The n-th window: one connection begins."""
    at_ns = T + n * 10 * SECOND
    return batch(Connection(port=n + 1, ct_id=n + 1).new(at_ns), at_ns=at_ns)


def record(
    db: Path, steps: Iterator[Datagrams], ready: ReadyFile, changes: "SimpleQueue[Change] | None"
) -> None:
    plan = Plan(node="n1", source="test", live=False, cluster=changes is not None)
    with connect.writer(db) as conn, ready:
        listening = Listening(ready=ready.committed)
        loop.run(conn, Source(steps), plan, changes or SimpleQueue(), listening)


def told(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.exists() else None


def test_it_is_made_when_names_are_there_and_is_as_old_as_the_last_commit(tmp_path: Path) -> None:
    db, path = tmp_path / "node.db", tmp_path / "ready"
    path.touch()  # a recorder that was killed left it
    changes: SimpleQueue[Change] = SimpleQueue()
    seen = []

    def steps() -> Iterator[Datagrams]:
        for n in range(6):
            if n == 3:
                for change in listed(T + 25 * SECOND):
                    changes.put(change)
            yield opened(n)
            seen.append((told(path), ask(db, "SELECT max(committed_ns) FROM recording")[0][0]))

    record(db, steps(), ReadyFile(path), changes)
    named = [committed_ns for _, committed_ns in seen[3:]]
    assert [ready_ns for ready_ns, _ in seen] == [None, None, None, *named]
    assert named[0] < named[-1]
    assert not path.exists()


@pytest.mark.parametrize(
    ("forbidden", "is_ready"), [("nodes", True), ("endpointslices", True), ("pods", False)]
)
def test_what_is_forbidden_is_not_waited_for_but_pods_are(
    tmp_path: Path, forbidden: Resource, is_ready: bool
) -> None:
    path = tmp_path / "ready"
    changes: SimpleQueue[Change] = SimpleQueue()
    changes.put(Lost(forbidden, T, "403", denied=True))
    for change in listed(T):
        if getattr(change, "resource", None) != forbidden:
            changes.put(change)
    seen = []

    def steps() -> Iterator[Datagrams]:
        yield opened(0)
        yield opened(1)
        seen.append(path.exists())

    record(tmp_path / "node.db", steps(), ReadyFile(path), changes)
    assert seen == [is_ready]


def test_where_no_cluster_is_asked_the_first_commit_makes_it(tmp_path: Path) -> None:
    path = tmp_path / "ready"

    def steps() -> Iterator[Datagrams]:
        assert told(path) == T
        yield tick(T)

    record(tmp_path / "node.db", steps(), ReadyFile(path), None)


def test_no_file_of_somebodys_is_taken_for_it(invoke: Invoke, tmp_path: Path) -> None:
    full, link = tmp_path / "full", tmp_path / "link"
    full.write_text("mine")
    link.symlink_to(full)
    for path, why in (
        (full, "is there, and not an empty file\nTry: name another"),
        (link, "is there, and not an empty file\nTry: name another"),
        (tmp_path, "is there, and not an empty file\nTry: name another"),
        (
            tmp_path / "no" / "ready",
            "cannot be written: No such file or directory"
            "\nTry: name a place that can be, such as /tmp/ready",
        ),
    ):
        with pytest.raises(UsageError) as error, ReadyFile(path):
            pass
        assert f"{error.value.message}\nTry: {error.value.hint}" == f"--ready-file {path} {why}"
    assert full.read_text() == "mine"
    result = invoke("record", tmp_path / "node.db", "--ready-file", "r", "--from-capture", "c")
    assert (result.exit_code, result.stderr) == (
        2,
        "Error: --ready-file is for the kernel, not for a capture\n",
    )
