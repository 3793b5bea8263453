"""chDB's engine, asked directly: values in, values out, and no other question's rows."""

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest

from ctk.errors import CtkError
from ctk.fleet.clickhouse.client import Client, connect, reading
from ctk.fleet.clickhouse.engine import Engine, EngineError
from ctk.fleet.clickhouse.target import parse_target


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Client, Client]]:
    """One that only asks, and one that writes, too."""
    target = parse_target(f"chdb://{tmp_path_factory.mktemp('engine') / 'ch'}")
    writing = connect(target, database=False)
    writing.command("CREATE DATABASE ctk")
    writing.command("CREATE TABLE ctk.t (n Int64) ENGINE = MergeTree ORDER BY n")
    asking = reading(target)
    yield asking, writing
    asking.close()
    writing.close()


@pytest.fixture
def engine(clients: tuple[Client, Client]) -> Engine:
    made = clients[0]._made
    assert isinstance(made, Engine)
    return made


TEXT = "a'b\"c\\d\te\nf\r\b\f\0é{n:String}%s\u2028"


def test_what_is_bound_comes_back_as_it_was(engine):
    asked = {"one": TEXT, "some": [TEXT, "]", ""], "numbers": [1, -(2**63)], "none": None}
    sql = (
        "SELECT {one:String}, {some:Array(String)}, {numbers:Array(Int64)}, {none:Nullable(String)}"
    )
    assert engine.query(sql, asked, {}).result_rows == [list(asked.values())]


def assert_same_answer(clients, sql):
    """The client that speaks to a server, too, has these names and values."""
    one, other = (client.query(sql) for client in clients)
    assert list(one.names) == list(other.names)
    assert repr([*one.rows[0]]) == repr([*other.rows[0]])


def test_values_are_those_of_the_client_that_speaks_to_a_server(clients):
    asking, _ = clients
    sql = (
        "SELECT 18446744073709551615 AS big, -1 AS small, 0.5 AS half, 1/0 AS inf, 'é' AS text,"
        " toDecimal64(1.25, 4) AS decimal, toDate('2024-02-29') AS day, true AS yes, NULL AS none,"
        " [1, 2] AS some, toLowCardinality('x') AS low,"
        " toUUID('61f0c404-5cb3-11e7-907b-a6006ad3dba0') AS uuid, toIPv4('1.2.3.4') AS four,"
        " toIPv6('::1') AS six, [toDate('2020-01-01'), NULL] AS days, (1, 'a') AS pair,"
        " map(1, toDecimal64(1.25, 2)) AS map, CAST((1, 2) AS Tuple(a Int8, b Int8)) AS named,"
        " [(toDate('1999-12-31'), 'x')] AS deep, CAST('a, b' AS Enum8('a, b' = 1)) AS enum"
    )
    assert_same_answer(clients, sql)
    (row,) = asking.query("SELECT toDecimal64(1.25, 4), toDate('2024-02-29'), 1/0").rows
    assert row == [Decimal("1.2500"), date(2024, 2, 29), float("inf")]


FLOATS = [1e100, 1.5e-100, 1e300, -1.7e308, 1e99, 1e22, 1.2345678901234567e-200, -0.0]
LONG = [1.2345678901234567 * 10.0**at for at in (*range(9, 23), *range(98, 116), 200, 305)]


def test_floats_are_as_they_are_beside_values_of_any_type(clients):
    """chDB's own text of the first is 1e10."""
    asking, _ = clients
    sql = "SELECT {floats:Array(Float64)}[number + 1] AS x FROM numbers(8)"
    found = asking.query(sql, {"floats": FLOATS}).rows
    assert repr([row[0] for row in found]) == repr(FLOATS)
    (row,) = asking.query("SELECT toDateTime(77, 'UTC'), toDateTime64(-1.5, 3, 'UTC'), 1e300").rows
    assert row[:2] == [datetime.fromtimestamp(at, UTC) for at in (77, -1.5)]
    sql = (
        "SELECT 1e100 AS big, [1e-200, NULL] AS some, ('é', 1e300) AS pair, map('a', 1) AS map,"
        " toInt16(-5) AS five, 18446744073709551615 AS max, true AS yes, NULL AS none,"
        " toUUID('61f0c404-5cb3-11e7-907b-a6006ad3dba0') AS uuid, toIPv4('1.2.3.4') AS four,"
        " toIPv6('::1') AS six, toDate('2024-02-29') AS day, toDate32('1950-01-01') AS early,"
        " toFloat32(0.5) AS half,"
        " toDecimal64(-1.25, 4) AS decimal, CAST('b' AS Enum8('a, b' = 1, 'b' = -2)) AS enum,"
        " CAST((1, 2) AS Tuple(a Int8, b Int8)) AS named, toLowCardinality('x') AS low,"
        " INTERVAL -3 DAY AS age, [CAST(1e100 AS Variant(String, Float64)), 'x', NULL] AS either,"
        """ CAST('{"a": 1, "b": {"c": [1, "x", null]}, "d": 1.5}' AS JSON) AS json"""
    )
    assert_same_answer(clients, sql)


@pytest.mark.parametrize("far", [2, 1e100])
def test_places_are_pairs_of_floats(clients, far):
    sql = (
        f"SELECT CAST((1, {far}) AS Point) AS point, CAST([(0, 0), (1, {far})] AS Ring) AS ring,"
        f" CAST([[[(0, 0), (1, {far})]]] AS MultiPolygon) AS areas"
    )
    assert_same_answer(clients, sql)


@pytest.mark.parametrize("sign", ["", "-"])
def test_a_float_alone_has_each_digit_of_its_exponent(clients, sign):
    asking, _ = clients
    told = [f"{sign}{each!r}" for power in LONG for each in (power, 1 / power)]
    for each in told:
        (row,) = asking.query(f"SELECT {each} AS x, map({each}, 1) AS map").rows
        assert (row[0], list(row[1])) == (float(each), [float(each)])


def test_chdb_is_imported_while_a_folder_is_open(tmp_path):
    asked = (
        "from pathlib import Path; from ctk.fleet.clickhouse.engine import Engine\n"
        f"engine = Engine(Path({str(tmp_path)!r}), None, {{}})\n"
        "import chdb\n"
        "print(chdb.engine_version.count('.') > 1, engine.query('SELECT 1', {}, {}).result_rows)"
    )
    found = subprocess.run(
        [sys.executable, "-c", asked], capture_output=True, text=True, check=True
    )
    assert found.stdout == "True [[1]]\n"


def test_ctrl_c_while_chdb_loads_is_that_and_no_lack_of_it(tmp_path):
    """What loads a module in C makes an ImportError of any other."""
    code = (
        "import os, signal\n"
        "from ctk.fleet.clickhouse import engine\n"
        "try:\n"
        "    with engine.uninterrupted():\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        print(engine.library().__name__)\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted')"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "chdb._chdb\ninterrupted\n"


def test_times_are_utc_whatever_the_process_s_zone(tmp_path):
    asked = (
        "from pathlib import Path; from ctk.fleet.clickhouse.engine import Engine\n"
        f"engine = Engine(Path({str(tmp_path)!r}), None, {{}})\n"
        "sql = \"SELECT toDateTime(0, 'UTC'), toDateTime64(1.5, 3, 'Asia/Tokyo'), toDateTime(0)\"\n"
        "print(engine.query(sql, {}, {}).result_rows)"
    )
    found = subprocess.run(
        [sys.executable, "-c", asked],
        env={"TZ": "Europe/Paris"},
        capture_output=True,
        text=True,
        check=True,
    )
    epoch = datetime.fromtimestamp(0, UTC)
    assert eval(found.stdout, {"datetime": sys.modules["datetime"]}) == [
        [epoch, datetime.fromtimestamp(1.5, UTC), epoch]
    ]


FAILING = [
    "SELECT throwIf(number = 100000) FROM numbers(1000000)",
    "SELECT number FROM numbers(3000000) SETTINGS max_result_rows = 100000",
    "SELECT nope",
]


@pytest.mark.parametrize("sql", FAILING[:2])
def test_what_failed_leaves_nothing_to_the_next_answer_of_who_writes(clients, sql):
    _, writing = clients
    with pytest.raises(CtkError):
        writing.query(sql)
    found = writing.query("SELECT 7 AS n")
    assert (list(found.names), list(map(tuple, found.rows))) == (["n"], [(7,)])


@pytest.mark.parametrize("sql", FAILING)
def test_what_failed_leaves_nothing_to_the_next_answer(engine, sql):
    with pytest.raises(EngineError, match=r"^Code: \d+"):
        engine.query(sql, {}, {})
    assert engine.query("SELECT 7 AS n", {}, {}) == (["n"], [[7]])


def test_settings_hold_for_one_question_and_a_bad_name_is_refused(engine):
    sql = "SELECT getSetting('max_block_size')"
    before = engine.query(sql, {}, {}).result_rows
    assert engine.query(sql, {}, {"max_block_size": 77, "readonly": 1}).result_rows == [[77]]
    assert engine.query(sql, {}, {}).result_rows == before
    with pytest.raises(EngineError, match="is not the name of a setting"):
        engine.query(sql, {}, {"readonly = 0, a": 1})


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A target with tables, which no process has open."""
    target = f"chdb://{tmp_path_factory.mktemp('elsewhere') / 'ch'}"
    made = (
        "import sys; from ctk.fleet.clickhouse import ddl\n"
        "from ctk.fleet.clickhouse.client import connect\n"
        "from ctk.fleet.clickhouse.target import parse_target\n"
        "ddl.make(connect(parse_target(sys.argv[1]), database=False))"
    )
    subprocess.run([sys.executable, "-c", made, target], check=True)
    return target


def test_who_asks_first_may_write_then(elsewhere):
    """The client is imported while the engine is open, which it opens in memory to ask for."""
    asked = (
        "import sys\n"
        "from ctk.fleet.clickhouse.client import connect, reading\n"
        "from ctk.fleet.clickhouse.target import parse_target\n"
        "target = parse_target(sys.argv[1])\n"
        "asking = reading(target)\n"
        "assert not {'chdb', 'pyarrow', 'clickhouse_connect'} & set(sys.modules)\n"
        "writing = connect(target)\n"
        "writing.command('CREATE TABLE t (n Int64) ENGINE = Memory')\n"
        "writing.insert('t', {'n': 'Int64'}, [[1, 2]])\n"
        "print(asking.query('SELECT sum(n) FROM t').rows)"
    )
    command = [sys.executable, "-c", asked, elsewhere]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert found.stdout == "[[3]]\n"


def test_ctrl_c_ends_a_question_that_the_engine_goes_on_with(elsewhere):
    asked = (
        "import os, signal, threading, time\n"
        "from ctk.cli import main\n"
        "def asked():\n"
        "    return {each for each in threading.enumerate() if each.name == 'ctk-sql'}\n"
        "def interrupt():\n"
        "    before = set()\n"
        "    while not before & (before := asked()):\n"
        "        time.sleep(0.3)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "threading.Thread(target=interrupt, daemon=True).start()\n"
        "main()"
    )
    endless = "SELECT sum(sipHash64(number)) FROM numbers(1000000000000)"
    command = [sys.executable, "-c", asked, "query", elsewhere, endless, "--timeout", "1h"]
    found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (found.returncode, found.stdout, found.stderr) == (130, "", "\n")


@pytest.mark.parametrize(
    ("command", "zone", "said"),
    [
        ("top", "", "chDB does not start with an empty TZ"),
        ("info", "CETT", "chDB has no time zone 'CETT'"),
    ],
)
def test_a_zone_that_is_none_is_refused_with_what_to_do(tmp_path, command, zone, said):
    (tmp_path / "store").mkdir()
    words = [sys.executable, "-m", "ctk", command, f"chdb://{tmp_path}"]
    found = subprocess.run(words, env={"TZ": zone}, capture_output=True, text=True, check=False)
    said = f"Error: {said}\nTry: unset TZ, or TZ=UTC\n"
    assert (found.returncode, found.stdout, found.stderr) == (2, "", said)


@pytest.mark.parametrize("sql", ["SELECT 1 SETTINGS max_threads = 3", "CREATE TABLE u (n Int8)"])
def test_what_a_question_was_given_its_words_do_not_change(engine, sql):
    with pytest.raises(EngineError, match="readonly mode"):
        engine.query(sql, {}, {"readonly": 1, "max_threads": 2})
