"""`ctk ship`: the flags, and what is said of what was shipped."""

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ctk.cli.bar import Bar
from ctk.cli.options import remark
from ctk.errors import CtkError, UsageError
from ctk.timespan import DAY, SECOND, format_age, format_time, parse_age

if TYPE_CHECKING:
    from ctk.fleet.clickhouse.ship import Shipper, ShipReport
    from ctk.fleet.clickhouse.target import Target

_PATH: Any = click.Path(path_type=Path, readable=False)
_LEVELS = ("1m", "1h", "1d")
_FOREVER = "forever"


def _retention(text: str) -> dict[str, int | None]:
    level, _, age = text.rpartition("=")
    if level not in ("", *_LEVELS) or not age or (not level and age != _FOREVER):
        raise UsageError(f"{text!r} is not LEVEL=AGE", hint="--retain 1m=30d, or forever")
    if age == _FOREVER:
        return dict.fromkeys((level,) if level else _LEVELS)
    days, rest = divmod(parse_age(age), DAY)
    if not days or rest:
        raise UsageError(f"{age!r} is not a number of days", hint="--retain 1m=30d")
    return {level: days}


@click.command(short_help="Ship the files of nodes to ClickHouse, each row once.")
@click.argument("dbs", nargs=-1, metavar="DB...", type=_PATH)
@click.option(
    "--to",
    "to",
    required=True,
    metavar="TARGET",
    help="clickhouse://user@host:8443/ctk, clickhouse+http://host:8123/ctk or chdb:///path.",
)
@click.option("-f", "--follow", is_flag=True, help="Go on as DB is written, until Ctrl-C.")
@click.option(
    "--every",
    "every_ns",
    type=parse_age,
    default="1m",
    show_default=True,
    metavar="DURATION",
    help="With --follow: between two looks. 5m for 1,000 nodes, 1h for 10,000.",
)
@click.option("--init", is_flag=True, help="Make the tables; with DB, ship then.")
@click.option(
    "--ddl", "prints", is_flag=True, help="With --init: print the statements that make them."
)
@click.option(
    "--retain",
    multiple=True,
    type=_retention,
    callback=lambda ctx, option, each: {level: days for of in each for level, days in of.items()},
    metavar="LEVEL=AGE",
    help="With --init: how long rows stay, also where tables are: 1m=30d, 1h=90d, 1d=730d are the"
    " defaults; or forever.",
)
@click.option("--verify", is_flag=True, help="Compare what is there with DB, and repair it.")
@click.option("--status", is_flag=True, help="Say how far DB is shipped; asks nobody.")
@click.option(
    "--state",
    "folder",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="FOLDER",
    help="Where DB-ship is, which says how far DB is shipped.  [default: beside DB]",
)
def ship(
    dbs: tuple[Path, ...],
    to: str,
    follow: bool,
    every_ns: int,
    init: bool,
    prints: bool,
    retain: dict[str, int | None],
    verify: bool,
    status: bool,
    folder: Path | None,
) -> None:
    """
    Ship the files of nodes to ClickHouse, so that each row is there once.

    Flows are summed up by minute, two minutes after they were, when names have settled. What
    breaks on the way is found out the next time. Which of two nodes counts is told when it is
    asked: ctk top TARGET.

    A password is taken from CTK_CLICKHOUSE_PASSWORD, or from the file that
    CTK_CLICKHOUSE_PASSWORD_FILE names; CTK_CLICKHOUSE_CA names a file of certificates. chdb:///path
    is the same engine in this process, for one at a time.

    \b
    ctk ship --init --to clickhouse://ctk@ch.example:8443/ctk
    ctk ship node.db --to clickhouse://ctk@ch.example:8443/ctk --follow
    ctk ship node.db other.db --to chdb:///tmp/fleet --init
    """
    from ctk.fleet.clickhouse.target import parse_target

    target = parse_target(to)
    if sum((follow, verify, status)) > 1:
        raise UsageError("--follow, --verify and --status are not asked together")
    if retain and not init:
        raise UsageError("--retain changes tables", hint="add --init")
    if prints and not init:
        raise UsageError("--ddl prints what --init does", hint="add --init")
    if not dbs and not init:
        raise UsageError("there is nothing to ship", hint=f"ctk ship node.db --to {target.said}")
    if status:
        for db in dbs:
            _say_status(db, target, folder)
        return
    if init:
        _make(target, retain, prints=prints)
    if follow:
        _follow(dbs, target, every_ns, folder)
    elif dbs:
        _once(dbs, target, folder, verify=verify)


def _make(target: "Target", retain: dict[str, int | None], *, prints: bool) -> None:
    from ctk.fleet.clickhouse import ddl, retention
    from ctk.fleet.clickhouse.client import opened

    with opened(target, database=False) as client:
        ddl.make(client, retain)
        changed = list(retention.change(client, retain))
    if prints:
        for statement in (*ddl.statements(target, retain), *(each for each, _ in changed)):
            click.echo(f"{statement};\n")
    else:
        remark(f"{target.said} has the tables: --ddl prints them")
    for _, said in changed:
        remark(said)


def _once(dbs: tuple[Path, ...], target: "Target", folder: Path | None, *, verify: bool) -> None:
    from ctk.fleet.clickhouse.client import opened
    from ctk.fleet.clickhouse.settle import settle
    from ctk.fleet.clickhouse.ship import shipper_of

    wrong = 0
    with _told(dbs, target), opened(target) as client:
        for db in dbs:
            with shipper_of(db, target.said, folder) as shipper:
                if verify:
                    from ctk.fleet.clickhouse.verify import verify as verified

                    found = verified(shipper, client)
                    days = _many(found.days, "day")
                    compared = f"{_many(found.batches, 'batch')} and {days} compared"
                    repaired = f", {found.repaired:,} repaired" if found.repaired else ""
                    remark(f"{db}: {compared}{repaired}")
                    for text in found.wrong:
                        remark(f"{db}: {text}")
                    wrong += len(found.wrong)
                else:
                    with Bar(shown=True) as bar:
                        shipped = shipper.ship(client, bar.show)
                    remark(f"{db}: {_said(shipped)}, {_up_to(shipper)}")
                for note in shipper.notes:
                    remark(f"{db}: {note}")
        settle(client, lambda said: remark(f"{target.said}: {said}"))
    if wrong:
        raise CtkError(f"{wrong:,} of what was shipped {'is' if wrong == 1 else 'are'} not right")


@contextmanager
def _told(dbs: tuple[Path, ...], target: "Target") -> Iterator[None]:
    """Where there are no tables, name the files: what is tried next ships them, too."""
    from ctk.fleet.clickhouse.client import NoTablesError

    try:
        yield
    except NoTablesError as error:
        hint = f"ctk ship {shlex.join(map(str, dbs))} --to {target.said} --init"
        raise UsageError(error.message, hint=hint) from error


def _follow(dbs: tuple[Path, ...], target: "Target", every_ns: int, folder: Path | None) -> None:
    from ctk.fleet.clickhouse.follow import Following
    from ctk.record.signals import Stop

    stop, on_terminal = Stop(None), sys.stderr.isatty()
    clear = "\r\x1b[K" if on_terminal else ""

    def say(text: str) -> None:
        click.echo(f"{clear}{text}", err=True)

    def show(shipped: "ShipReport") -> None:
        if on_terminal:
            at = ", ".join(_up_to(each) for each in following.shippers.values())
            click.echo(f"{clear}{_said(shipped)}, {at}"[:79], err=True, nl=False)

    with stop.on_signals():
        following = Following(dbs, target, stop, say, every_s=every_ns / SECOND, folder=folder)
        say(f"shipping to {target.said} every {format_age(every_ns)}")
        shipped = following.run(show)
        say(f"ended: {_said(shipped)}")


def _said(shipped: "ShipReport") -> str:
    again = f", {shipped.resent:,} looked for again" if shipped.resent else ""
    return f"{_many(shipped.rows, 'row')} in {_many(shipped.batches, 'batch')}{again}"


def _many(count: int, name: str) -> str:
    if count != 1:
        name += "es" if name.endswith("h") else "s"
    return f"{count:,} {name}"


def _up_to(shipper: "Shipper") -> str:
    return _moment(shipper.state.position.at_ns)


def _moment(at_ns: int) -> str:
    return f"up to {format_time(at_ns)[:19]}Z" if at_ns > 0 else "nothing yet"


def _say_status(db: Path, target: "Target", folder: Path | None) -> None:
    from ctk.fleet.clickhouse import state as states
    from ctk.fleet.clickhouse.ship import recording_of
    from ctk.fleet.clickhouse.told import late_pruned_said
    from ctk.store.source import source

    path = states.path_of(db.resolve(), folder)
    with source(db, in_memory_bytes=0).reader() as conn:
        recording = recording_of(conn)
        committed_ns = conn.execute("SELECT MAX(committed_ns) FROM recording").fetchone()[0]
    if recording is None or not path.exists():
        click.echo(f"{db}: nothing is shipped to {target.said}")
        return
    with states.opened(path, target.said, recording) as state:
        position, batch, last = state.position, state.open_batch(), state.last_batch
        skipped, late = state.skipped(), sum(flows for _, flows in state.late_pruned())
    if not last and batch is None:
        click.echo(f"{db}: nothing is shipped to {target.said}")
        return
    behind_ns = max(committed_ns - position.at_ns, 0)
    behind = f", {format_age(behind_ns)} behind" if behind_ns else ", all of it"
    click.echo(f"{db}: {_many(last, 'batch')} shipped, {_moment(position.at_ns)}{behind}")
    if batch is not None:
        tries = f"sent {_many(batch.tries, 'time')}" if batch.tries else "not sent yet"
        rows = _many(batch.rows, "row")
        click.echo(f"{db}: batch {batch.batch}, {rows}, is on its way: {tries}")
    for since_ns, until_ns in skipped:
        click.echo(
            f"{db}: {format_time(since_ns)[:19]}Z to {format_time(until_ns)[:19]}Z was pruned"
            " before it could be shipped"
        )
    if late:
        click.echo(f"{db}: {late_pruned_said(late)}")
