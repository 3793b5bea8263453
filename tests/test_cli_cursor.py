"""`ctk cursor`: which exports are kept where, and how one is forgotten."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Invoke = Callable[..., Result]


def test_cursors_are_listed_where_they_are_kept(invoke: Invoke, shop: Path, tmp_path: Path) -> None:
    assert invoke("cursor", "list", shop).stderr == (
        f"no cursor is kept beside {shop}: that of an export to --output FILE is beside FILE\n"
    )
    out = tmp_path / "flows.csv"
    invoke("export", shop, "--cursor", "siem", "--first", "1", "--to-port", "8181")
    invoke("export", shop, "--cursor", "a.b", "--output", out, "--format", "csv")
    [siem] = json.loads(invoke("cursor", "list", shop, "-o", "json").stdout)
    assert siem == {
        "name": "siem",
        "until_ns": 1732560442852716307,
        "format": "jsonl",
        "filters": "--to-port 8181",
        "bytes": 0,
        "file": f"{shop}.siem.cursor",
    }
    [to_file] = json.loads(invoke("cursor", "list", out, "-o", "json").stdout)
    assert (to_file["name"], to_file["bytes"]) == ("a.b", out.stat().st_size)
    assert invoke("cursor", "list", shop, "--utc").stdout == (
        "NAME  UNTIL (UTC)          FORMAT  FILTERS         IN FILE\n"
        "siem  2024-11-25 18:47:22  jsonl   --to-port 8181      0 B\n"
    )


def test_a_cursor_that_is_forgotten_begins_anew(invoke: Invoke, shop: Path) -> None:
    assert len(invoke("export", shop, "--cursor", "siem").stdout.splitlines()) == 7
    assert invoke("export", shop, "--cursor", "siem").stdout == ""
    result = invoke("cursor", "reset", shop, "siem")
    assert (result.exit_code, result.stdout) == (0, "")
    assert len(invoke("export", shop, "--cursor", "siem").stdout.splitlines()) == 7
    result = invoke("cursor", "reset", shop, "seim")
    assert (result.exit_code, result.stderr) == (
        2,
        f"Error: no cursor 'seim' is kept beside {shop}\nTry: one of siem\n",
    )
    result = invoke("cursor", "list", shop.with_name("x"))
    assert (result.exit_code, result.stderr) == (
        2,
        f"Error: there is no file {shop.with_name('x')}\nTry: name DB, or the FILE of --output\n",
    )
    result = invoke("cursor", "reset", "siem", shop)
    assert (result.exit_code, result.stderr) == (
        2,
        f"Error: there is no file siem\nTry: ctk cursor reset {shop} siem\n",
    )


def test_a_file_in_the_place_of_a_command_is_told_the_command(invoke: Invoke, shop: Path) -> None:
    result = invoke("cursor", shop)
    assert (result.exit_code, result.stderr) == (
        2,
        f"Error: a command comes before the file: list or reset\nTry: ctk cursor list {shop}\n",
    )
    assert invoke("cursor", "lst").stderr.startswith("Error: No such command 'lst'")


def test_the_variable_names_the_file(
    invoke: Invoke, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    invoke("export", shop, "--cursor", "siem")
    monkeypatch.setenv("CTK_DB", str(shop))
    assert "siem" in invoke("cursor", "list").stdout
    assert invoke("cursor", "reset", "siem").stderr.startswith("siem is forgotten")
    assert invoke("cursor", "reset").exit_code == 2
