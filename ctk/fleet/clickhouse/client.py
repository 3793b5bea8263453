"""
What is asked of ClickHouse, and written to it: one client for a server and for chDB.

An answer that does not come leaves open what was done: that is an AwayError, and who wrote asks
again what is there.
"""

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, NamedTuple

from ctk.errors import CtkError, UsageError
from ctk.fleet.clickhouse.apart import Apart
from ctk.fleet.clickhouse.engine import EngineError
from ctk.fleet.clickhouse.target import PASSWORD, Target

_CONNECT_S, _ANSWER_S = 10, 300
_NO_TABLE, _NO_DATABASE = 60, 81
_REFUSED = (192, 193, 194, 516)  # an unknown user, or a wrong password
# Of these a server gets over: too many queries, too many parts, memory, a replica that is away.
_LATER = (159, 202, 209, 210, 241, 242, 252, 319, 999)


class AwayError(CtkError):
    """ClickHouse did not answer, or cannot now: what was written may be there or not."""


class NoTablesError(UsageError):
    """There are no tables of ctk."""


class TooManyError(UsageError):
    """More rows would be brought here than there is room for."""


class Answer(NamedTuple):
    """Rows, and what their columns are called."""

    names: Sequence[str]
    rows: Sequence[Sequence[Any]]


class Client:
    """
    An open target. Names of tables are of its database.

    `renew` opens it anew, where what failed may leave rows to the next answer: in chDB. What is
    asked `apart` is asked by a thread, since Ctrl-C does not reach the engine, nor SIGTERM who
    waits for a server: who waits hears it.
    """

    def __init__(
        self,
        target: Target,
        made: Any,
        renew: Callable[[], Any] | None = None,
        *,
        apart: Apart | None = None,
    ) -> None:
        self.target = target
        self.checked: Mapping[str, int | None] | None = None  # tables, as tables.check found them
        self._made = made
        self._renew = renew
        self._apart = apart is not None
        self._waiting = apart or Apart(target.said)

    def query(
        self,
        sql: str,
        parameters: Mapping[str, object] | None = None,
        settings: Mapping[str, object] | None = None,
    ) -> Answer:
        """Ask; `{name:Type}` in SQL is bound to a parameter."""
        if self._apart:
            return self.query_within(None, sql, parameters, settings)
        return self._query(sql, parameters, settings)

    def query_within(
        self,
        limit_s: float | None,
        sql: str,
        parameters: Mapping[str, object] | None = None,
        settings: Mapping[str, object] | None = None,
    ) -> Answer:
        """Ask as `query` does, but wait no longer: an OverdueError, and the question goes on."""
        answer: Answer = self._waiting.call(lambda: self._query(sql, parameters, settings), limit_s)
        return answer

    def _query(
        self,
        sql: str,
        parameters: Mapping[str, object] | None,
        settings: Mapping[str, object] | None,
    ) -> Answer:
        with self._explained():
            found = self._made.query(
                sql, parameters=dict(parameters or {}), settings=dict(settings or {})
            )
            return Answer(found.column_names, found.result_rows)

    def command(
        self,
        sql: str,
        parameters: Mapping[str, object] | None = None,
        settings: Mapping[str, object] | None = None,
    ) -> None:
        """Do what gives no rows."""

        def do() -> None:
            with self._explained():
                self._made.command(
                    sql, parameters=dict(parameters or {}), settings=dict(settings or {})
                )

        self._do(do)

    def insert(
        self,
        table: str,
        columns: Mapping[str, str],
        values: Sequence[Sequence[object]],
        settings: Mapping[str, object] | None = None,
    ) -> None:
        """Insert a block: `columns` are names with types, `values` a sequence for each of them."""

        def do() -> None:
            with self._explained():
                self._made.insert(
                    table,
                    values,
                    database=self.target.database,
                    column_names=list(columns),
                    column_type_names=list(columns.values()),
                    column_oriented=True,
                    settings=dict(settings or {}),
                )

        self._do(do)

    def _do(self, do: Callable[[], None]) -> None:
        if self._apart:
            self._waiting.call(do)
        else:
            do()

    def close(self) -> None:
        """Let go of the target; where a question hangs in it, that does when it ends."""
        self._waiting.close(self._made.close)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        with explained(self.target):
            try:
                yield
            except Exception:
                if self._renew is not None:
                    # The folder stays open meanwhile: it is loaded once.
                    renewed = self._renew()
                    self._made.close()
                    self._made = renewed
                raise


@contextmanager
def opened(target: Target, *, database: bool = True) -> Iterator[Client]:
    """Open a target, in its database unless there may be none yet."""
    client = connect(target, database=database)
    try:
        yield client
    finally:
        client.close()


def reading(target: Target) -> Client:
    """Open a target to ask it; who does it closes it."""
    folder = target.folder
    if folder is None:
        return connect(target)
    _check_folder(target, folder, is_made=False)
    from ctk.fleet.clickhouse import engine

    _check_zone()
    try:
        with explained(target), _quiet(target):
            made = engine.Engine(folder, target.database, target.settings)
    except ImportError as error:
        raise _not_loaded("chdb", error) from error
    return Client(target, made, apart=Apart(target.said))


def connect(
    target: Target, *, database: bool = True, stop: Callable[[], bool] | None = None
) -> Client:
    """
    Open a target to write to it, too; who does it closes it.

    Once `stop` says so a server is not waited for much longer: an OverdueError.
    """
    import logging

    embedded = target.folder is not None
    # What it logs, it raises, too.
    logging.getLogger("clickhouse_connect").addHandler(logging.NullHandler())
    try:
        import clickhouse_connect

        if target.folder is not None:
            from ctk.fleet.clickhouse import engine

            _check_zone()
            with engine.uninterrupted():
                import chdb  # noqa: F401 - so that it is said which of the two is missing
    except ImportError as error:
        raise _not_loaded("chdb" if embedded else "fleet", error) from error
    options: dict[str, Any] = {
        "database": target.database if database else None,
        "settings": dict(target.settings),
    }
    if target.folder is not None:
        _check_folder(target, target.folder, is_made=not database)
        options |= {"interface": "chdb", "path": str(target.folder)}
    else:
        options |= {
            "host": target.host,
            "port": target.port,
            "username": target.user,
            "password": target.password or "",
            "secure": target.secure,
            "ca_cert": target.ca_file,
            "connect_timeout": _CONNECT_S,
            "send_receive_timeout": _ANSWER_S,
            "query_retries": 0,
            "autogenerate_session_id": False,
            "client_name": "ctk",
            "tz_mode": "aware",  # as times of chDB are
        }
    open_it = partial(clickhouse_connect.get_client, **options)
    if stop is not None and not embedded:
        apart = Apart(target.said, stop)
        with explained(target):
            return Client(target, apart.call(open_it), apart=apart)
    with explained(target), _quiet(target) if embedded else nullcontext():
        return Client(target, open_it(), open_it if embedded else None)


def _not_loaded(extra: str, error: ImportError) -> UsageError:
    if "time zone" in str(error):
        zone = os.environ.get("TZ")
        return UsageError(f"chDB has no time zone {zone!r}", hint="unset TZ, or TZ=UTC")
    name = {"chdb": "chDB", "fleet": "clickhouse-connect"}[extra]
    return UsageError(f"{name} is not installed here", hint=f"pip install 'ctk[{extra}]'")


def _check_zone() -> None:
    """Refuse a time zone with which the engine does not start, as it does not say why."""
    zone = os.environ.get("TZ")
    if zone is not None and not zone.removeprefix(":"):
        raise UsageError("chDB does not start with an empty TZ", hint="unset TZ, or TZ=UTC")


def _check_folder(target: Target, folder: Path, *, is_made: bool) -> None:
    """Refuse a folder that is no chDB, as the engine would make any one; or make it, for one."""
    hint = f"ctk ship --init --to {target.said}"
    try:
        if is_made:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        names = {each.name for each in folder.iterdir()}
    except FileNotFoundError:
        raise NoTablesError(f"there is no database {target.said}", hint=hint) from None
    except (FileExistsError, NotADirectoryError):
        raise UsageError(f"{folder} is no folder", hint="name that of a chDB") from None
    except OSError as error:
        raise UsageError(f"{folder}: {error.strerror}", hint="name that of a chDB") from None
    if "store" in names or (is_made and not names):
        return
    if is_made:
        raise UsageError(f"{folder} has other files", hint="name a new folder")
    raise NoTablesError(f"{target.said} has no tables of ctk", hint=hint)


@contextmanager
def _quiet(target: Target) -> Iterator[None]:
    """Let nothing of the engine reach stderr: that another has the folder, it says there."""
    sys.stderr.flush()
    kept = os.dup(2)
    with TemporaryFile() as said:
        try:
            os.dup2(said.fileno(), 2)
            yield
        except Exception as error:
            said.seek(0)
            if b"Cannot lock file" in said.read() + str(error).encode():
                raise CtkError(
                    f"another process has {target.said} open",
                    hint="one process at a time has it",
                ) from error
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


@contextmanager
def explained(target: Target) -> Iterator[None]:
    """Say of an error of the engine, or of the client, what a user can do about it."""
    try:
        yield
    except EngineError as error:
        raise _explanation(target, error) from error
    except OSError as error:
        raise AwayError(f"{target.said}: {error.strerror or error}") from error
    except Exception as error:
        known = sys.modules.get("clickhouse_connect.driver.exceptions")
        if known is None or not isinstance(error, known.Error):
            raise
        raise _explanation(target, error) from error


def _explanation(target: Target, error: Exception) -> CtkError:
    code = getattr(error, "code", None)
    text = str(error)
    if code is None and (found := re.search(r"Code: ([0-9]+)", text)):
        code = int(found[1])
    said = _first_line(text)
    if code == _NO_DATABASE:
        return NoTablesError(
            f"{target.said} has no tables of ctk", hint=f"ctk ship --init --to {target.said}"
        )
    if code == _NO_TABLE:
        return NoTablesError(
            f"{target.said}: {said}", hint=f"ctk ship --init --to {target.said}, makes what lacks"
        )
    if code in _REFUSED:
        return UsageError(f"{target.said} refuses this user or password", hint=f"set {PASSWORD}")
    if code is None and target.folder is None:
        from clickhouse_connect.driver.exceptions import ProgrammingError

        # A proxy's own answer has no code; what the client refuses to ask was not asked.
        if not isinstance(error, ProgrammingError):
            return AwayError(f"{target.said} does not answer: {_cause(error)}")
    if code in _LATER:
        return AwayError(f"{target.said}: {said}")
    return CtkError(f"{target.said}: {said}")


def _cause(error: BaseException) -> str:
    """Give what the system said of a connection, of the errors around it."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    found = re.search(r"\[Errno -?[0-9]+\] ([^)\]'\"]+)", str(error))
    return found[1] if found else _first_line(str(error))


def _first_line(text: str) -> str:
    """Give what a person needs of an error: without the version, the stack, or control."""
    line = " ".join(text.split())
    if "DB::Exception: " in line:
        line = line.partition("DB::Exception: ")[2]
    for rest in (" (version ", " Stack trace", ", e.what()"):
        line = line.partition(rest)[0]
    return "".join(each for each in line if each.isprintable())[:300]
