"""`ctk query`: filters in all their forms, every format, and SQL."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from edges import with_ids
from sample import AT, ROWS

from ctk.model import EventCounts
from ctk.store import connect
from ctk.store.columns import FLOW_KEYS
from ctk.store.write import Writer
from ctk.timespan import SECOND

Invoke = Callable[..., Result]

TABLE = """\
TIME (UTC)           SOURCE         DESTINATION                                SERVICE         PROTO  CONNS  FAILED      OUT        IN
2024-11-25 18:47:22  n1:53388       kube-system/coredns-7c65d6cfc9-sq2br:8181  -               tcp        1       0        ?         ?
2024-11-25 18:47:32  shop/web-1     shop/db-0:15432                            shop/db:5432    tcp        3       0  1.2 KiB  46.9 KiB
2024-11-25 18:47:42  203.0.113.9    shop/web-1:8080                            shop/web:30080  tcp        2       0    900 B   4.8 MiB
2024-11-25 18:47:52  shop/web-1     203.0.113.9:443                            -               tcp        4       4    240 B     160 B
2024-11-25 18:48:02  shop/db-0:514  [2001:db8::9]:514                          -               udp        5       5    700 B       0 B
2024-11-25 18:48:12  shop/web-1     10.9.9.9                                   -               icmp       1       0     84 B      84 B
2024-11-25 18:48:22  shop/web-1     shop/db-0:15432                            shop/db:5432    tcp        1       0    400 B  15.6 KiB
"""  # noqa: E501
EMPTY = "TIME  SOURCE  DESTINATION  SERVICE  PROTO  CONNS  FAILED  OUT  IN\n"
GAPS = "2 gaps in this window: 1,204 events lost, recorder down for 3s\n"


def test_flows_are_a_table_and_what_is_missing_is_said(invoke: Invoke, shop: Path) -> None:
    result = invoke("query", shop)
    assert (result.exit_code, result.stdout, result.stderr) == (0, TABLE, GAPS)


# The flows of the file, in order.
DNS, DB_1, WEB, REFUSED, SYSLOG, PING, DB_2 = range(7)
EVERYTHING = {DNS, DB_1, WEB, REFUSED, SYSLOG, PING, DB_2}


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("", EVERYTHING),
        ("--since 2024-11-25T18:48:00Z", {SYSLOG, PING, DB_2}),
        ("--until 2024-11-25T18:47:32.852716307Z", {DNS}),
        ("--since 2024-11-25T18:47:32.852716307Z --until 2024-11-25T19:47:43+01:00", {DB_1, WEB}),
        ("--since 2024-11-25T18:48:00Z --for 15s", {SYSLOG, PING}),
        ("--until 2024-11-25T18:48:00Z --for 20s", {WEB, REFUSED}),
        ("--since 1h", EVERYTHING),  # before the end of the file
        ("--since 35s", {SYSLOG, PING, DB_2}),
        ("--since epoch --until 1732560443", {DNS}),
        ("--last 2", {PING, DB_2}),
        ("--first 2", {DNS, DB_1}),
        ("--last 0", set()),
        ("-n shop", EVERYTHING - {DNS}),
        ("-nshop --first 1", {DB_1}),
        ("--namespace kube-system", {DNS}),
        ("-n shop -n kube-system", EVERYTHING),
        ("-n shop,kube-system", EVERYTHING),
        ("-n sho? --not -n s*", set()),
        ("-A", EVERYTHING),
        ("--not -n shop", {DNS}),
        ("--not -nkube-system", EVERYTHING - {DNS}),
        ("--from-namespace shop", {DB_1, REFUSED, SYSLOG, PING, DB_2}),
        ("--pod web-1", {DB_1, WEB, REFUSED, PING, DB_2}),
        ("--pod shop/web-1 --to-pod db-0", {DB_1, DB_2}),
        ("--pod blog/web-1", set()),
        ("--pod shop/web", {DB_1, WEB, REFUSED, PING, DB_2}),
        ("--pod kube-system/", {DNS}),
        ("--pod web-*", {DB_1, WEB, REFUSED, PING, DB_2}),
        ("--from-pod=web-1", {DB_1, REFUSED, PING, DB_2}),
        ("--to-pod web-1", {WEB}),
        ("--not --to-pod=web-1 --pod web-1", {DB_1, REFUSED, PING, DB_2}),
        ("--not --pod web-1 --not --pod db-0", {DNS}),
        ("--service shop/db", {DB_1, DB_2}),
        ("--service db", {DB_1, DB_2}),
        ("--to-service web --service db", set()),
        ("--service web --service db", {DB_1, WEB, DB_2}),
        ("--not --service db", EVERYTHING - {DB_1, DB_2}),
        ("--workload db", {DB_1, SYSLOG, DB_2}),
        ("--from-workload shop/web", {DB_1, REFUSED, PING, DB_2}),
        ("--label app=web", {DB_1, WEB, REFUSED, PING, DB_2}),
        ("--to-label app=db,tier", {DB_1, DB_2}),
        ("--label !app", {DNS}),
        ("-l app=d*", {DB_1, SYSLOG, DB_2}),
        ("--not -l app", {DNS}),
        ("--node n2", {DB_1, SYSLOG, DB_2}),
        ("--from-node n1", {DNS, DB_1, REFUSED, PING, DB_2}),
        ("--kind unknown", {PING}),
        ("--to-kind external", {REFUSED, SYSLOG}),
        ("--ip 10.96.0.20", {DB_1, DB_2}),
        ("--ip 10.244.1.0/24", {DB_1, DB_2}),
        ("--from-ip 203.0.113.0/24", {WEB}),
        ("--ip ::/0", {SYSLOG}),
        ("--not --ip 10.0.0.0/8", {SYSLOG}),
        ("--port 5432", {DB_1, DB_2}),
        ("--port 8080", {WEB}),
        ("--port 443,8000-8999 --port 514", {WEB, REFUSED, SYSLOG, DNS}),
        ("--from-port 500-600", {SYSLOG}),
        ("--from-port 53388", {DNS}),
        ("--from-port 514 --to-port 514", {SYSLOG}),
        ("--protocol udp --protocol ICMP", {SYSLOG, PING}),
        ("--protocol 17", {SYSLOG}),
        ("--failed", {REFUSED, SYSLOG}),
        ("--refused", {REFUSED}),
        ("--unreplied", {SYSLOG}),
        ("--min-bytes 16400", {DB_1, WEB, DB_2}),
        ("--min-bytes 4MiB", {WEB}),
        ("--not --min-bytes 0", {DNS}),  # which were not measured
        ("--min-connections 4", {REFUSED, SYSLOG}),
        ("--cross-namespace", set()),
        ("--not --failed --from-kind pod", {DB_1, PING, DB_2}),
    ],
)
def test_filters_choose_flows(invoke: Invoke, shop: Path, words: str, found: set[int]) -> None:
    result = invoke("query", shop, "-o", "jsonl", *words.split())
    starts = [json.loads(line)["started_ns"] for line in result.stdout.splitlines()]
    assert result.exit_code == 0
    assert starts == sorted(starts)
    first_ns = 1_732_560_442_852_716_307
    assert {(start - first_ns) // 10**10 for start in starts} == found


FIRST = {
    "started_at": "2024-11-25T18:47:32.852716307Z",
    "ended_at": "2024-11-25T18:47:34.852716307Z",
    "started_ns": 1732560452852716307,
    "ended_ns": 1732560454852716307,
    "cluster": None,
    "node": "n1",
    "proto": "tcp",
    "ip_version": 4,
    "zone": 0,
    "src": "10.244.0.5",
    "src_port": None,
    "dst": "10.96.0.20",
    "dst_port": 5432,
    "nat_src": None,
    "nat_dst": "10.244.1.7",
    "nat_dst_port": 15432,
    "src_kind": "pod",
    "src_namespace": "shop",
    "src_name": "web-1",
    "src_workload": "web",
    "src_workload_kind": "Deployment",
    "src_node": "n1",
    "src_node_zone": None,
    "src_labels": {"app": "web", "tier": "front"},
    "dst_kind": "pod",
    "dst_namespace": "shop",
    "dst_name": "db-0",
    "dst_workload": "db",
    "dst_workload_kind": "StatefulSet",
    "dst_node": "n2",
    "dst_node_zone": None,
    "dst_labels": {"app": "db", "tier": "back"},
    "service": "shop/db",
    "service_via": "address",
    "connections": 3,
    "new_events": 3,
    "update_events": 6,
    "destroy_events": 2,
    "unreplied": 0,
    "refused": 0,
    "bytes_out": 1200,
    "packets_out": 14,
    "bytes_in": 48000,
    "packets_in": 40,
    "src_addresses": None,
    "dst_addresses": None,
}


def test_json_lines_have_every_key_in_order_and_nulls(invoke: Invoke, shop: Path) -> None:
    result = invoke("query", shop, "--pod", "db-0", "--first", "1", "-o", "jsonl")
    assert list(json.loads(result.stdout).items()) == list(FIRST.items())
    assert tuple(FIRST) == FLOW_KEYS


def test_json_is_one_array(invoke: Invoke, shop: Path) -> None:
    lines = invoke("query", shop, "-o", "jsonl").stdout.splitlines()
    result = invoke("query", shop, "-o", "json")
    assert json.loads(result.stdout) == [json.loads(line) for line in lines]
    assert invoke("query", shop, "--last", "0", "-o", "json").stdout == "[]\n"


def test_csv_has_a_header_and_tsv_has_none(invoke: Invoke, shop: Path) -> None:
    row = (
        "2024-11-25T18:48:12.852716307Z{s}2024-11-25T18:48:14.852716307Z{s}1732560492852716307{s}"
        "1732560494852716307{s}{s}n1{s}icmp{s}4{s}0{s}10.244.0.5{s}{s}10.9.9.9{s}{s}{s}{s}{s}pod{s}"
        "shop{s}web-1{s}web{s}Deployment{s}n1{s}{s}{labels}{s}unknown{s}{s}{s}{s}{s}{s}{s}{s}{s}{s}"
        "1{s}1{s}1{s}1{s}0{s}0{s}84{s}1{s}84{s}1{s}{s}\n"
    )
    labels = '"{""app"":""web"",""tier"":""front""}"'
    result = invoke("query", shop, "--protocol", "icmp", "-o", "csv")
    assert result.stdout == ",".join(FLOW_KEYS) + "\n" + row.format(s=",", labels=labels)
    result = invoke("query", shop, "--protocol", "icmp", "-o", "tsv")
    assert result.stdout == row.format(s="\t", labels='{"app":"web","tier":"front"}')


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("--pod web-2", "no pod named web-2 in this file (shop/web-1)"),
        ("--pod blog/web-1", "no pod named blog/web-1 in this file (shop/web-1)"),
        ("--pod nob*", "no pod like nob* in this file"),
        ("-n shoop", "no namespace named shoop in this file (shop)"),
        ("--service shop/dbb", "no service named shop/dbb in this file (shop/db, shop/web)"),
        ("--from-pod coredns", "nothing went from pod named coredns"),
        ("--to-kind node", "nothing went to endpoints of kind node"),
        ("--port 81", "no port 81 in this file"),
        ("--ip 192.0.2.0/24", "no address 192.0.2.0/24 in this file"),
        ("--pod web-1 --port 514", "no flow is of all of these together"),
        ("--port 5432 --failed", "there are some without --failed"),
        ("--port 5432 --from-port 7", "there are some without --from-port 7"),
        ("--min-bytes 1GiB", None),
        ("--last 0", "0 were asked for, as first or last"),
        (
            "--since 2024-11-25T19:48:40Z",
            "the file ends 2024-11-25T18:48:32Z, 1h before what was asked for",
        ),
        (
            "--until 2024-11-25T18:47:00Z",
            "the file begins 2024-11-25T18:47:22Z, 22.9s after what was asked for",
        ),
        (
            "--failed --since 2024-11-25T18:48:20Z",
            "the last flow that fits began 2024-11-25T18:48:02Z",
        ),
    ],
)
@pytest.mark.parametrize("command", ["query -o jsonl", "export", "top -o jsonl"])
def test_why_nothing_fits_is_said(
    invoke: Invoke, shop: Path, command: str, words: str, reason: str | None
) -> None:
    name, *form = command.split()
    result = invoke(name, shop, *form, *words.split())
    said, *_ = result.stderr.splitlines()
    assert (result.exit_code, result.stdout) == (0, "")
    assert said == (f"no flows fit: {reason}" if reason else "no flows fit")


def test_ages_count_from_the_end_of_a_file_that_nobody_writes(invoke: Invoke, shop: Path) -> None:
    said = "times count from the file's end, 2024-11-25T18:48:32Z: nobody writes it now"
    assert said in invoke("query", shop, "--since", "35s").stderr.splitlines()
    assert said in invoke("top", shop, "--until", "yesterday").stderr.splitlines()
    assert "times count" not in invoke("query", shop, "--since", "2024-11-25").stderr


@pytest.mark.parametrize(
    ("span", "stderr"),
    [
        ("--until 2024-11-25T18:47:30Z", ""),
        ("--until 2024-11-25T18:47:36Z", "1 gap in this window: recorder down for 3s\n"),
        ("--since 2024-11-25T18:47:40Z", "1 gap in this window: 1,204 events lost\n"),
        # The window of the last ones begins with the first of them.
        ("--last 2", ""),
        ("--last 3 --not --port 514", "1 gap in this window: 1,204 events lost\n"),
        ("--first 1", ""),
        ("--first 3", "1 gap in this window: recorder down for 3s\n"),
    ],
)
def test_only_the_gaps_of_the_span_are_told(
    invoke: Invoke, shop: Path, span: str, stderr: str
) -> None:
    assert invoke("query", shop, *span.split()).stderr == stderr


def test_sql_is_answered_under_its_own_names(invoke: Invoke, shop: Path) -> None:
    sql = "SELECT src_name AS who, SUM(bytes_out) FROM flows WHERE dst_port = :p GROUP BY 1"
    result = invoke("query", shop, sql, "-p", "p", "5432")
    assert (result.exit_code, result.stdout) == (
        0,
        "who    SUM(bytes_out)\nweb-1            1600\n",
    )
    result = invoke("query", shop, sql, "-p", "p", "5432", "-o", "json")
    assert json.loads(result.stdout) == [{"who": "web-1", "SUM(bytes_out)": 1600}]


def test_a_number_is_bound_as_a_number(invoke: Invoke, shop: Path) -> None:
    sql = "SELECT COUNT(*) AS n FROM flows WHERE bytes_out + bytes_in > :least"
    assert invoke("query", shop, sql, "-p", "least", "5000", "-o", "tsv").stdout == "3\n"


SINCE = "SELECT COUNT(*) AS n FROM flows WHERE started_ns >= "


def test_a_time_in_nanoseconds_is_bound_as_a_number(invoke: Invoke, shop: Path) -> None:
    result = invoke("query", shop, f"{SINCE} :t", "-p", "t", AT + 55 * SECOND, "-o", "tsv")
    assert (result.exit_code, result.stdout) == (0, "1\n")
    result = invoke("query", shop, "SELECT :n", "-p", "n", 2**63)
    assert (result.exit_code, result.stderr) == (
        2,
        f"Error: {2**63} is more than SQLite counts\nTry: write it into the SQL\n",
    )


@pytest.mark.parametrize(
    ("since", "found"),
    [
        ("ns('2024-11-25T18:48:00Z')", 3),
        ("ns('2024-11-25 19:48+01:00')", 3),
        ("ns('2024-11-26T00:00Z')", 0),
        ("ns('15s ago')", 1),
        ("ns(1732560492852716307)", 2),
        ("ns(NULL)", 0),
        ("ago('15s')", 1),
        ("ago('1h')", 7),
        ("ago('900y')", None),
        ("ago('100y')", 7),
        ("ago(NULL)", 0),
    ],
)
def test_times_in_sql_are_written_as_the_flags_take_them(
    invoke: Invoke, shop: Path, since: str, found: int | None
) -> None:
    result = invoke("query", shop, SINCE + since, "-o", "tsv")
    if found is None:
        assert result.stderr.startswith("Error: '900y' is longer than time goes back\nTry: ")
    else:
        from_end = "times count from the file's end, 2024-11-25T18:48:32Z: nobody writes it now\n"
        told = from_end if "ago" in since and "NULL" not in since else ""
        assert (result.exit_code, result.stdout, result.stderr) == (0, f"{found}\n", told)


@pytest.mark.parametrize(
    ("sql", "stderr"),
    [
        (
            f"{SINCE} ago('soon')",
            "Error: 'soon' is not a duration\nTry: write it as 90s, 15m, 2h or 7d\n",
        ),
        (
            f"{SINCE} ns('soon')",
            "Error: 'soon' is neither an age nor a time\n"
            "Try: write it as 15m, '10 min ago', 09:00, yesterday or 2024-11-25T18:47:22Z\n",
        ),
        (
            f"{SINCE} ns(1.5)",
            "Error: ns(1.5) is no time\nTry: ns('2024-11-25T18:47:22Z')\n",
        ),
    ],
)
def test_a_time_in_sql_that_is_none_is_asked_wrongly(
    invoke: Invoke, shop: Path, sql: str, stderr: str
) -> None:
    result = invoke("query", shop, sql)
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", stderr)


@pytest.mark.parametrize(
    ("span", "found", "gaps"),
    [
        ("", 7, ""),
        ("--since 2024-11-25T18:48:00Z", 3, ""),
        ("--until 2024-11-25T18:47:36Z", 2, "1 gap in this window: recorder down for 3s\n"),
        ("--since 2024-11-25T18:47:30Z --until 2024-11-25T18:48:10Z", 4, GAPS),
    ],
)
def test_sql_gets_the_span_of_the_flags(
    invoke: Invoke, shop: Path, span: str, found: int, gaps: str
) -> None:
    sql = f"{SINCE} :since_ns AND started_ns < :until_ns"
    result = invoke("query", shop, sql, *span.split(), "-o", "tsv")
    assert (result.stdout, result.stderr) == (f"{found}\n", gaps)


@pytest.mark.parametrize(
    ("words", "stderr"),
    [
        ("--since 1h", "Error: the SQL has no :since_ns\nTry: where started_ns >= :since_ns\n"),
        ("--until 1h", "Error: the SQL has no :until_ns\nTry: where started_ns < :until_ns\n"),
        ("-p ip 10.0.0.1", "Error: the SQL has no :ip\nTry: where src = :ip\n"),
    ],
)
def test_what_the_sql_does_not_take_is_not_ignored(
    invoke: Invoke, shop: Path, words: str, stderr: str
) -> None:
    result = invoke("query", shop, "SELECT 1", *words.split())
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", stderr)


TEXTS = "SELECT COUNT(*) FROM flows WHERE started_at"


@pytest.mark.parametrize(
    ("sql", "stderr"),
    [
        (
            f"{TEXTS} > datetime('now', '-1 hour')",
            "started_at has a T where datetime() has a blank: compare started_ns with ago('1h')\n",
        ),
        (
            f"{TEXTS} > ago('1h')",
            "started_at is text, larger than the number of ago(): compare started_ns with"
            " ago('1h')\n",
        ),
        (f"{TEXTS} > '2024-11-25T18:48'", ""),
        ("SELECT COUNT(*) FROM flows WHERE datetime(started_at) > datetime('now', '-1 hour')", ""),
        ("SELECT started_at, datetime(started_ns / 1000000000, 'unixepoch') FROM flows", ""),
    ],
)
def test_text_that_does_not_compare_with_a_time_is_said(
    invoke: Invoke, shop: Path, sql: str, stderr: str
) -> None:
    result = invoke("query", shop, sql, "-o", "tsv")
    told = [line for line in result.stderr.splitlines(True) if not line.startswith("times count")]
    assert (result.exit_code, "".join(told)) == (0, stderr)


def test_sql_is_read_from_standard_input_and_from_a_file(
    shop: Path, tmp_path: Path, invoke: Invoke
) -> None:
    sql = "SELECT COUNT(*) -- of all\nFROM flows;\n-- the end\n"
    file = tmp_path / "question.sql"
    file.write_text(sql)
    assert invoke("query", shop, f"@{file}", "-o", "tsv").stdout == "7\n"
    command = [sys.executable, "-m", "ctk", "query", shop, "-", "-o", "tsv"]
    done = subprocess.run(command, input=sql, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("7\n", "")
    result = invoke("query", shop, f"@{tmp_path}/none.sql")
    assert (result.exit_code, result.stderr) == (
        2,
        f"Error: {tmp_path}/none.sql cannot be read: No such file or directory\n"
        "Try: @FILE is a file of SQL\n",
    )
    file.write_bytes(b"SELECT '\xff'")
    assert invoke("query", shop, f"@{file}").exit_code == 2


def test_explain_says_how_sql_would_be_answered(invoke: Invoke, shop: Path) -> None:
    sql = f"{SINCE} :since_ns AND src_name = :name"
    result = invoke("query", shop, sql, "--explain")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines()[0] == "SEARCH f USING PRIMARY KEY (started_ns>?)"
    steps = invoke("query", shop, sql, "--explain", "-o", "jsonl").stdout.splitlines()
    assert list(json.loads(steps[0])) == ["id", "parent", "notused", "detail"]
    nested = "SELECT * FROM (SELECT src, COUNT(*) FROM flows GROUP BY 1 LIMIT 1)"
    assert "\n  SCAN f\n" in invoke("query", shop, nested, "--explain").stdout


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        (
            "SELECT group_concat(zeroblob(1000000)) FROM flows a, flows b, flows c",
            "a value in the SQL is longer than 64 MiB",
        ),
        (
            "SELECT group_concat(zeroblob(1000000)) FROM flows a, flows b",
            "the SQL took more memory than it may",
        ),
    ],
)
def test_sql_that_takes_too_much_memory_is_stopped(shop: Path, sql: str, message: str) -> None:
    # In a process of its own: the limit is of the process.
    command = [sys.executable, "-m", "ctk", "query", shop, sql, "--memory"]
    command.append("16MiB" if "memory" in message else "1GiB")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.splitlines()[0]) == (
        2,
        "",
        f"Error: {message}",
    )


def test_bytes_are_shown_as_hex(invoke: Invoke, shop: Path) -> None:
    sql = "SELECT packed FROM endpoint WHERE address = '10.9.9.9'"
    assert invoke("query", shop, sql, "-o", "jsonl").stdout == '{"packed":"0a090909"}\n'
    assert invoke("query", shop, sql, "-o", "csv").stdout == "packed\n0a090909\n"


VIEWS = (
    "Try: the views are flows, flows_1m, flows_1h, flows_1d, pods, services, endpoints, nodes,"
    " gaps, recordings, pressure and holders\n"
)
READS = "Try: a question only reads: SELECT, WITH or EXPLAIN\n"


@pytest.mark.parametrize(
    ("sql", "stderr"),
    [
        ("DELETE FROM flow", f"Error: the SQL may only read\n{READS}"),
        ("ATTACH 'x.db' AS x", f"Error: the SQL may only read\n{READS}"),
        ("CREATE TEMP TABLE t (x)", f"Error: the SQL may only read\n{READS}"),
        ("PRAGMA query_only = OFF", f"Error: the SQL may only read\n{READS}"),
        ("PRAGMA journal_mode = DELETE", f"Error: the SQL may only read\n{READS}"),
        ("VACUUM INTO 'x.db'", f"Error: the SQL may only read\n{READS}"),
        ("BEGIN IMMEDIATE", f"Error: the SQL may only read\n{READS}"),
        ("SELECT load_extension('x')", f"Error: the SQL may only read\n{READS}"),
        ("", f"Error: the SQL has no answer\n{READS}"),
        ("SELEC 1", f'Error: bad SQL: near "SELEC": syntax error\n{VIEWS}'),
        (
            "SELECT 1; SELECT 2",
            "Error: bad SQL: You can only execute one statement at a time.\n"
            "Try: ask them one after another\n",
        ),
        ("SELECT * FROM flowz", f"Error: bad SQL: no such table: flowz\n{VIEWS}"),
        (
            "SELECT :pod",
            "Error: bad SQL: You did not supply a value for binding parameter :pod.\n"
            "Try: give each :name in the SQL its value with -p name value\n",
        ),
    ],
)
def test_sql_only_reads_and_bad_sql_is_an_error(
    invoke: Invoke, shop: Path, sql: str, stderr: str
) -> None:
    before = shop.read_bytes()
    result = invoke("query", shop, sql)
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", stderr)
    assert shop.read_bytes() == before
    assert not Path("x.db").exists()


def test_sql_that_takes_too_long_is_stopped(invoke: Invoke, shop: Path) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT MAX(i) FROM n"
    result = invoke("query", shop, endless, "--timeout", "1s")
    assert (result.exit_code, result.stdout, result.stderr) == (
        2,
        "",
        "Error: the SQL took longer than 1 s\nTry: ask for less, or give --timeout 5m\n",
    )


def test_a_parameter_needs_sql(invoke: Invoke, shop: Path) -> None:
    result = invoke("query", shop, "-p", "ip", "10.0.0.1")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: -p is for SQL\nTry: ")


def test_sql_and_filters_exclude_each_other(invoke: Invoke, shop: Path) -> None:
    result = invoke("query", shop, "SELECT 1", "--pod", "web-1")
    assert (result.exit_code, result.stderr) == (
        2,
        "Error: filters and SQL exclude each other\nTry: filter in its WHERE\n",
    )


def test_a_table_on_a_terminal_stops_at_a_thousand_rows_and_says_so(
    on_a_terminal: Callable[..., list[str]], tmp_path: Path
) -> None:
    path = tmp_path / "many.db"
    with connect.writer(path) as conn:
        writer = Writer(conn, node="n1", source="kernel", settings={}, started_ns=0, boot_id=None)
        rows = [ROWS[0]._replace(started_ns=AT + i, ended_ns=AT + i) for i in range(1_001)]
        writer.window(with_ids(writer, rows), committed_ns=AT, counters=EventCounts())
    lines = on_a_terminal("query", path)
    assert (len(lines), lines[-1]) == (
        1_002,
        "only the first 1,000 flows are shown: --last 50 shows the end, -o csv all",
    )
    lines = on_a_terminal("query", path, "SELECT started_ns FROM flows")
    assert (len(lines), lines[-1]) == (
        1_002,
        "only the first 1,000 rows are shown: -o csv writes all",
    )
    assert len(on_a_terminal("query", path, "--last", "1001")) == 1_002
    assert len(on_a_terminal("query", path, "-o", "jsonl")) == 1_001


def test_columns_of_one_name_are_told_apart(invoke: Invoke, shop: Path) -> None:
    result = invoke("query", shop, "SELECT 1 AS a, 2 AS a, 3 AS a", "-o", "json")
    assert json.loads(result.stdout) == [{"a": 1, "a_2": 2, "a_3": 3}]


def test_an_interrupt_while_sql_counts_is_one(shop: Path) -> None:
    endless = (
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"
    )
    command = [sys.executable, "-m", "ctk", "query", str(shop), endless]
    process = subprocess.Popen(command, stdout=-1, stderr=-1, text=True)
    time.sleep(1.5)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=10)
    assert (process.returncode, stdout, "longer than" in stderr) == (130, "", False)


def test_an_empty_filter_is_asked_wrongly(invoke: Invoke, shop: Path) -> None:
    """As from a variable that was never set."""
    result = invoke("query", shop, "--pod", "")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: --pod is empty\nTry: give it a ")


def test_json_of_the_views_is_json(invoke: Invoke, shop: Path) -> None:
    sql = "SELECT '{\"a\":1}' AS labels, '[\"10.0.0.1\"]' AS addresses, '[' AS ports"
    result = invoke("query", shop, sql, "-o", "jsonl")
    assert json.loads(result.stdout) == {
        "labels": {"a": 1},
        "addresses": ["10.0.0.1"],
        "ports": "[",
    }


def test_a_time_without_an_offset_is_of_the_zone_in_which_times_are_shown(
    invoke: Invoke, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("query", shop, "--since", "2024-11-25 19:48", "-o", "jsonl")
    try:
        monkeypatch.setenv("TZ", "Europe/Berlin")
        time.tzset()
        assert len(invoke(*asked).stdout.splitlines()) == 3
        assert invoke(*asked, "--utc").stdout == ""
    finally:
        monkeypatch.undo()
        time.tzset()


def test_what_is_said_beside_a_table_has_the_times_of_its_zone(
    invoke: Invoke, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("query", shop, "--since", "2019-01-01", "--until", "2020-01-02")
    try:
        monkeypatch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        assert "begins 2024-11-26T03:47:22+09:00, " in invoke(*asked).stderr
        for utc in ("--utc", "-ojsonl"):
            assert "begins 2024-11-25T18:47:22Z, " in invoke(*asked, utc).stderr
        monkeypatch.setenv("TZ", "Foo/Bar")
        time.tzset()
        told = "TZ=Foo/Bar is no time zone of this machine: times are in UTC"
        assert told in invoke(*asked).stderr.splitlines()
        assert told not in invoke(*asked, "--utc").stderr
        monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0")
        assert "no time zone" not in invoke(*asked).stderr
    finally:
        monkeypatch.undo()
        time.tzset()


def test_following_ends_when_its_reader_does(shop: Path) -> None:
    follow = f"{sys.executable} -m ctk query {shop} -f -o jsonl"
    words = ["bash", "-c", f"{follow} | head -1; echo ${{PIPESTATUS[0]}}"]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[1:] == ["141"]
    # Whether it saw that nobody reads before it said what the first flows lack, or after.
    assert done.stderr in ("", "2 gaps in this window: 1,204 events lost, recorder down for 3s\n")
