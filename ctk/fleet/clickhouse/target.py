"""
Where ClickHouse is: a server, or a folder of the same engine in this process.

    clickhouse://user@host:8443/database        over TLS
    clickhouse+http://user@host:8123/database   without
    chdb:///path/to/folder

What follows a `?` are settings of ClickHouse. A password stands in none of them: it is in the
environment, or in a file that the environment names.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

from ctk.errors import UsageError

SCHEMES = ("clickhouse", "clickhouse+http", "chdb")
DATABASE = "ctk"
PASSWORD, PASSWORD_FILE, CA_FILE = (
    "CTK_CLICKHOUSE_PASSWORD",
    "CTK_CLICKHOUSE_PASSWORD_FILE",
    "CTK_CLICKHOUSE_CA",
)
_PORTS = {"clickhouse": 8443, "clickhouse+http": 8123}
_HINT = "clickhouse://user@host:8443/ctk, clickhouse+http://host:8123/ctk or chdb:///var/lib/ctk"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where ClickHouse is; `said` is how it is called, and tells no secret."""

    said: str
    database: str = DATABASE
    folder: Path | None = None  # of chDB
    host: str = ""
    port: int = 0
    secure: bool = True
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_file: str | None = None
    settings: Mapping[str, str] = field(default_factory=dict)


def is_target(text: str) -> bool:
    """Say whether this names ClickHouse, and no file."""
    scheme, found, _ = text.partition("://")
    return bool(found) and scheme.lower() in SCHEMES


def parse_target(text: str, environ: Mapping[str, str] | None = None) -> Target:
    """Read a target; a UsageError says what is wrong with it, and never its password."""
    environ = os.environ if environ is None else environ
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        raise UsageError("this is not the address of a ClickHouse", hint=_HINT) from None
    if url.scheme not in SCHEMES:
        raise UsageError("this is not the address of a ClickHouse", hint=_HINT)
    if url.password is not None:
        raise UsageError(
            "a password in the address would be seen by others", hint=f"set {PASSWORD} instead"
        )
    # What is left of the last "@" may be a password with a "/", "?" or "@" in it.
    if url.scheme != "chdb" and (text.count("@") > 1 or ("@" in text and "@" not in url.netloc)):
        raise UsageError(
            "an @ may only stand between the user and the host of an address",
            hint=f"write others as %40, and set {PASSWORD} for a password",
        )
    settings = dict(parse_qsl(url.query, keep_blank_values=True))
    if url.scheme == "chdb":
        return _embedded(url, settings)
    if not url.hostname:
        raise UsageError("the address names no host", hint=_HINT)
    database = unquote(url.path.strip("/")) or DATABASE
    secure = url.scheme == "clickhouse"
    port = port or _PORTS[url.scheme]
    user = unquote(url.username or "") or None
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    return Target(
        said=f"{url.scheme}://{f'{quote(user)}@' if user else ''}{host}:{port}/{database}",
        database=_checked(database),
        host=url.hostname,
        port=port,
        secure=secure,
        user=user,
        password=_password(environ),
        ca_file=environ.get(CA_FILE) or None,
        settings=settings,
    )


def _embedded(url: SplitResult, settings: Mapping[str, str]) -> Target:
    if url.netloc or not url.path.strip("/"):
        raise UsageError("the folder of a chDB is a whole path", hint="chdb:///var/lib/ctk")
    folder = Path(unquote(url.path))
    return Target(said=f"chdb://{folder}", folder=folder, settings=settings)


def _checked(database: str) -> str:
    if not database.replace("_", "").isalnum() or not database.isascii():
        named = "this" if "@" in database else repr(database)
        raise UsageError(f"{named} is not the name of a database", hint=_HINT)
    return database


def _password(environ: Mapping[str, str]) -> str | None:
    path = environ.get(PASSWORD_FILE)
    if not path:
        return environ.get(PASSWORD)
    try:
        return Path(path).read_text("utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError):
        raise UsageError(f"{path}, which {PASSWORD_FILE} names, cannot be read") from None
