"""`ctk record`: what it refuses, in one line, before it makes a file; and how it ends."""

import fcntl
import gzip
import json
import os
import pty
import re
import signal
import sqlite3
import struct
import subprocess
import sys
import termios
import time
from contextlib import suppress
from itertools import islice
from pathlib import Path
from shutil import copy2
from typing import Any, Self

import pytest
from edges import with_ids
from live.playednode import objects, until
from sample import AT, ROWS

from ctk.conntrack.capture import Capture
from ctk.model import EventCounts
from ctk.store import connect
from ctk.store.write import Writer

CAPTURES = Path(__file__).parents[1] / "fixtures" / "captures"
NODE = str(CAPTURES / "node.ctkcap.gz")
CTK = (sys.executable, "-m", "ctk")


def lines(message: str, hint: str | None = None) -> str:
    return f"Error: {message}\n" + (f"Try: {hint}\n" if hint else "")


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (
            "--no-kube --objects o.json",
            "--objects and --no-kube exclude each other",
            "give one of them",
        ),
        (
            "--kubeconfig /dev/null --objects o.json --no-kube",
            "--kubeconfig and --objects and --no-kube exclude each other",
            "give one of them",
        ),
        ("--context c", "--context needs --kubeconfig", "--kubeconfig ~/.kube/config"),
        ("--kubeconfig nope", "--kubeconfig nope is not there", "--kubeconfig ~/.kube/config"),
        ("--kubeconfig .", "--kubeconfig . is a directory", "--kubeconfig ~/.kube/config"),
        (
            "--from-capture c --capture d",
            "--capture and --from-capture exclude each other",
            "give one of them",
        ),
        (
            "--from-capture c --enable-accounting",
            "--enable-accounting is for the kernel, not for a capture",
            None,
        ),
        ("--window 0s", "--window is shorter than a second", "--window 10s"),
        (
            "--accounting-interval 0s",
            "--accounting-interval is shorter than a second",
            "--accounting-interval 10s",
        ),
        ("--window soon", "'soon' is not a duration", "write it as 90s, 15m, 2h or 7d"),
        ("--max-time 5", "'5' is not a duration", "write it as 90s, 15m, 2h or 7d"),
        (
            "--cidr 10.0.0.0/33",
            "'10.0.0.0/33' is not an address or a CIDR",
            "write it as 10.244.0.0/16 or fd00::/8",
        ),
        (
            "--exclude-cidr pods",
            "'pods' is not an address or a CIDR",
            "write it as 10.244.0.0/16 or fd00::/8",
        ),
        (
            "--protocol http",
            "'http' is not a protocol",
            "a number up to 255, or icmp, igmp, ipip, tcp, udp, dccp, gre, esp, ah, icmpv6, sctp,"
            " udplite",
        ),
        ("--events new,gone", "'gone' is not an event", "write new,update,destroy"),
        (
            "--retain flows",
            "'flows' is not a retention",
            "write it as flows=24h, 1m=7d, 1h=90d or 1d=730d",
        ),
        ("--retain 2m=1d", "'2m=1d' is not a retention", None),
        ("--port http", "'http' is not a port", None),
        ("--max-size big", "'big' is not a size", None),
        ("--max-size 1", "'1' is too small for a file of flows", "2MiB or more: 64MiB"),
        ("--max-size 2047K", "'2047K' is too small for a file of flows", "2MiB or more: 64MiB"),
        (
            "--aggregate all",
            "'all' is not a value of --aggregate",
            "--aggregate ports, connections or none",
        ),
        ("--nope", "No such option", None),
        ("--capture node.db", "--capture is DB itself", "give it another name"),
        ("--log ./node.db", "--log is DB itself", "give it another name"),
        ("--log -", "--log would be a file of the name -", "/dev/stdout is standard output"),
        (
            "--capture -",
            "--capture would be a file of the name -",
            "/dev/stdout is standard output",
        ),
        ("--log node.db-wal", "--log is DB itself", "give it another name"),
        ("--from-capture c --log c", "--log is --from-capture", "give it another name"),
    ],
)
def test_what_is_asked_wrongly_is_one_error_and_makes_no_file(
    invoke, tmp_path, monkeypatch, words, message, hint
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KUBECONFIG", raising=False)
    result = invoke("record", "node.db", *words.split())
    assert (result.exit_code, result.stdout, list(tmp_path.iterdir())) == (2, "", [])
    error, *tries = result.stderr.splitlines()
    assert error.startswith(f"Error: {message}")
    assert len(tries) <= 1
    if hint is not None:
        assert tries == [f"Try: {hint}"]


@pytest.mark.parametrize(
    ("flag", "content", "message"),
    [
        ("--objects", None, "{}: No such file or directory"),
        ("--objects", b"{", "{}: not a list of objects"),
        ("--objects", b"[1]", "{}"),
        ("--from-capture", None, "{} cannot be read: No such file or directory"),
        ("--from-capture", b"not a capture", "{} is not a ctk capture"),
        ("--from-capture", b"", "{} is not a ctk capture"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(invoke, tmp_path, flag, content, message):
    file, db = tmp_path / "file", tmp_path / "node.db"
    if content is not None:
        file.write_bytes(content)
    capture = () if flag == "--from-capture" else ("--from-capture", NODE)
    result = invoke("record", db, flag, file, *capture)
    assert (result.exit_code, result.stdout, db.exists()) == (2, "", False)
    assert result.stderr.startswith(f"Error: {message.format(file)}")
    assert result.stderr.count("\n") <= 2


@pytest.mark.parametrize(
    ("made", "code", "message"),
    [
        (lambda path: path.mkdir(), 2, "{} is a directory"),
        (lambda path: path.write_bytes(b"not a database at all" * 50), 2, "{} is not a ctk file"),
        (lambda path: None, None, ""),
    ],
)
def test_what_is_not_a_ctk_file_is_left_as_it_is(invoke, tmp_path, made, code, message):
    db = tmp_path / "node.db"
    made(db)
    result = invoke("record", db, "--from-capture", NODE, "--no-kube")
    if code is not None:
        assert (result.exit_code, result.stdout) == (code, "")
        assert result.stderr.startswith(f"Error: {message.format(db)}")
        assert {path.name for path in tmp_path.iterdir()} == {"node.db"}
    else:
        assert result.exit_code == 0
        assert {path.name for path in tmp_path.iterdir()} == {"node.db"}  # no -wal, no .lock


def test_a_mistyped_directory_makes_nothing(invoke, tmp_path):
    result = invoke("record", tmp_path / "nowhere" / "node.db", "--from-capture", NODE, "--no-kube")
    assert (result.exit_code, list(tmp_path.iterdir())) == (2, [])
    assert result.stderr == lines(f"there is no directory {tmp_path / 'nowhere'}")


def test_a_log_that_cannot_be_written_makes_no_database(invoke, tmp_path):
    log = tmp_path / "nowhere" / "node.log"
    words = ("--from-capture", NODE, "--no-kube", "--log", log)
    result = invoke("record", tmp_path / "node.db", *words)
    assert (result.exit_code in (1, 2), list(tmp_path.iterdir())) == (True, [])
    assert result.stderr.startswith(f"Error: {log}")


def test_a_second_recorder_on_a_file_is_refused(invoke, tmp_path):
    db = tmp_path / "node.db"
    with connect.writer(db):
        result = invoke("record", db, "--from-capture", NODE, "--no-kube")
    assert (result.exit_code, result.stderr) == (
        1,
        lines(
            f"{db} is being recorded to by process {os.getpid()}",
            "stop that recorder, or record to another file",
        ),
    )


@pytest.mark.parametrize(
    ("words", "where"),
    [
        ("--cidr 10.96.0.10", "dst = '10.96.0.10'"),
        ("--cidr fd00::/8", "src LIKE 'fd00:%'"),
        ("--exclude-cidr 10.244.0.21", "src != '10.244.0.21'"),
        ("--protocol udp --protocol icmp", "proto IN ('udp', 'icmp')"),
        ("--port 8080", "dst_port = 8080 OR nat_dst_port = 8080"),
        ("--port 443 --protocol tcp", "dst_port = 443"),
    ],
)
def test_a_filter_leaves_the_rows_it_wants(invoke, tmp_path, words, where):
    chosen, whole = tmp_path / "chosen.db", tmp_path / "whole.db"
    for db, filters in ((whole, ()), (chosen, words.split())):
        assert invoke("record", db, "--from-capture", NODE, "--no-kube", *filters).exit_code == 0
    columns = "SELECT src, dst, dst_port, proto, started_ns, connections, bytes_out FROM flows"
    wanted = invoke("query", whole, f"{columns} WHERE {where}", "-o", "csv").stdout
    assert wanted.count("\n") > 1
    assert invoke("query", chosen, columns, "-o", "csv").stdout == wanted


@pytest.mark.parametrize("events", ["new", "destroy", "new,update"])
def test_of_a_capture_only_the_events_asked_for_are_heard(invoke, tmp_path, events):
    chosen, whole = tmp_path / "chosen.db", tmp_path / "whole.db"
    sums = "SELECT sum(new_events), sum(update_events), sum(destroy_events) FROM flows"
    for db, words in ((whole, ()), (chosen, ("--events", events))):
        assert invoke("record", db, "--from-capture", NODE, "--no-kube", *words).exit_code == 0
    told, all_of_them = (
        json.loads(invoke("query", db, sums, "-o", "jsonl").stdout).values()
        for db in (chosen, whole)
    )
    assert list(told) == [
        n if name in events.split(",") else 0
        for name, n in zip(("new", "update", "destroy"), all_of_them, strict=True)
    ]


def test_a_file_name_need_not_be_utf_8(invoke, tmp_path):
    """What is given, and what is printed; in between it is as Python has it."""
    db = os.fsencode(tmp_path) + b"/caf\xe9.db"
    words = ("--from-capture", NODE, "--no-kube", "--max-size", "64MiB")
    assert subprocess.run((*CTK, "record", db, *words), check=False).returncode == 0
    name = os.fsdecode(db)
    assert invoke("record", name, *words, "--node-name", "n2").exit_code == 0
    for command in ("query", "top", "export"):
        result = invoke(command, name)
        assert (result.exit_code, result.stdout == "") == (0, False)
    assert invoke("snapshot", name, f"{name}.copy").exit_code == 0
    done = subprocess.run((*CTK, "info", db), check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout == "") == (0, False)


def test_a_log_whose_disk_is_full_costs_lines_and_not_the_recording(invoke, tmp_path, caplog):
    words = ("--from-capture", NODE, "--no-kube", "--log", "/dev/full")
    assert invoke("record", tmp_path / "node.db", *words).exit_code == 0
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "/dev/full cannot be written: No space left on device:"
        " its lines are left out, recording goes on",
        "/dev/full: 17 lines are missing",
    ]
    with connect.reader(tmp_path / "node.db") as conn:
        assert conn.execute("SELECT ended_ns IS NOT NULL FROM recording").fetchall() == [(1,)]


def test_what_is_too_old_to_stay_is_said_before_it_goes(invoke, shop, caplog):
    assert invoke("record", shop, "--from-capture", NODE, "--no-kube").exit_code == 0
    [said] = [record.getMessage() for record in caplog.records]
    assert said == (
        f"{shop} loses 7 flows, 7 sums by minute and 6 sums by hour, of 2024-11-25T18:00:00Z to"
        " 2024-11-25T19:00:00Z, older than --retain keeps; sums by day stay; to keep all:"
        " --retain flows=730d --retain 1m=730d --retain 1h=730d, or another file"
    )
    left = "select count(*) from flows_1d where started_ns < 1.75e18"
    assert invoke("query", shop, left, "-o", "csv").stdout == "count(*)\n6\n"
    caplog.clear()
    words = ("--from-capture", CAPTURES / "mixed.ctkcap.gz", "--no-kube", "--node-name", "n2")
    assert invoke("record", shop, *words).exit_code == 0
    assert [record.getMessage() for record in caplog.records] == []


def test_a_file_that_would_lose_all_is_refused_on_a_terminal_and_recorded_into_elsewhere(
    invoke, shop, caplog
):
    before = invoke("export", shop).stdout
    words = ("record", shop, "--from-capture", NODE, "--no-kube", "--retain", "1d=30d")
    ours, terminal = pty.openpty()
    refused = subprocess.run((*CTK, *words), stderr=terminal, check=False)
    os.close(terminal)
    with open(ours, "rb") as said:  # noqa: PTH123 - a descriptor
        assert said.read1().replace(b"\r\n", b"\n").decode() == lines(
            f"{shop} would lose all that it holds, which is older than --retain keeps:"
            " 7 flows, 7 sums by minute, 6 sums by hour and 6 sums by day, of"
            " 2024-11-25T00:00:00Z to 2024-11-26T00:00:00Z",
            "record into another file, or --retain flows=731d --retain 1m=731d --retain 1h=731d"
            " --retain 1d=731d",
        )
    assert (refused.returncode, invoke("export", shop).stdout) == (2, before)
    followed = [f"--retain={level}=731d" for level in ("flows", "1m", "1h", "1d")]
    kept = copy2(shop, shop.parent / "kept.db")
    assert invoke("record", kept, *words[2:], *followed).exit_code == 0
    assert caplog.records == []
    for view in ("flows", "flows_1m", "flows_1h", "flows_1d"):
        count = f"select count(*) from {view} where started_ns < 1.75e18"
        assert invoke("query", kept, count).stdout == invoke("query", shop, count).stdout
    assert invoke(*words).exit_code == 0
    assert caplog.records[0].getMessage().startswith(f"{shop} loses 7 flows, 7 sums by minute,")


def test_flows_that_a_killed_recorder_did_not_fold_are_folded_before_they_go(invoke, tmp_path):
    db = tmp_path / "node.db"
    with connect.writer(db) as conn:
        writer = Writer(conn, node="n1", source="kernel", settings={}, started_ns=AT, boot_id=None)
        writer.window(with_ids(writer, ROWS), committed_ns=AT, counters=EventCounts(40, 1_204))
    ours, terminal = pty.openpty()
    words = (*CTK, "record", db, "--from-capture", NODE, "--no-kube")
    assert subprocess.run(words, stderr=terminal, check=False).returncode == 0
    os.close(terminal)
    with open(ours, "rb") as said:  # noqa: PTH123 - a descriptor
        assert b" loses 7 flows, of " in (text := said.read1())
    assert b", older than --retain keeps; sums by day stay; to keep all: --retain flows=" in text
    left = "select count(*) from flows_1d where started_ns < 1.75e18"
    assert invoke("query", db, left, "-o", "csv").stdout == "count(*)\n6\n"


def test_a_gap_that_a_recording_begins_with_is_one_of_its_gaps(tmp_path):
    words = (*CTK, "record", tmp_path / "node.db", "--no-kube", "--node-name", "n1", "--progress")
    for capture, gaps in (("demo", "0 gaps"), ("mixed", "1 gap")):
        asked = (*words, "0s", "--from-capture", CAPTURES / f"{capture}.ctkcap.gz")
        said = subprocess.run(asked, capture_output=True, text=True, check=True).stderr
        assert f" {gaps}, " in said.splitlines()[-2]


def test_a_recording_that_is_refused_leaves_no_new_log(invoke, tmp_path):
    db, log = tmp_path / "node.db", tmp_path / "node.log"
    words = ("--from-capture", NODE, "--no-kube", "--log", log)
    with connect.writer(db):
        assert invoke("record", db, *words).exit_code == 1
    assert {each.name for each in tmp_path.iterdir()} <= {db.name, f"{db.name}.lock"}
    log.write_bytes(b"{}\n")
    with connect.writer(db):
        assert invoke("record", db, *words).exit_code == 1
    assert log.read_bytes() == b"{}\n"


def test_a_replay_that_was_interrupted_says_so_when_it_is_asked_for_again(invoke, tmp_path):
    db = tmp_path / "node.db"
    words = ("record", db, "--from-capture", NODE, "--no-kube")
    assert invoke(*words).exit_code == 0
    with sqlite3.connect(db) as conn:
        conn.execute("UPDATE recording SET committed_ns = started_ns + 1, ended_ns = NULL")
    result = invoke(*words)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: {db} has {NODE} up to ")
    assert "only: that was interrupted\nTry: record all of" in result.stderr


def test_a_second_recorder_leaves_the_captures_of_the_first(tmp_path):
    db, capture = tmp_path / "node.db", tmp_path / "node.ctkcap"
    capture.write_bytes(b"the first recorder's")
    with connect.writer(db):
        second = subprocess.run(
            (*CTK, "record", db, "--no-kube", "--capture", capture), check=False, timeout=20
        )
    assert (second.returncode, capture.read_bytes()) == (1, b"the first recorder's")


def test_the_node_is_the_captures_unless_it_is_named(invoke, tmp_path, monkeypatch):
    monkeypatch.delenv("NODE_NAME", raising=False)
    node = "SELECT node FROM recordings"
    for n, (words, name) in enumerate([((), "kl-control-plane"), (("--node-name", "n2"), "n2")]):
        db = tmp_path / f"{n}.db"
        assert invoke("record", db, "--from-capture", NODE, "--no-kube", *words).exit_code == 0
        assert invoke("query", db, node, "-o", "tsv").stdout == f"{name}\n"


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("--no-kube",), None),
        (("--no-kube", "--cluster-name", "east"), "east"),
        (("--kubeconfig", "config"), "kind-kl"),
        (("--kubeconfig", "config", "--cluster-name", "east"), "east"),
    ],
)
def test_the_cluster_is_named_as_asked_or_as_its_kubeconfig_does(
    invoke, tmp_path, monkeypatch, words, name
):
    monkeypatch.chdir(tmp_path)
    Path("config").write_text(
        json.dumps(
            {
                "current-context": "admin",
                "contexts": [{"name": "admin", "context": {"cluster": "kind-kl", "user": "me"}}],
                "clusters": [{"name": "kind-kl", "cluster": {"server": "http://127.0.0.1:1"}}],
                "users": [{"name": "me", "user": {}}],
            }
        )
    )
    assert invoke("record", "node.db", "--from-capture", NODE, *words).exit_code == 0
    with connect.reader(Path("node.db")) as conn:
        assert conn.execute("SELECT DISTINCT cluster FROM flows").fetchall() == [(name,)]


def test_a_capture_that_was_cut_off_is_read_as_far_as_it_goes(invoke, tmp_path, caplog):
    cut, db = tmp_path / "cut.ctkcap.gz", tmp_path / "node.db"
    cut.write_bytes(Path(NODE).read_bytes()[:5000])
    assert invoke("record", db, "--from-capture", cut, "--no-kube").exit_code == 0
    assert f"{cut} was cut off: read up to its last whole message" in caplog.text
    assert invoke("query", db, "SELECT count(*) > 0 FROM flows", "-o", "tsv").stdout == "1\n"


# As a process.


def run(*words: object, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload]
        [*CTK, "record", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        **options,
    )


def test_recording_a_capture_says_what_it_came_to(tmp_path):
    cluster = tmp_path / "cluster.json"
    cluster.write_text(json.dumps(objects()), encoding="utf-8")
    done = run(tmp_path / "node.db", "--from-capture", NODE, "--objects", cluster)
    said = "recorded 516 events in 17 flows\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, "", said)


def test_without_names_the_way_to_them_is_said(tmp_path):
    done = run(tmp_path / "node.db", "--from-capture", NODE)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.count("\n") == 2
    assert "no cluster to ask for names: give --kubeconfig, --objects or --no-kube" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
@pytest.mark.parametrize("words", [(), ("--no-kube",), ("--enable-accounting",)])
def test_without_rights_it_is_one_error_with_a_hint_and_no_file(tmp_path, words):
    tmp_path.chmod(0o777)
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all"]
    done = subprocess.run(
        [*command, *CTK, "record", str(tmp_path / "node.db"), *words],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
    )
    if done.returncode == 127:
        pytest.skip(f"nobody else may run {sys.executable}")
    # Before the warnings that no cluster is followed, and that bytes are not counted.
    assert (done.returncode, done.stdout, done.stderr) == (
        1,
        "",
        lines(
            "listening to conntrack events needs CAP_NET_ADMIN",
            "run it as root, or give a container the capability NET_ADMIN",
        ),
    )
    assert list(tmp_path.iterdir()) == []


class Piped:
    """A recorder whose capture comes through a pipe that stays open, as the kernel does."""

    def __init__(self, folder: Path, *words: object, **options: Any) -> None:
        self.db = folder / "node.db"
        pipe = folder / "pipe"
        os.mkfifo(pipe)
        command = [*CTK, "record", self.db, "--from-capture", pipe, "--no-kube", "--window=1s"]
        self.process = subprocess.Popen(
            [*map(str, command), *map(str, words)], stderr=subprocess.PIPE, text=True, **options
        )
        self._content = gzip.decompress(Path(NODE).read_bytes())
        self._pipe = pipe.open("wb")

    def __enter__(self) -> Self:
        """Send the first half, and wait until it is being recorded."""
        self._pipe.write(self._content[: len(self._content) // 2])
        self._pipe.flush()
        until(self._waits, "the first half to be recorded")
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()
        with suppress(BrokenPipeError):
            self._pipe.close()

    def end(self) -> tuple[int, str]:
        """Send the rest; return the exit code, and what was said before its end, without times."""
        with suppress(BrokenPipeError):
            self._pipe.write(self._content[len(self._content) // 2 :])
            self._pipe.close()
        _, said = self.process.communicate(timeout=20)
        said = re.sub(r"(?m)^[-0-9]+T[:.0-9]+Z |^recorded .*\n", "", said or "")
        return self.process.returncode, said

    def _waits(self) -> bool:
        """Whether it has taken all that was sent, and sleeps until there is more."""
        unread = struct.unpack("i", fcntl.ioctl(self._pipe, termios.FIONREAD, bytes(4)))[0]
        state = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0]
        return unread == 0 and state == "S" and self.recorded()[1] > 0

    def recorded(self) -> tuple[bool, int]:
        """Whether the recording was ended, and how many events it counted."""
        with connect.reader(self.db) as conn:
            query = "SELECT ended_ns IS NOT NULL, events FROM recording"
            [(ended, events)] = conn.execute(query).fetchall() or [(0, 0)]
        return bool(ended), events


ALL_EVENTS = 516  # in NODE


@pytest.mark.parametrize(
    ("number", "times"),
    [
        (signal.SIGINT, 1),
        (signal.SIGTERM, 2),  # `timeout` signals its command and their group
        (signal.SIGHUP, 1),
    ],
)
def test_a_signal_finishes_the_recording(tmp_path, number, times):
    with Piped(tmp_path) as recorder:
        for _ in range(times):
            recorder.process.send_signal(number)
            time.sleep(0.1)
        assert recorder.end() == (0, "")
    ended, events = recorder.recorded()
    assert (ended, 0 < events < ALL_EVENTS) == (True, True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_it_at_once(tmp_path, number):
    with Piped(tmp_path) as recorder:
        recorder.process.send_signal(number)
        time.sleep(1.2)
        recorder.process.send_signal(number)
        assert recorder.process.wait(5) == -number


def test_under_nohup_a_hangup_changes_nothing(tmp_path):
    ignoring = {"preexec_fn": lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)}
    with Piped(tmp_path, **ignoring) as recorder:
        recorder.process.send_signal(signal.SIGHUP)
        assert recorder.end() == (0, "")
    assert recorder.recorded() == (True, ALL_EVENTS)


def test_a_session_that_ends_ends_the_recording_well(tmp_path):
    """As an ssh session: its terminal goes away under the recorder, which is told so."""
    controlling, terminal = pty.openpty()

    def begin_session():
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    given = {"stdin": terminal, "stdout": terminal, "preexec_fn": begin_session}
    with Piped(tmp_path, "--print", **given) as recorder:
        os.close(terminal)
        os.close(controlling)
        time.sleep(0.1)
        assert recorder.end() == (0, "")
    ended, events = recorder.recorded()
    assert (ended, 0 < events < ALL_EVENTS) == (True, True)


def test_a_hangup_opens_the_log_anew_and_no_line_is_lost(invoke, tmp_path):
    log, theirs = tmp_path / "node.log", tmp_path / "node.log-20261126"
    words = ("--log", log, "--aggregate", "none")
    with Piped(tmp_path, *words) as recorder:
        until(lambda: log.stat().st_size > 0, "the first lines")
        log.rename(theirs)
        recorder.process.send_signal(signal.SIGHUP)
        time.sleep(0.1)
        assert recorder.end() == (0, "")
    assert recorder.recorded() == (True, ALL_EVENTS)
    written = [*theirs.read_text().splitlines(), *log.read_text().splitlines()]
    assert min(theirs.stat().st_size, log.stat().st_size) > 0
    exported = invoke("export", recorder.db, "--format", "log").stdout.splitlines()
    assert sorted(written) == sorted(exported)


@pytest.mark.parametrize("flag", ["--log-max-size=1K", "--log-keep=3", "--log-compress"])
def test_what_is_no_file_is_not_rolled_over(invoke, tmp_path, flag):
    name = flag.partition("=")[0]
    words = ("record", tmp_path / "node.db", "--from-capture", NODE, "--no-kube", flag)
    for log, said in (
        (["--log", "/dev/null"], f"/dev/null is not rolled over: it is no file\nTry: no {name}"),
        ([], f"{name} is for --log\nTry: --log FILE"),
    ):
        result = invoke(*words, *log)
        assert (result.exit_code, result.stderr) == (2, f"Error: {said}\n")
    assert list(tmp_path.iterdir()) == []


def test_a_log_that_cannot_be_put_aside_costs_lines_until_it_can(tmp_path):
    log, in_its_place = tmp_path / "node.log", tmp_path / "node.log.1"
    in_its_place.mkdir()
    words = ("--log", log, "--log-max-size", "1K", "--aggregate", "none")
    with Piped(tmp_path, *words) as recorder:
        in_its_place.rmdir()
        code, said = recorder.end()
    missing = int(re.findall(r"(\d+) lines are missing", said)[0])
    assert (code, said) == (
        0,
        f"WARNING {log} cannot be put aside: node.log.1: Is a directory:"
        " its lines are left out, recording goes on\n"
        f"WARNING {log} is written again: {missing} lines are missing\n",
    )
    assert 0 < missing < ALL_EVENTS
    assert recorder.recorded() == (True, ALL_EVENTS)


# Reads a capture as `ctk record` does, but for a defect after some batches.
DEFECTIVE = """
import sys
from itertools import islice

from ctk.cli import main
from ctk.conntrack.capture import Capture

whole = Capture.__iter__

def cut_short(capture):
    yield from islice(whole(capture), int(sys.argv[1]))
    raise KeyError("a defect")

Capture.__iter__ = cut_short
main(sys.argv[2:])
"""


def test_a_defect_while_recording_is_a_traceback_and_exit_70_and_its_windows_are_saved(tmp_path):
    db, batches = tmp_path / "node.db", 60
    words = ("record", db, "--from-capture", NODE, "--no-kube", "--window", "1s")
    done = subprocess.run(
        [sys.executable, "-c", DEFECTIVE, str(batches), *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stderr.splitlines()
    assert (done.returncode, done.stdout, said[-3:]) == (
        70,
        "",
        [
            "KeyError: 'a defect'",
            "Error: ctk failed where it should not: KeyError: 'a defect'",
            "Try: report it, with the traceback above",
        ],
    )
    assert said[0].endswith(" CRITICAL a defect in ctk")
    assert said[1] == "Traceback (most recent call last):"
    with Capture(Path(NODE)) as capture:
        read = sum(len(batch.lengths) for batch in islice(capture, batches) if not batch.dumped)
    with connect.reader(db) as conn:
        counts = "SELECT sum(new_events + update_events + destroy_events) FROM flows"
        [(written,)] = conn.execute(counts)
    assert (written, 0 < read < ALL_EVENTS) == (read, True)
