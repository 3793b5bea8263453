"""`ctk timeline`: when what moved, drawn as text."""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

import ctk
from ctk.ask.series import Series
from ctk.render import timeline as render
from ctk.render.cells import width
from ctk.render.layout import Screen

Invoke = Callable[..., Result]
SINCE = ("--since", "2024-11-25T18:46:00Z")

DRAWN = """\
2024-11-25 18:46:00 to 18:49:00 (UTC), steps of 1m

bytes: 4.8 MiB, at most 4.8 MiB in 1m
    4.8 MiB │░░░░░░██████
            │░░░░░░██████
            │░░░░░░██████
          0 │░░░░░░██████▁▁▁▁▁▁

connections: 17, at most 10 in 1m
         10 │░░░░░░██████
            │░░░░░░██████▆▆▆▆▆▆
            │░░░░░░████████████
          0 │░░░░░░████████████

failures: 9, at most 5 in 1m
          5 │░░░░░░▂▂▂▂▂▂██████
            │░░░░░░████████████
            │░░░░░░████████████
          0 │░░░░░░████████████
            └┬───────────┬─────
             18:46       18:48
       gaps        !!!!!!
             ! perhaps more: a gap is in it, ░ not recorded
"""


def test_a_column_is_a_step_and_what_is_not_known_is_hatched(invoke: Invoke, shop: Path) -> None:
    result = invoke("timeline", shop, *SINCE, "--step", "1m")
    assert (result.exit_code, result.stdout) == (0, DRAWN)
    assert result.stderr == "2 gaps in this window: 1,204 events lost, recorder down for 3s\n"


def test_the_same_in_ascii(invoke: Invoke, shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = invoke("timeline", shop, *SINCE, "--step", "1m", "--ascii").stdout
    assert drawn.isascii()
    assert "          5 |??????......######\n" in drawn
    monkeypatch.setenv("LC_ALL", "C")
    assert invoke("timeline", shop, *SINCE, "--step", "1m").stdout == drawn


def test_programs_get_the_steps_of_series(invoke: Invoke, shop: Path) -> None:
    for form in ("csv", "json"):
        words = (shop, *SINCE, "--step", "10s", "-o", form)
        assert invoke("timeline", *words).stdout == invoke("series", *words).stdout
    steps = json.loads(invoke("timeline", shop, "-o", "json").stdout)
    assert sum(step["connections"] or 0 for step in steps) == 17


def test_a_span_without_flows_says_why(invoke: Invoke, shop: Path) -> None:
    result = invoke("timeline", shop, "--pod", "nobody")
    assert "connections: 0" in result.stdout
    assert result.stderr.startswith("no flows fit: no pod named nobody in this file")


def drawn(found: Series, width: int, **asked: bool) -> list[str]:
    out = io.BytesIO()
    render.timeline(found, Screen(width=width, colour=True, utc=True), out, **asked)
    return out.getvalue().decode().splitlines()


@pytest.mark.parametrize("columns", [60, 80, 120, 200])
def test_it_fits_its_screen(shop: Path, columns: int) -> None:
    with ctk.open(shop) as recording:
        found = recording.series(step="10s", since="2024-11-25T18:46:00Z")
        wide = recording.series(step="1m", since="2024-11-25T12:00:00Z")
    for each in (found, wide, found._replace(rows=found.rows[:1])):
        for line in drawn(each, columns):
            assert width(re.sub(r"\x1b\[[0-9]*m", "", line)) <= columns
    assert drawn(found._replace(rows=()), columns) == []


def test_a_column_of_several_steps_shows_the_most_of_them(shop: Path) -> None:
    with ctk.open(shop) as recording:
        found = recording.series(step="1m", since="2024-11-25T12:00:00Z")
    lines = drawn(found, 60)
    assert lines[1] == "steps of 1m, the most of several in a column"
    [highest] = [line for line in lines if line.startswith("         10 ")]
    assert highest.count("█") == 1
