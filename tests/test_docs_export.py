"""
The configurations in docs/export.md, as far as they can be held to something without Vector and
Fluent Bit: their form, what they refer to in themselves, the fields of a flow they name, the
forms of its times, and the commands that feed them.
"""

import json
import re
import shlex
import tomllib
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
from click.testing import Result

from ctk.store.columns import FLOW_KEYS

Invoke = Callable[..., Result]

PAGE = (Path(__file__).parents[1] / "docs" / "export.md").read_text("utf-8")
BLOCKS = re.findall(r"```(toml|ini)\n(.*?)```", PAGE, re.DOTALL)
VECTOR = tomllib.loads(next(text for kind, text in BLOCKS if kind == "toml"))
FLUENT, PARSERS = (text for kind, text in BLOCKS if kind == "ini")

# What each plugin of Fluent Bit, and each kind of section, is told, in its manual's spelling.
KNOWN = {
    "SERVICE": {"Parsers_File"},
    "tail": {"Path", "DB", "Parser", "Key", "Buffer_Max_Size", "Read_from_Head", "Tag"},
    "http": {"Match", "Host", "Port", "URI", "Format", "tls"},
    "syslog": {"Match", "Host", "Port", "Mode", "Syslog_Format", "Syslog_Message_Key"},
    "PARSER": {"Name", "Format", "Time_Key", "Time_Format", "Time_Keep"},
}


def sections(text: str) -> list[tuple[str, dict[str, str]]]:
    found: list[tuple[str, dict[str, str]]] = []
    for line in text.splitlines():
        if match := re.fullmatch(r"\[([A-Z]+)\]", line):
            found.append((match[1], {}))
        elif line.strip() and not line.startswith("#"):
            key, value = line.split(maxsplit=1)
            found[-1][1][key] = value
    return found


def test_vector_reads_the_file_and_each_step_has_an_input() -> None:
    [(source, flows)] = VECTOR["sources"].items()
    assert flows["type"] == "file"
    steps = VECTOR["transforms"] | VECTOR["sinks"]
    assert {name for step in steps.values() for name in step["inputs"]} <= {source, *steps}
    assert {step["type"] for step in steps.values()} == {"remap", "http", "socket"}


def test_vector_names_fields_of_a_flow_and_knows_its_time() -> None:
    program = VECTOR["transforms"]["parsed"]["source"]
    named = set(re.findall(r"flow\.(\w+)", program)) | set(re.findall(r"del\(\.(\w+)\)", program))
    assert named == {"started_at", "started_ns", "ended_ns"}
    assert named <= set(FLOW_KEYS)


def test_vector_reads_what_was_put_aside_and_no_cursor() -> None:
    kept, aside = VECTOR["sources"]["flows"]["include"]
    assert Path(f"{kept}.1").match(aside)
    assert not Path(f"{kept}.vector.cursor").match(aside)
    assert not Path(f"{kept}.vector.cursor").match(kept)


def test_fluent_bit_is_told_what_its_plugins_know() -> None:
    for kind, said in (*sections(FLUENT), *sections(PARSERS)):
        plugin = said.pop("Name", "") if kind in ("INPUT", "OUTPUT") else kind
        assert set(said) <= KNOWN[plugin], (kind, plugin)


def test_fluent_bit_refers_to_what_is_there(invoke: Invoke, shop: Path) -> None:
    inputs = [said for kind, said in sections(FLUENT) if kind == "INPUT"]
    outputs = [said for kind, said in sections(FLUENT) if kind == "OUTPUT"]
    [(_, parser)] = sections(PARSERS)
    assert {said["Match"] for said in outputs} == {said["Tag"] for said in inputs}
    assert len({said["DB"] for said in inputs}) == len(inputs)
    [parsed] = [said for said in inputs if "Parser" in said]
    assert (parsed["Parser"], parser["Format"]) == (parser["Name"], "json")
    [syslog] = [said for said in outputs if said["Name"] == "syslog"]
    assert syslog["Syslog_Message_Key"] in {said.get("Key") for said in inputs}
    # %L is a fraction of any length.
    flow = json.loads(invoke("export", shop, "--first", "1").stdout)
    time_format = parser["Time_Format"].replace("%L", "%f")
    assert datetime.strptime(flow[parser["Time_Key"]][:26] + "Z", time_format)


@pytest.mark.parametrize("number", [0, 1])
def test_the_command_that_feeds_each_is_one(
    invoke: Invoke, shop: Path, tmp_path: Path, number: int
) -> None:
    command = re.findall(r"# \S+: run `ctk (export [^`]*)`", PAGE)[number]
    output = tmp_path / "flows.jsonl"
    places = {"node.db": str(shop), "/var/log/ctk/flows.jsonl": str(output)}
    words = [places.get(word, word) for word in shlex.split(command)]
    words.remove("-f")  # which would have no end
    assert invoke(*words).exit_code == 0
    assert output.read_text() == invoke("export", shop).stdout
