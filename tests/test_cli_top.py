"""`ctk top`: exact tables, machine output and what is said about an answer."""

import json
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from edges import edge, with_ids
from sample import AT, CLIENT, WEB

from ctk.ask.presets import PRESETS
from ctk.ask.sums import KEYS
from ctk.model import EventCounts, FlowRow
from ctk.store import connect
from ctk.store.write import Writer
from ctk.timespan import SECOND

Invoke = Callable[..., Result]

# Keys that follow those of the first release.
NEWER = (
    *("bytes_out", "bytes_in", "refused", "unreplied"),
    *("first_seen", "last_seen", "first_seen_ns", "last_seen_ns"),
)


def older(tsv: str, keys: int = 1) -> str:
    """Give rows of TSV up to `percent`, behind so many keys."""
    return "".join("\t".join(line.split("\t")[: keys + 6]) + "\n" for line in tsv.splitlines())


BY_NAME = """\
SOURCE       DESTINATION                           CONNS  FAILED  PACKETS     BYTES      %
203.0.113.9  shop/web-1                                2       0    3,510   4.8 MiB   98.7
shop/web-1   shop/db-0                                 4       0       71  64.1 KiB    1.3
shop/db-0    2001:db8::9                               5       5        5     700 B    0.0
shop/web-1   203.0.113.9                               4       4        8     400 B    0.0
shop/web-1   10.9.9.9                                  1       0        2     168 B    0.0
n1           kube-system/coredns-7c65d6cfc9-sq2br      1       0        ?         ?      ?
total                                                 17       9    3,596   4.8 MiB  100.0
"""
GAPS = "2 gaps in this window: 1,204 events lost, recorder down for 3s\n"


def test_the_two_sides_at_their_finest_names_are_ranked_by_bytes(
    invoke: Invoke, shop: Path
) -> None:
    result = invoke("top", shop)
    assert (result.exit_code, result.stderr) == (0, GAPS)
    assert result.stdout == BY_NAME


def test_the_total_is_of_all_groups_whatever_the_limit(invoke: Invoke, shop: Path) -> None:
    asked = ("top", shop, "--by", "src_workload,service")
    result = invoke(*asked, "--limit", "1")
    assert result.stdout == (
        "SRC WORKLOAD  SERVICE   CONNS  FAILED  PACKETS     BYTES      %\n"
        "-             shop/web      2       0    3,510   4.8 MiB   98.7\n"
        "others (4)                 15       9       86  65.3 KiB    1.3\n"
        "total                      17       9    3,596   4.8 MiB  100.0\n"
    )
    # Programs get no such rows, and all others.
    assert len(invoke(*asked, "-o", "tsv").stdout.splitlines()) == 5
    cut = "only the first 1 of 5: --limit 0 has all\n"
    result = invoke(*asked, "--limit", "1", "-o", "tsv")
    assert (len(result.stdout.splitlines()), result.stderr) == (
        1,
        f"{cut}{GAPS}",
    )
    result = invoke(*asked, "--limit", "1", "--no-headers")
    assert result.stdout == "-  shop/web  2  0  3,510  4.8 MiB  98.7\n"
    assert result.stderr == f"{cut}{GAPS}"
    assert len(invoke(*asked, "--limit", "0").stdout.splitlines()) == 7


def test_a_table_shows_twenty_groups_and_programs_get_all(invoke: Invoke, tmp_path: Path) -> None:
    path = tmp_path / "many.db"
    with connect.writer(path) as conn:
        writer = Writer(conn, node="n1", source="kernel", settings={}, started_ns=AT, boot_id=None)
        edges = [
            edge("udp", zone, WEB, CLIENT, 53, None, CLIENT, None, None, None) for zone in range(25)
        ]
        rows = [FlowRow(each, AT, AT, None, *(1,) * 10) for each in edges]
        writer.window(with_ids(writer, rows), committed_ns=AT, counters=EventCounts())
    assert len(invoke("top", path, "--by", "zone").stdout.splitlines()) == 20 + 3
    for form in ("csv", "tsv", "json", "jsonl", "name"):
        lines = invoke("top", path, "--by", "zone", "-o", form).stdout.splitlines()
        assert len(lines) == 25 + (form == "csv")


def test_connections_rank_where_no_bytes_were_measured(invoke: Invoke, shop: Path) -> None:
    result = invoke("top", shop, "-n", "kube-system", "--by", "dst_port")
    assert result.stdout == (
        "DST PORT  CONNS  FAILED  PACKETS  BYTES      %\n"
        "8181          1       0        ?      ?  100.0\n"
        "total         1       0        ?      ?  100.0\n"
    )


def test_a_preset_ranks_either_side_and_the_total_counts_once(invoke: Invoke, shop: Path) -> None:
    assert invoke("top", shop, "--by", "pods").stdout == (
        "POD                                   CONNS  FAILED  PACKETS     BYTES      %\n"
        "shop/web-1                               11       4    3,591   4.8 MiB  100.0\n"
        "shop/db-0                                 9       5       76  64.7 KiB    1.3\n"
        "kube-system/coredns-7c65d6cfc9-sq2br      1       0        ?         ?      ?\n"
        "total                                    17       9    3,596   4.8 MiB  100.0\n"
    )
    assert invoke("top", shop, "--by", "pods", "--side", "from").stdout == (
        "POD         CONNS  FAILED  PACKETS     BYTES      %\n"
        "shop/web-1      9       4       81  64.6 KiB   99.0\n"
        "shop/db-0       5       5        5     700 B    1.0\n"
        "total          14       9       86  65.3 KiB  100.0\n"
    )
    # A flow between two pods of a namespace is one of the namespace, not two.
    assert invoke("top", shop, "--by", "namespaces").stdout == (
        "NAMESPACE    CONNS  FAILED  PACKETS    BYTES      %\n"
        "shop            16       9    3,596  4.8 MiB  100.0\n"
        "kube-system      1       0        ?        ?      ?\n"
        "total           17       9    3,596  4.8 MiB  100.0\n"
    )


def test_each_by_is_a_list_of_its_own(invoke: Invoke, shop: Path) -> None:
    asked = ("top", shop, "--by", "external", "--by", "ports", "--limit", "1")
    table = invoke(*asked).stdout
    assert table == (
        "EXTERNAL IP  CONNS  FAILED  PACKETS    BYTES      %\n"
        "203.0.113.9      6       4    3,518  4.8 MiB  100.0\n"
        "others (1)       5       5        5    700 B    0.0\n"
        "total           11       9    3,523  4.8 MiB  100.0\n"
        "\n"
        "DST PORT    PROTO  CONNS  FAILED  PACKETS     BYTES      %\n"
        "30080       tcp        2       0    3,510   4.8 MiB   98.7\n"
        "others (5)            15       9       86  65.3 KiB    1.3\n"
        "total                 17       9    3,596   4.8 MiB  100.0\n"
    )
    lists = json.loads(invoke(*asked, "-o", "json").stdout)
    assert {by: [row["bytes"] for row in rows] for by, rows in lists.items()} == {
        "external_ip": [5_001_300],
        "dst_port,proto": [5_000_900],
    }
    lines = [json.loads(line) for line in invoke(*asked, "-o", "jsonl").stdout.splitlines()]
    assert [list(line)[:3] for line in lines] == [
        ["by", "external_ip", "connections"],
        ["by", "dst_port", "proto"],
    ]
    result = invoke(*asked, "-o", "csv")
    assert (result.exit_code, result.stderr) == (
        2,
        "Error: -o csv has one list\nTry: --by once, or -o json, or -o jsonl\n",
    )


def test_a_rate_is_of_the_span_that_was_recorded(invoke: Invoke, shop: Path) -> None:
    asked = ("top", shop, "--by", "proto", "--rate")
    result = invoke(*asked)
    assert result.stdout == (
        "PROTO  CONNS/S  FAILED/S  PACKETS/S     BYTES/S      %\n"
        "tcp      0.157    0.0571       51.3  70.7 KiB/s  100.0\n"
        "udp     0.0714    0.0714     0.0714      10 B/s    0.0\n"
        "icmp    0.0143         0     0.0286     2.4 B/s    0.0\n"
        "total    0.243     0.129       51.4  70.7 KiB/s  100.0\n"
    )
    assert result.stderr == f"rates are of 1m 10s\n{GAPS}"
    [row] = json.loads(
        invoke(*asked, "--since", "2024-11-25T18:48:00Z", "--protocol", "udp", "-o", "json").stdout
    )
    seconds = 32.852716307
    assert {
        key: round(value * seconds, 6) for key, value in row.items() if key.endswith("_per_s")
    } == {"connections_per_s": 5, "failed_per_s": 5, "packets_per_s": 5, "bytes_per_s": 700}
    result = invoke(*asked, "--last", "5")
    assert (result.exit_code, result.stderr.splitlines()[0]) == (
        2,
        "Error: --rate needs a span of time",
    )


def test_the_columns_of_a_ranking_can_be_chosen(invoke: Invoke, shop: Path) -> None:
    asked = ("top", shop, "--by", "proto", "--columns", "proto,refused,last_seen")
    assert invoke(*asked, "--sort", "refused", "--utc").stdout == (
        "PROTO  REFUSED  LAST SEEN (UTC)\n"
        "tcp          4  2024-11-25 18:48:24\n"
        "icmp         0  2024-11-25 18:48:14\n"
        "udp          0  2024-11-25 18:48:04\n"
        "total        4  2024-11-25 18:48:24\n"
    )
    assert invoke(*asked, "-o", "csv", "--limit", "1").stdout == (
        "proto,refused,last_seen\ntcp,4,2024-11-25T18:48:24.852716307Z\n"
    )


@pytest.mark.parametrize(
    ("sort", "first"),
    [
        ("bytes", ["tcp", 11, 33, 4, 3589, 5066900, 99.98]),
        ("packets", ["tcp", 11, 33, 4, 3589, 5066900, 99.81]),
        ("connections", ["tcp", 11, 33, 4, 3589, 5066900, 64.71]),
        ("events", ["tcp", 11, 33, 4, 3589, 5066900, 71.74]),
        ("failed", ["udp", 5, 10, 5, 5, 700, 55.56]),
    ],
)
def test_machine_output_is_unscaled_and_says_what_part_each_is(
    invoke: Invoke, shop: Path, sort: str, first: list[object]
) -> None:
    result = invoke("top", shop, "--by", "proto", "--sort", sort, "-o", "json")
    found = json.loads(result.stdout)
    keys = ["proto", "connections", "events", "failed", "packets", "bytes", "percent"]
    assert list(found[0]) == [*keys, *NEWER]
    assert list(found[0].values())[: len(keys)] == first


def test_csv_has_a_header_and_no_total(invoke: Invoke, shop: Path) -> None:
    result = invoke("top", shop, "--by", "proto,ip_version", "--failed", "-o", "csv")
    assert result.stdout == (
        "proto,ip_version,connections,events,failed,packets,bytes,percent,bytes_out,bytes_in,"
        "refused,unreplied,first_seen,last_seen,first_seen_ns,last_seen_ns\n"
        "udp,6,5,10,5,5,700,63.64,700,0,0,5,2024-11-25T18:48:02.852716307Z,"
        "2024-11-25T18:48:04.852716307Z,1732560482852716307,1732560484852716307\n"
        "tcp,4,4,8,4,8,400,36.36,240,160,4,0,2024-11-25T18:47:52.852716307Z,"
        "2024-11-25T18:47:54.852716307Z,1732560472852716307,1732560474852716307\n"
    )


def test_a_source_port_is_a_key_too(invoke: Invoke, shop: Path) -> None:
    result = invoke("top", shop, "--by", "src_port", "--sort", "connections", "-o", "tsv")
    assert older(result.stdout) == (
        "\t11\t34\t4\t3591\t5067068\t64.71\n514\t5\t10\t5\t5\t700\t29.41\n53388\t1\t2\t0\t\t\t5.88\n"
    )


def test_the_last_flows_alone_can_be_ranked(invoke: Invoke, shop: Path) -> None:
    result = invoke("top", shop, "--by", "proto", "--last", "2", "-o", "tsv")
    assert older(result.stdout) == "tcp\t1\t4\t0\t17\t16400\t98.99\nicmp\t1\t3\t0\t2\t168\t1.01\n"


def test_nothing_to_rank_is_said(invoke: Invoke, shop: Path) -> None:
    result = invoke("top", shop, "--pod", "nobody")
    said = "no flows fit: no pod named nobody in this file"
    known = "kube-system/coredns-7c65d6cfc9-sq2br, shop/db-0, shop/web-1"
    heads = "SOURCE  DESTINATION  CONNS  FAILED  PACKETS  BYTES\n"
    assert (result.exit_code, result.stdout) == (0, heads)
    assert result.stderr == f"{said} ({known})\n{GAPS}"


def test_a_mistyped_key_is_corrected(invoke: Invoke, shop: Path) -> None:
    result = invoke("top", shop, "--by", "src_workload,servce")
    assert (result.exit_code, result.stdout, result.stderr) == (
        2,
        "",
        "Error: 'servce' is not a key to group by\nTry: --by service\n",
    )
    result = invoke("top", shop, "--by", "xyz")
    assert result.exit_code == 2
    told = f"Try: one of {', '.join(PRESETS)}; `ctk top --help` has all"
    assert result.stderr.splitlines()[1] == told
    told = re.findall(r"[a-z_]+", invoke("top", "--help").stdout)
    assert {*PRESETS, *KEYS} <= set(told)


def test_a_span_that_was_widened_says_so(invoke: Invoke, shop: Path) -> None:
    conn = sqlite3.connect(shop)
    pruned_ns = 1_732_560_480 * SECOND  # 18:48:00
    conn.execute("DELETE FROM flow WHERE started_ns < ?", (pruned_ns,))
    conn.execute("UPDATE level SET pruned_ns = ? WHERE name = 'flow'", (pruned_ns,))
    conn.commit()
    conn.close()
    words = ("top", shop, "--since", "2024-11-25T18:47:40Z", "--by", "proto", "-o", "tsv")
    result = invoke(*words)
    assert older(result.stdout) == (
        "tcp\t11\t33\t4\t3589\t5066900\t99.98\nudp\t5\t10\t5\t5\t700\t0.01\nicmp\t1\t3\t0\t2\t168\t0.0\n"
    )
    assert result.stderr == (
        "1 gap in this window: 1,204 events lost\n"
        "counted from 2024-11-25T18:47:00Z to 2024-11-25T18:48:22.852716308Z:"
        " there are no finer rows\n"
        "first and last seen are exact to 1m: rollups answered\n"
    )
    # Where only flows can tell, those that are left do.
    result = invoke(*words, "--failed")
    assert older(result.stdout) == "udp\t5\t10\t5\t5\t700\t100.0\n"
    assert result.stderr.endswith(
        "flows before 2024-11-25T18:48:00Z were pruned: only rollups hold them\n"
    )


def test_labels_are_an_object_in_json_and_text_elsewhere(invoke: Invoke, shop: Path) -> None:
    asked = ("top", shop, "--by", "dst_labels", "--limit", "1", "--not", "--kind", "external")
    [row] = json.loads(invoke(*asked, "-o", "json").stdout)
    sql = "SELECT dst_labels, 'none' AS src_labels FROM flows WHERE service = 'shop/web' LIMIT 1"
    flow = json.loads(invoke("query", shop, sql, "-o", "jsonl").stdout)
    assert (type(row["dst_labels"]), type(flow["dst_labels"])) == (dict, dict)
    assert flow["src_labels"] == "none"
    assert invoke("query", shop, sql, "-o", "tsv").stdout.startswith("{")


def test_what_no_flow_has_is_not_told_as_that_none_fits(invoke: Invoke, shop: Path) -> None:
    result = invoke("top", shop, "--by", "zones")
    said = "no flows fit: none of those asked for has a zone\n"
    assert (result.exit_code, result.stderr.splitlines(keepends=True)[0]) == (0, said)
    result = invoke("top", shop, "--by", "zones", "--pod", "nobody")
    assert result.stderr.startswith("no flows fit: no pod named nobody in this file")


@pytest.mark.parametrize(("columns", "drawn"), [(62, 0), (100, 2)])
def test_lines_of_blocks_are_in_every_list_or_in_none(
    on_a_terminal: Callable[..., list[str]], shop: Path, columns: int, drawn: int
) -> None:
    """Ports are narrow, and had room for them where pods had none."""
    lines = on_a_terminal("top", shop, "--by", "src", "--by", "proto", columns=columns)
    assert sum("EACH" in line for line in lines) == drawn


def test_a_line_of_blocks_says_when_each_row_moved(invoke: Invoke, shop: Path) -> None:
    asked = ("top", shop, "--by", "services", "--since", "2024-11-25T18:46:00Z")
    lines = invoke(*asked, "--spark").stdout.splitlines()
    assert lines[0].endswith("  EACH 10s")
    assert {line.split()[0]: line.split()[-1] for line in lines[1:-1]} == {
        "shop/web": "········▁·█·▁▁▁▁",
        "shop/db": "········▁█▁·▁▁▃▁",
        "-": "··········▁▅█▃▁▁",
    }
    assert "EACH" not in invoke(*asked).stdout
    assert "EACH" not in invoke(*asked, "-o", "csv").stdout


def test_blocks_are_for_people_and_of_a_span(invoke: Invoke, shop: Path) -> None:
    result = invoke("top", shop, "--spark", "-o", "json")
    assert (result.exit_code, result.stderr) == (
        2,
        "Error: -o json has no pictures\nTry: ctk series has the steps\n",
    )
    result = invoke("top", shop, "--spark", "--last", "2")
    assert result.stderr == (
        "Error: --spark needs a span of time\nTry: --since 1h in place of --first, --last\n"
    )
