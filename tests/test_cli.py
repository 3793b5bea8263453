"""The group: what it costs to start, and how failures look."""

import fcntl
import os
import shlex
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import click
import pytest
from click.testing import Result
from live.playednode import until

from ctk.cli import COMMANDS

Invoke = Callable[..., Result]

CTK = [sys.executable, "-m", "ctk"]


def _run(*words: object, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        [*CTK, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", [("query",), ("export", "--cursor=c")], ids=" ".join)
def test_a_reader_that_goes_away_in_the_middle_of_flows_ends_it_quietly(
    shop: Path, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, unbuffered: str
) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    with subprocess.Popen(
        [*CTK, *words, str(shop)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as ran:
        assert ran.stdout is not None
        assert ran.stderr is not None
        ran.stdout.close()
        assert (ran.wait(20), ran.stderr.read()) == (141, b"")


def test_as_a_plugin_of_kubectl_it_is_called_by_that_name(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/local/bin/kubectl-ctk"])
    assert invoke("top", "--help").stdout.startswith("Usage: kubectl ctk top [OPTIONS] DB...\n")
    assert invoke("topp").stderr == "Error: No such command 'topp'\nTry: kubectl ctk top\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_the_group_is_that_of_each_command(name: str) -> None:
    command = getattr(import_module(f"ctk.cli.{name}"), name)
    assert isinstance(command, click.Command)
    assert (command.name, command.get_short_help_str(100)) == (name, COMMANDS[name])


def test_help_imports_no_command_and_nothing_that_takes_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # which takes a stream of our own
    code = (
        "import sys\nfrom ctk.cli import main\ntry:\n    main(['--help'])\n"
        "finally:\n    print(*sys.modules, file=sys.stderr)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = set(ran.stderr.split())
    slow = {"sqlite3", "orjson", "asyncio", "tabulate", "curses", "starlette", "kubernetes"}
    slow |= {"inspect", "platform", "dataclasses", "uuid", "locale"}
    assert imported & slow == set()
    ours = {name for name in imported if name.startswith("ctk.")}
    assert ours == {"ctk.cli", "ctk.cli.late", "ctk.errors"}


@pytest.mark.parametrize(
    "words", [("query", "--last", "1"), ("top",), ("export",), ("info",), ("query", "SELECT 1")]
)
def test_a_reader_imports_neither_kubernetes_nor_pyroute2_nor_sqlite_utils(
    shop: Path, words: tuple[str, ...]
) -> None:
    code = (
        "import sys\nfrom ctk.cli import main\ntry:\n    main(sys.argv[1:])\n"
        "finally:\n    print(*sys.modules, file=sys.stderr)"
    )
    command, *options = words
    ran = subprocess.run(
        [sys.executable, "-c", code, command, str(shop), *options],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {name.split(".")[0] for name in ran.stderr.split()}
    assert not loaded & {"kubernetes", "pyroute2", "sqlite_utils", "asyncio", "urllib3"}
    assert not loaded & {"chdb", "clickhouse_connect"}
    assert "ctk.fleet" not in ran.stderr.split()
    # 15 and 25 ms, where a table is all that is asked for
    assert command == "export" or not loaded & {"dataclasses", "orjson"}


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_the_version_is_one_line(invoke: Invoke, flag: str) -> None:
    result = invoke(flag)
    assert (result.exit_code, result.stdout) == (0, "ctk 0.1.0\n")


def test_the_module_is_the_command() -> None:
    assert _run("--version").stdout == "ctk 0.1.0\n"


def test_no_command_shows_the_help_and_exits_2(invoke: Invoke) -> None:
    result = invoke()
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Record:\n  record " in result.stderr


NO_FILE = "Error: no file is named\nTry: name one, or set CTK_DB: CTK_DB=node.db\n"


@pytest.mark.parametrize(
    ("words", "stderr"),
    [
        (["qury"], "Error: No such command 'qury'\nTry: ctk query\n"),
        (["frobnicate"], "Error: No such command 'frobnicate'\nTry: ctk --help\n"),
        (["top"], NO_FILE),
        (["query"], NO_FILE),
        (["query", "select 1"], NO_FILE),
        (["info"], NO_FILE),
        (["snapshot"], NO_FILE),
        (
            ["snapshot", "node.db"],
            "Error: the file to copy, or where to, is not named\n"
            "Try: ctk snapshot node.db copy.db\n",
        ),
        (["record"], "Error: Missing argument 'DB'\nTry: ctk record --help\n"),
        (["list"], "Error: No such command 'list'\nTry: ctk query\n"),
        (
            ["query", "x.db", "--podd", "w"],
            "Error: No such option '--podd'\nTry: --pod\n",
        ),
        *(
            (["query", "x.db", flag, "1"], f"Error: No such option '{flag}'\nTry: {meant}\n")
            for flag, meant in (
                ("--limit", "--last"),
                ("--src", "--from-ip"),
                ("--selector", "--label"),
                ("--name", "--namespace"),
                ("--prot", "--protocol"),
                ("--from-pods", "--from-pod"),
                ("--not-pdo", "ctk query --help"),
            )
        ),
        (
            ["query", "x.db", "select 1", "--watch"],
            "Error: No such option '--watch'\nTry: ctk top DB --watch is a table that moves,"
            " ctk query DB -f follows flows\n",
        ),
        *(
            (
                [command, "x.db", "y.db"],
                "Error: Got unexpected extra argument (y.db)\nTry: ctk merge DB DB -o all.db makes"
                " one file of several; ctk top and query take them all\n",
            )
            for command in ("report", "info")
        ),
        (
            ["schema", "x.db", "flows"],
            "Error: Got unexpected extra argument (flows)\nTry: ctk schema --help\n",
        ),
        (
            ["schema", "flows"],
            "Error: there is no file flows\nTry: ctk schema DB has all views, ctk query DB"
            ' "select * from flows" what is in one\n',
        ),
        (
            ["export", "select 1"],
            'Error: there is no file select 1\nTry: ctk query DB "select ..." -o csv takes SQL\n',
        ),
        (["query", "x.db", "--xyzzy"], "Error: No such option '--xyzzy'\nTry: ctk query --help\n"),
        (
            ["query", "x.db", "-o", "xml"],
            "Error: 'xml' is not a value of --format\nTry: --format table, wide, vertical,"
            " markdown, name, json, jsonl, csv or tsv\n",
        ),
        (
            ["query", "x.db", "-o", "josn"],
            "Error: 'josn' is not a value of --format\nTry: --format json\n",
        ),
        (
            ["query", "x.db", "--pod"],
            "Error: Option '--pod' requires an argument\nTry: ctk query --help\n",
        ),
        (
            ["completion"],
            "Error: Missing argument 'bash|zsh|fish'\nTry: ctk completion bash\n",
        ),
        (
            ["query", "x.db", "--last", "many"],
            "Error: 'many' is not a count\nTry: write it as 50\n",
        ),
        (
            ["query", "x.db", "--since", "soon"],
            "Error: 'soon' is neither an age nor a time\n"
            "Try: write it as 15m, '10 min ago', 09:00, yesterday or 2024-11-25T18:47:22Z\n",
        ),
        (
            ["query", "x.db", "--since", "2024-11-25", "--until", "2024-11-24"],
            "Error: --since is later than --until\nTry: --since 2h --until 1h\n",
        ),
        (
            ["query", "x.db", "--first", "1", "--last", "1"],
            "Error: --first and --last exclude each other\nTry: give one of them\n",
        ),
        (
            ["query", "x.db", "--not"],
            "Error: --not needs a filter behind it\nTry: --not --pod NAME\n",
        ),
        (
            ["top", "x.db", "--not", "--since", "1h"],
            "Error: --not needs a filter behind it\nTry: --not --pod NAME\n",
        ),
        (
            ["query", "x.db", "--since", "yesterdya"],
            "Error: 'yesterdya' is neither an age nor a time\nTry: yesterday\n",
        ),
        (
            ["query", "x.db", "--since", "monday"],
            "Error: 'monday' is neither an age nor a time\n"
            "Try: write it as 15m, '10 min ago', 09:00, yesterday or 2024-11-25T18:47:22Z\n",
        ),
        (
            ["record", "-", "--no-kube"],
            "Error: DB would be a file of the name -\nTry: name a file: node.db\n",
        ),
        (
            ["merge", "tests", "tests", "-o", "-"],
            "Error: --output would be a file of the name -\nTry: name a file: all.db\n",
        ),
        (["export", "-"], "Error: there is no file -\nTry: `ctk record` makes one\n"),
        (
            ["query", "x.db", "--since", "15"],
            "Error: '15' is neither an age nor a time\nTry: 15s, 15m, 15h or 15d\n",
        ),
        (
            ["query", "x.db", "--for", "10m"],
            "Error: --for needs --since or --until, and not both\nTry: --since 09:00 --for 10m\n",
        ),
        (["query", "x.db", "--kind", "Pod"], "Error: 'Pod' is not a kind of endpoint\nTry: pod\n"),
        (["query", "x.db", "--protocol", "tpc"], "Error: 'tpc' is not a protocol\nTry: tcp\n"),
        (
            ["query", "x.db", "--port", "90-80"],
            "Error: '90-80' is not a port\nTry: a number from 0 to 65535, or 8000-8999\n",
        ),
        (["query", "x.db", "-n", "shop,"], "Error: --namespace is empty\nTry: give it a NAME\n"),
        (
            ["query", "x.db", "-A", "-n", "shop"],
            "Error: -A and --namespace exclude each other\nTry: give one of them\n",
        ),
        (["query", "x.db"], "Error: there is no file x.db\nTry: `ctk record` makes one\n"),
    ],
)
def test_what_was_asked_wrongly_is_an_error_and_a_hint_and_exit_2(
    invoke: Invoke, words: list[str], stderr: str
) -> None:
    result = invoke(*words)
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", stderr)
    assert not Path("x.db").exists()


@pytest.mark.parametrize("command", ["query", "top", "export", "info"])
def test_what_is_no_ctk_file_is_refused(invoke: Invoke, tmp_path: Path, command: str) -> None:
    path = tmp_path / "notes.db"
    path.write_text("dear diary " * 1000)
    result = invoke(command, path)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"Error: {path} is not a ctk file\nTry: `ctk record` makes one\n"


def test_a_damaged_file_is_one_line_and_exit_1(shop: Path) -> None:
    damaged = bytearray(shop.read_bytes())
    damaged[4096 * 3 :] = b"\xff" * (len(damaged) - 4096 * 3)
    shop.write_bytes(damaged)
    ran = _run("query", shop)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith(f"Error: {shop} is damaged")
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize("words", [("--pod", "web-\udcff"), ("select :n", "-p", "n", "web-\udcff")])
def test_a_word_that_is_not_utf_8_is_asked_wrongly(
    invoke: Invoke, shop: Path, words: tuple[str, ...]
) -> None:
    result = invoke("query", shop, *words)
    assert (result.exit_code, result.stdout) == (2, "")
    expected = "Error: 'web-\ufffd' is not UTF-8\nTry: the names in a file are UTF-8\n"
    assert result.stderr == expected


def test_a_file_of_somebody_else_is_an_error_with_what_to_try(shop: Path) -> None:
    shop.chmod(0)
    without = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]  # root may read all
    asked = [*(without if os.geteuid() == 0 else []), *CTK, "top", str(shop)]
    ran = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == f"Error: {shop}: Permission denied\nTry: check who may read and write it\n"


def test_a_defect_is_a_traceback_and_then_an_error_and_exit_70() -> None:
    program = (
        "from ctk.cli import main\n"
        "def fail(*_):\n"
        "    raise KeyError('oops')\n"
        "main.invoke = fail\n"
        "main(['info', 'x.db'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )
    first, *traceback, error, hint = done.stderr.splitlines()
    assert (done.returncode, done.stdout, first, traceback[0], traceback[-1], error, hint) == (
        70,
        "",
        "a defect in ctk",
        "Traceback (most recent call last):",
        "KeyError: 'oops'",
        "Error: ctk failed where it should not: KeyError: 'oops'",
        "Try: report it, with the traceback above",
    )


def test_a_reader_that_goes_away_ends_it_quietly(shop: Path) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"
    with subprocess.Popen(
        [*CTK, "query", str(shop), endless, "-o", "csv"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as ran:
        assert ran.stdout is not None
        assert ran.stderr is not None
        assert ran.stdout.readline() == b"i\n"
        ran.stdout.close()
        assert (ran.wait(20), ran.stderr.read()) == (141, b"")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "<&- >&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("command", ["query", "top", "export", "info"])
def test_a_stream_that_is_closed_is_nobody_who_reads(shop: Path, command: str, closed: str) -> None:
    asked = f'"{sys.executable}" -m ctk {command} "$0" {closed}'
    done = subprocess.run(["sh", "-c", asked, shop], check=False, capture_output=True, text=True)
    assert (done.returncode, "Error" in done.stderr) == (0, False)


def test_an_interrupt_ends_it_quietly(shop: Path) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"
    with subprocess.Popen(
        [*CTK, "query", str(shop), endless, "-o", "jsonl"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as ran:
        assert ran.stdout is not None
        assert ran.stderr is not None
        ran.stdout.readline()
        ran.send_signal(signal.SIGINT)
        while ran.stdout.read(1 << 16):
            pass
        assert (ran.wait(20), ran.stderr.read().strip()) == (130, b"")


@pytest.mark.parametrize(
    "words",
    [
        ["query", "DB", "--last", "2"],
        ["query", "DB", "SELECT COUNT(*) FROM flows"],
        ["top", "DB"],
        ["export", "DB"],
        ["info", "DB"],
        ["schema", "DB"],
    ],
)
def test_what_reads_asks_the_file_of_the_variable(
    invoke: Invoke, shop: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    named = invoke(*(str(shop) if word == "DB" else word for word in words))
    monkeypatch.setenv("CTK_DB", str(shop))
    asked = invoke(*(word for word in words if word != "DB"))
    assert (asked.exit_code, asked.stdout, asked.stderr) == (0, named.stdout, named.stderr)


def test_a_file_that_is_named_goes_before_the_variable(
    invoke: Invoke, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = invoke("query", shop, "SELECT 1").stdout
    monkeypatch.setenv("CTK_DB", "no.db")
    assert invoke("query", shop, "SELECT 1").stdout == named
    assert invoke("top", shop).exit_code == 0
    assert invoke("top").stderr.startswith("Error: there is no file no.db\n")


def test_the_variable_may_name_several_files(
    invoke: Invoke, shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CTK_DB", f"{shop}:{tmp_path / 'no.db'}")
    assert invoke("top").stderr.startswith(f"Error: there is no file {tmp_path / 'no.db'}\n")


def test_a_copy_of_the_file_of_the_variable(
    invoke: Invoke, shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CTK_DB", str(shop))
    assert invoke("snapshot", tmp_path / "copy.db").exit_code == 0
    assert invoke("top", tmp_path / "copy.db").stdout == invoke("top").stdout
    assert invoke("snapshot", "a.db", "b.db", "c.db").exit_code == 2


def test_nothing_is_recorded_into_the_file_of_the_variable(
    invoke: Invoke, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CTK_DB", str(shop))
    assert invoke("record").stderr.startswith("Error: Missing argument 'DB'\n")


def test_the_process_ends_at_once_but_not_before_what_is_registered_and_measured() -> None:
    code = (
        "import atexit, sys; atexit.register(print, 'registered');"
        " sys.argv[1:] = ['--version']; from ctk.cli import main; main()"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[1:] == ["registered"]
    measured = [sys.executable, "-m", "cProfile", "-m", "ctk", "no-such-command"]
    ran = subprocess.run(measured, capture_output=True, text=True, check=False)
    assert "function calls" in ran.stdout


@pytest.mark.parametrize("words", [("query", "-o", "jsonl"), ("snapshot",)])
def test_a_pipe_that_does_not_block_gets_all_of_it(shop: Path, words: tuple[str, ...]) -> None:
    """It may have room for nothing for a while, where its reader is slow."""
    command, *flags = words
    asked = (sys.executable, "-m", "ctk", command, shop, *flags, *["-"] * (command == "snapshot"))
    whole = subprocess.run(asked, capture_output=True, check=True).stdout
    reading, writing = os.pipe()
    room = fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writing, False)
    asker = subprocess.Popen(asked, stdout=writing)
    os.close(writing)
    until(lambda: _waiting(reading) > room // 2, "a pipe that is full")
    with open(reading, "rb") as pipe:  # noqa: PTH123 - a descriptor
        got = pipe.read()
    assert (asker.wait(), len(got) > room, got == whole) == (0, True, True)


@pytest.mark.parametrize("words", [("query", "-o", "csv"), ("export",), ("report", "-o")])
def test_without_a_buffer_nothing_is_lost(
    shop: Path, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a limited file the kernel takes a part, and the rest is for the next write."""
    command, *flags = words
    asked = [sys.executable, "-m", "ctk", command, shop, *flags, *["-"] * (command == "report")]
    cut = f'ulimit -f 1; trap "" XFSZ; {shlex.join(map(str, asked))} >"$0"'
    for value in ("1", ""):
        monkeypatch.setenv("PYTHONUNBUFFERED", value)
        into = shop.with_name("cut")
        done = subprocess.run(["sh", "-c", cut, into], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr.splitlines()) == (
            1,
            [
                "Error: standard output cannot be written: File too large",
                "Try: make room where it goes",
            ],
        )


def test_without_a_buffer_a_cursor_is_where_its_lines_are(
    shop: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")
    asked = shlex.join([sys.executable, "-m", "ctk", "export", str(shop), "--cursor=c"])
    cut = f'ulimit -f 1; trap "" XFSZ; {asked} >"$0" 2>&-'
    assert subprocess.run(["sh", "-c", cut, shop.with_name("cut")], check=False).returncode == 1
    whole = invoke("export", shop).stdout.splitlines()
    told = subprocess.run(shlex.split(asked), capture_output=True, text=True, check=True)
    again = subprocess.run(shlex.split(asked), capture_output=True, text=True, check=True)
    assert (told.stdout.splitlines(), again.stdout) == (whole, "")


@pytest.mark.parametrize("blocks", [True, False])
@pytest.mark.parametrize("words", [("query", "-o", "jsonl"), ("export",)])
def test_an_interrupt_ends_it_where_its_reader_stands_still(
    shop: Path, words: tuple[str, ...], *, blocks: bool
) -> None:
    command, *flags = words
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writing, blocks)
    with subprocess.Popen(
        [sys.executable, "-m", "ctk", command, shop, *flags],
        stdout=writing,
        stderr=subprocess.PIPE,
    ) as asker:
        os.close(writing)
        until(lambda: _waiting(reading) > 2000, "a pipe that is full")
        time.sleep(0.1)
        asker.send_signal(signal.SIGINT)
        assert asker.stderr is not None
        assert (asker.wait(20), asker.stderr.read().strip()) == (130, b"")
    os.close(reading)


def _waiting(pipe: int) -> int:
    """Count the bytes that a pipe holds."""
    return int(struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))[0])
