"""
What really happened on a node with churn, and a recording held against it.

Each client writes down what it dialled, each server who it is; the script writes down when the
API server told of a pod, and when the recorder ran. A pod carries its uid as a label, so that a
row of flows says which of two pods with one name it means.
"""

import json
import sqlite3
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

_SECOND_NS = 10**9
UID = "uid"  # the label
_TOLD_NS = 2 * _SECOND_NS  # what is told is in the file so much later: it is written each second
_KILLED_LATE_NS = 2 * _SECOND_NS  # how long what is deleted by force may live on, at most
_AROUND_NS = 5 * _SECOND_NS  # an EndpointSlice is told that much before or after it is in force
_BEGUN_NS = _SECOND_NS // 10  # a client looks at its clock before it dials, and may wait then


@dataclass(slots=True, eq=False)
class Life:
    """What happened to a pod, in ns; 0 is not yet."""

    uid: str
    name: str
    node: str
    address: str = ""
    created_ns: int = 0
    wired_ns: int = 0  # the address is its own, in the network
    began_ns: int = 0  # its process
    posted_ns: int = 0  # the API server has its address
    served_ns: list[int] = field(default_factory=list)  # and told it to a recorder
    final_ns: int = 0  # the API server has its last phase
    deleted_ns: int = 0
    ended_ns: int = 0  # its process
    unwired_ns: int = 0
    how: str = ""

    def is_killed(self, now_ns: int) -> bool:
        """Whether a kubelet has killed it by now; the script may be late on a busy machine."""
        return self.how == "forced" and 0 < self.deleted_ns < now_ns - _KILLED_LATE_NS

    def story(self, since_ns: int) -> str:
        told = [at for at in self.served_ns if at]
        times = {
            "created": self.created_ns,
            "wired": self.wired_ns,
            "began": self.began_ns,
            "posted": self.posted_ns,
            "served": told[0] if told else 0,
            "ended": self.ended_ns,
            "unwired": self.unwired_ns,
            "final": self.final_ns,
            "deleted": self.deleted_ns,
        }
        said = " ".join(f"{name} {_s(at, since_ns)}" for name, at in times.items() if at)
        return f"{self.name} {self.address} ({self.how or 'lives'}): {said}"


@dataclass(slots=True, eq=False)
class Dial:
    """One connection, as its client and its server know it."""

    proto: str
    src: str
    src_port: int
    dst: str
    dst_port: int
    at_ns: int  # before it was dialled
    source: str  # the pod's uid; "node" or "external"
    server: str = ""  # the same, as it answered; "" where nobody did
    service: str = ""  # of the ClusterIP or NodePort that was dialled
    closed_ns: int = 0
    made_ns: int = 0  # and after: the kernel's time is in between, and may be of the next second

    @property
    def key(self) -> tuple[str, str, int, str, int]:
        return self.proto, self.src, self.src_port, self.dst, self.dst_port


class Session(NamedTuple):
    """A recorder's run. It misses nothing from `listening_ns` to `asked_ns`."""

    spawned_ns: int
    listening_ns: int  # 0: it did not come so far
    asked_ns: int
    ended_ns: int
    signal: str

    def written_ns(self, committed_ns: list[int]) -> int:
        """Up to when what it was told is in the file, which says up to when each is in it."""
        if self.signal != "KILL":
            return self.asked_ns
        mine = (ns for ns in committed_ns if self.spawned_ns <= ns <= self.ended_ns)
        return max(mine, default=0)


@dataclass(slots=True)
class Truth:
    """All of it."""

    started_ns: int
    window_ns: int
    lives: dict[str, Life] = field(default_factory=dict)
    dials: list[Dial] = field(default_factory=list)
    sessions: list[Session] = field(default_factory=list)
    by_address: dict[str, list[Life]] = field(default_factory=lambda: defaultdict(list))
    # Address and port: the service, and from and to when a slice listed it.
    listed: dict[tuple[str, int], list[tuple[str, int, int]]] = field(
        default_factory=lambda: defaultdict(list)
    )

    def told(self, life: Life) -> bool:
        """Whether a recorder heard of its address, and had the time to write that down."""
        return any(
            session.listening_ns
            and session.spawned_ns <= at_ns < session.asked_ns
            and (
                session.signal != "KILL"
                or session.asked_ns - max(at_ns, session.listening_ns) > _TOLD_NS
            )
            for at_ns in life.served_ns
            for session in self.sessions
        )

    @property
    def heard_ns(self) -> int:
        """When a recorder was first told of a pod's address."""
        return min((at_ns for life in self.lives.values() for at_ns in life.served_ns), default=0)

    def recorded(self, at_ns: int, committed_ns: list[int]) -> bool:
        """Whether a recorder ran then, and lived on to write it: the file says up to when."""
        for each in self.sessions:
            if each.listening_ns and each.listening_ns <= at_ns < each.asked_ns:
                late_ns = _SECOND_NS if each.signal == "KILL" else 0
                return at_ns < each.written_ns(committed_ns) - late_ns
        return False

    def watched(self, at_ns: int, committed_ns: list[int]) -> bool:
        """
        Whether a recorder was told of pods then, and the file is.

        What a killed one was told after its last commit is told again to the next one, which does
        not hear when it happened.
        """
        return any(
            each.listening_ns and each.listening_ns <= at_ns < each.written_ns(committed_ns)
            for each in self.sessions
        )

    def untold(self, node: str) -> Iterator[Life]:
        """The pods of a node that are gone, and of whose address no recorder was told."""
        for each in self.lives.values():
            if each.node == node and each.deleted_ns and not each.served_ns:
                yield each

    def neighbours(self, life: Life) -> tuple[Life | None, Life | None]:
        """Who had its address before it, and who has it after."""
        if not self.by_address:
            for each in sorted(self.lives.values(), key=lambda each: each.wired_ns):
                if each.wired_ns:
                    self.by_address[each.address].append(each)
        lives = self.by_address[life.address]
        n = lives.index(life)
        return lives[n - 1] if n else None, lives[n + 1] if n + 1 < len(lives) else None

    def services_of(
        self, address: str, port: int, server: Life | None, at_ns: int
    ) -> set[str | None]:
        """The service that listed what answered there; about then it may be one or none."""
        may: set[str | None] = {None}
        for service, from_ns, to_ns in self.listed.get((address, port), ()):
            if server and not server.wired_ns <= from_ns < (server.unwired_ns or from_ns + 1):
                continue  # it is another pod's that had the address
            if server and from_ns <= at_ns < (to_ns or at_ns + 1):
                return {service}
            if from_ns - _AROUND_NS <= at_ns < (to_ns or at_ns + 1) + _AROUND_NS:
                may.add(service)
        return may


class Row(NamedTuple):
    """What is asked of the view `flows`."""

    proto: str
    src: str
    src_port: int | None
    dst: str
    dst_port: int | None
    started_ns: int
    ended_ns: int
    src_kind: str
    src_name: str | None
    src_labels: str | None
    dst_kind: str
    dst_name: str | None
    dst_labels: str | None
    service: str | None
    service_via: str | None
    connections: int


@dataclass(slots=True)
class Verdict:
    """
    How many connections stand right, and what is wrong with the others.

    A connection is wrong if any of its rows is. `samples` are stories of some that are not right.
    """

    counts: Counter[str] = field(default_factory=Counter)
    services: Counter[str] = field(default_factory=Counter)
    samples: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def note(self, what: str, story: str, most: int = 8) -> None:
        self.counts[what] += 1
        if len(self.samples[what]) < most:
            self.samples[what].append(story)

    def lines(self) -> Iterator[str]:
        """The counts, a line each kind."""
        for title, counts in (("connections", self.counts), ("services", self.services)):
            yield f"{title}: " + ", ".join(f"{name} {n}" for name, n in sorted(counts.items()))

    def faults(self) -> list[str]:
        """
        Name what is not right, and could be.

        A wrong name is never excused. No name is, where the whole seconds of the API leave open
        whose an address was (docs/kubernetes.md), and of a pod that no recorder was told of. So
        is a dialled pod without its service, for the file keeps no slices.
        """
        excused = (", that second", ", never told")
        faults = [
            what
            for what in self.counts
            if what.startswith("wrong") or (what.startswith("none") and not what.endswith(excused))
        ]
        return faults + [f"service {what}" for what in self.services if what.startswith("wrong")]

    def stories(self) -> Iterator[str]:
        for what, samples in self.samples.items():
            yield f"-- {what}"
            yield from samples


class File(NamedTuple):
    """What the file says that bears on what could be known."""

    known: set[str]  # the uids of the pods that it knows by an address
    committed_ns: list[int]  # up to when each recording is in it


def judge(truth: Truth, db: Path) -> Verdict:
    """Hold every row of a file against the truth."""
    verdict = Verdict()
    dials: dict[tuple[object, ...], list[Dial]] = defaultdict(list)
    for dial in sorted(truth.dials, key=lambda dial: dial.at_ns):
        dials[dial.key].append(dial)
    began = {key: [dial.at_ns for dial in of] for key, of in dials.items()}
    mine = {dial.src for dial in truth.dials}
    found: dict[int, list[Row]] = defaultdict(list)
    by_id = {id(dial): dial for dial in truth.dials}
    file = File(_known(db), _committed_ns(db))
    for row in _rows(db):
        key = row[:5]
        n = bisect_right(began.get(key, ()), row.ended_ns + _BEGUN_NS)
        if n:
            found[id(dials[key][n - 1])].append(row)
        elif key in dials or (row.src in mine and row.src_port is not None):
            verdict.note("nobody made", f"{row}", 3)
    for which, dial in by_id.items():
        rows = found.get(which)
        if rows is None:
            if not truth.recorded(dial.at_ns, file.committed_ns):
                verdict.counts["missing while nobody recorded"] += 1
            elif dial.server:
                verdict.note("missing", _story(truth, dial, None))
            else:
                verdict.counts["failed and unseen"] += 1
            continue
        _judge(truth, verdict, dial, rows, file)
    return verdict


def _judge(truth: Truth, verdict: Verdict, dial: Dial, rows: list[Row], file: File) -> None:
    verdict.counts["held"] += 1
    if sum(row.connections for row in rows) > 1:
        verdict.note("counted twice", _story(truth, dial, rows[-1]))
    worst: tuple[int, str, Row] = (0, "right", rows[0])
    for row in rows:
        for side, expected, kind, labels in (
            ("source", dial.source, row.src_kind, row.src_labels),
            ("server", dial.server, row.dst_kind, row.dst_labels),
        ):
            got = json.loads(labels or "{}").get(UID, "") if kind == "pod" else kind
            if expected:
                bad, what = _hold(truth, expected, got, side, file.known)
                if bad:
                    what += _but(truth, dial, expected, row, file)
                worst = max(worst, (bad + bool(bad and row.connections), what, row), key=_rank)
        if worst[0] == 0 and not dial.server and row.dst_kind == "pod":
            named = truth.lives.get(json.loads(row.dst_labels or "{}").get(UID, ""))
            if named is None or not _could_be(named, dial.at_ns):
                worst = (4, "wrong server of a failed one", row)
    if worst[0]:
        verdict.note(worst[1], _story(truth, dial, worst[2]))
    else:
        verdict.counts["right"] += 1
    _judge_service(truth, verdict, dial, rows)


def _rank(each: tuple[int, str, Row]) -> int:
    return each[0]


def _hold(truth: Truth, expected: str, got: str, side: str, known: set[str]) -> tuple[int, str]:
    """How bad one side of a row is, and what that is called."""
    if got == expected or (expected == "external" and got == "unknown"):
        return 0, "right"
    life = truth.lives.get(expected)
    if got not in ("unknown", "external"):
        return 5, f"wrong {side}" if got in truth.lives else f"wrong {side}: {got} for {expected}"
    if life is None:
        return 3, "none: the node's own"
    if expected not in known and not truth.told(life):
        return 1, "none"
    return 3, f"none: {side} that " + ("the file knows" if expected in known else "was told")


def _but(truth: Truth, dial: Dial, expected: str, row: Row, file: File) -> str:
    """What makes a row that is not right less bad."""
    but = "" if row.connections else ", a later row"
    life = truth.lives.get(expected)
    if life is None:
        return but
    for at_ns in (dial.at_ns, dial.made_ns):
        seen = truth.watched(at_ns, file.committed_ns)
        if _shared(truth, life, at_ns // _SECOND_NS) or _beside_untold(
            truth, life, at_ns, seen=seen
        ):
            return f"{but}, that second"
    if expected not in file.known and not truth.told(life):
        # No recorder could know of it: who had its address before is taken to have it still.
        return f"{but}, never told"
    for each in truth.sessions:
        if each.spawned_ns <= row.ended_ns < each.ended_ns and not any(
            at_ns < each.asked_ns for at_ns in life.served_ns
        ):
            return f"{but}, told to a later run"
    return but


def _shared(truth: Truth, life: Life, second: int) -> bool:
    """
    Whether it may have been another's connection, for all that the API tells.

    It has whole seconds. In the one in which a pod got its address and ran, too, the pod before it
    may have used it last; of one that was deleted by force nobody tells when it ended, nor, to a
    recorder that was away, when it was deleted. So may any pod of its node have done that went
    without telling an address. And before the first list nothing tells that there was no other.
    """
    before, after = truth.neighbours(life)
    if after and _got_and_ran(after, second):
        return True
    if not _got_and_ran(life, second):
        return False
    if any(
        other.created_ns // _SECOND_NS <= second and _left_ns(truth, other) > second * _SECOND_NS
        for other in truth.untold(life.node)
    ):
        return True
    if before is None:
        return second * _SECOND_NS < truth.heard_ns
    left_ns = _left_ns(truth, before) if before.how == "forced" else before.ended_ns
    return left_ns > second * _SECOND_NS


def _left_ns(truth: Truth, life: Life) -> int:
    """
    Up to when one that is gone may have used an address, where it does not tell when it ended.

    It is gone when a recorder hears of it; of one that came later, some time before.
    """
    told_ns = life.final_ns or life.deleted_ns
    heard = (each.listening_ns for each in truth.sessions if each.asked_ns > told_ns)
    heard_ns = max(told_ns, min(filter(None, heard), default=told_ns))
    return heard_ns + (_KILLED_LATE_NS if life.how == "forced" else 0)


def _beside_untold(truth: Truth, life: Life, at_ns: int, *, seen: bool) -> bool:
    """
    Whether a pod of its node that never told an address may have had this one's then.

    This one must have been about to go, or gone while nobody recorded (not `seen`).
    """
    going_ns = life.deleted_ns if life.how == "forced" else life.ended_ns
    if seen and not 0 < going_ns // _SECOND_NS <= at_ns // _SECOND_NS:
        return False
    return any(
        other.created_ns // _SECOND_NS <= at_ns // _SECOND_NS and other.deleted_ns >= life.wired_ns
        for other in truth.untold(life.node)
    )


def _got_and_ran(life: Life, second: int) -> bool:
    return life.wired_ns // _SECOND_NS == second == life.began_ns // _SECOND_NS


def _judge_service(truth: Truth, verdict: Verdict, dial: Dial, rows: list[Row]) -> None:
    """A ClusterIP's or NodePort's is known; a dialled pod has one where one slice lists it."""
    may: set[str | None] = {dial.service}
    if not dial.service:
        server = truth.lives.get(dial.server)
        may = truth.services_of(dial.dst, dial.dst_port, server, dial.at_ns)
    judged = "right"
    for row in sorted(rows, key=lambda row: row.connections):
        what = "" if row.connections else ", a later row"
        if row.service not in {*may, None}:
            judged = f"wrong{what}"
        elif row.service not in may and not judged.startswith("wrong"):
            judged = f"none{what}" if dial.service else f"none of a dialled pod{what}"
    verdict.services[judged] += 1
    samples = verdict.samples[f"service {judged}"]
    if judged != "right" and len(samples) < 5:
        got = {row.service for row in rows}
        samples.append(f"{got} for {may}: {_story(truth, dial, rows[0])}")


def _could_be(life: Life, at_ns: int) -> bool:
    """Nobody answered: it may be a pod that had the address until now, or has it from now on."""
    return life.wired_ns - 2 * _SECOND_NS <= at_ns and (
        not life.unwired_ns or at_ns <= life.unwired_ns + 2 * _SECOND_NS
    )


def _story(truth: Truth, dial: Dial, row: Row | None) -> str:
    since = truth.started_ns
    told = [
        f"{dial.proto} {dial.src}:{dial.src_port} -> {dial.dst}:{dial.dst_port}"
        f" at {_s(dial.at_ns, since)}"
    ]
    if row is not None:
        told[0] += f", row {_s(row.started_ns, since)} to {_s(row.ended_ns, since)}"
    for side, uid, labels, kind in (
        ("source", dial.source, row and row.src_labels, row and row.src_kind),
        ("server", dial.server, row and row.dst_labels, row and row.dst_kind),
    ):
        life = truth.lives.get(uid)
        told.append(f"   {side}: {life.story(since) if life else uid or '?'}")
        if row is not None:
            named = json.loads(labels or "{}").get(UID, "")
            if named != uid and (life or kind == "pod"):
                other = truth.lives.get(named)
                told.append(f"     named: {other.story(since) if other else kind}")
    near = [
        f"{_s(each.spawned_ns, since)}/{_s(each.listening_ns, since)}"
        f"-{_s(each.asked_ns, since)}/{_s(each.ended_ns, since)} {each.signal}"
        for each in truth.sessions
        if abs(each.spawned_ns - dial.at_ns) < 20 * _SECOND_NS
        or each.spawned_ns <= dial.at_ns <= each.ended_ns
    ]
    told.append(f"   recorder: {'; '.join(near)}")
    return "\n".join(told)


def _s(at_ns: int, since_ns: int) -> str:
    """The whole seconds are those of the clock, as the API server rounds them."""
    return f"{at_ns / 1e9 - since_ns // _SECOND_NS:.3f}" if at_ns else "-"


def _rows(db: Path) -> Iterator[Row]:
    with closing(sqlite3.connect(f"file:{db}?mode=ro", uri=True)) as conn:
        sql = f"SELECT {', '.join(Row._fields)} FROM flows WHERE proto IN ('tcp', 'udp')"
        yield from map(Row._make, conn.execute(sql))


def _committed_ns(db: Path) -> list[int]:
    """Up to when each recording is in the file."""
    with closing(sqlite3.connect(f"file:{db}?mode=ro", uri=True)) as conn:
        return [ns for (ns,) in conn.execute("SELECT committed_ns FROM recordings")]


def _known(db: Path) -> set[str]:
    """The uids of the pods that the file knows by an address."""
    with closing(sqlite3.connect(f"file:{db}?mode=ro", uri=True)) as conn:
        pods = conn.execute("SELECT uid, addresses FROM pods").fetchall()
    return {uid for uid, addresses in pods if "." in (addresses or "")}
