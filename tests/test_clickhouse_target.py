"""Where ClickHouse is (ctk/fleet/clickhouse/target.py)."""

from pathlib import Path

import pytest

from ctk.errors import CtkError, UsageError
from ctk.fleet.clickhouse.client import explained
from ctk.fleet.clickhouse.engine import EngineError
from ctk.fleet.clickhouse.target import Target, is_target, parse_target


@pytest.mark.parametrize(
    ("text", "target"),
    [
        (
            "clickhouse://ann@ch.example:9443/flows",
            Target(
                said="clickhouse://ann@ch.example:9443/flows",
                database="flows",
                host="ch.example",
                port=9443,
                user="ann",
            ),
        ),
        (
            "clickhouse+http://[::1]",
            Target(said="clickhouse+http://[::1]:8123/ctk", host="::1", port=8123, secure=False),
        ),
        (
            "clickhouse://ch?max_threads=2",
            Target(
                said="clickhouse://ch:8443/ctk",
                host="ch",
                port=8443,
                settings={"max_threads": "2"},
            ),
        ),
        (
            "clickhouse://ann%40corp@ch",
            Target(
                said="clickhouse://ann%40corp@ch:8443/ctk", host="ch", port=8443, user="ann@corp"
            ),
        ),
        (
            "chdb:///var/lib/ctk%20here",
            Target(said="chdb:///var/lib/ctk here", folder=Path("/var/lib/ctk here")),
        ),
    ],
)
def test_a_target_says_where_and_as_whom(text, target):
    assert is_target(text)
    assert parse_target(text, {}) == target


_AT = "an @ may only stand between the user and the host of an address"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("http://ch:8123", "this is not the address of a ClickHouse"),
        ("clickhouse://ch:port/ctk", "this is not the address of a ClickHouse"),
        ("clickhouse:///ctk", "the address names no host"),
        ("clickhouse://ch/x;y", "'x;y' is not the name of a database"),
        ("chdb://relative", "the folder of a chDB is a whole path"),
        ("clickhouse://ann:hunter2@ch", "a password in the address would be seen by others"),
        ("clickhouse://ann:12/hunter2@ch:1/ctk", _AT),
        ("clickhouse://ann:12?hunter2@ch:1/ctk", _AT),
        ("clickhouse+http://ann:12#hunter2@ch", _AT),
        ("clickhouse://ann@hunter2@ch/x;y", _AT),
        ("clickhouse://hunter2@/ctk", "the address names no host"),
        ("clickhouse://ann/hunter2%40ch", "this is not the name of a database"),
    ],
)
def test_what_is_no_target_is_one_line_without_a_password(text, said):
    with pytest.raises(UsageError) as raised:
        parse_target(text, {})
    assert raised.value.message == said
    assert "hunter2" not in f"{raised.value.message} {raised.value.hint}"


def test_a_password_comes_from_the_environment_or_a_file_and_is_never_shown(tmp_path):
    secret = tmp_path / "password"
    secret.write_text("hunter2\n")
    for environ in (
        {"CTK_CLICKHOUSE_PASSWORD": "hunter2"},
        {"CTK_CLICKHOUSE_PASSWORD_FILE": str(secret)},
    ):
        target = parse_target("clickhouse://ch", environ)
        assert target.password == "hunter2"
        assert "hunter2" not in f"{target!r} {target}"
    with pytest.raises(UsageError, match="cannot be read"):
        parse_target("clickhouse://ch", {"CTK_CLICKHOUSE_PASSWORD_FILE": str(tmp_path / "no")})


@pytest.mark.parametrize(
    ("code", "text", "said"),
    [
        (193, "Wrong password for user default", "chdb:///f refuses this user or password"),
        (81, "Database ctk doesn't exist", "chdb:///f has no tables of ctk"),
        (47, "Unknown identifier: readonly", "chdb:///f: Unknown identifier: readonly"),
    ],
)
def test_errors_of_old_servers_are_read_too(code, text, said):
    """As ClickHouse 18.16 words them, which Debian has."""
    old = f"Code: {code}, e.displayText() = DB::Exception: {text}, e.what() = DB::Exception"
    with pytest.raises(CtkError) as found, explained(parse_target("chdb:///f")):
        raise EngineError(old)
    assert found.value.message == said
