"""
A file of recordings, to ask: what `ctk.open` gives, and what the command line is built on.

A question has a connection of its own, for as long as it is answered. So several answers may be
read at once, by several threads each its own, and none of them changes what another gives.
"""

import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, Unpack

from ctk.ask.connection import Connect
from ctk.ask.keywords import Asked, filters_of
from ctk.ask.moments import Moment, Reference, reference_of
from ctk.ask.questions import Questions
from ctk.errors import UsageError
from ctk.model import Field, Filters
from ctk.store.damage import damage
from ctk.store.source import source
from ctk.timespan import parse_age

if TYPE_CHECKING:
    # Each question imports what answers it, and nothing of the others: that is 1 to 5 ms each.
    from ctk.ask.balance import Balance
    from ctk.ask.caveats import Caveat
    from ctk.ask.describe import Description
    from ctk.ask.flows import Flows
    from ctk.ask.follow import Follow
    from ctk.ask.gaps import Gaps
    from ctk.ask.graph import At, Graph
    from ctk.ask.pages import Position
    from ctk.ask.presets import RankedSide
    from ctk.ask.schema import ViewColumn
    from ctk.ask.series import Series
    from ctk.ask.sql import SqlAnswer, SqlValue
    from ctk.ask.sums import Value
    from ctk.ask.top import Top


class Recording(Questions):
    """
    What one file holds, read-only. The filters of a question are keyword arguments: see `Asked`.

    A question about a file that is being written is answered as of the moment it is asked; about
    a file of an older ctk, as of the moment it was opened.
    """

    def __init__(self, target: str | os.PathLike[str], *, all_observers: bool = False) -> None:
        """
        Open the file at a path; a UsageError where there is none, or it is not a ctk file.

        Of a merged file `all_observers` asks for what every node saw, counted for each of them.
        """
        self.path = Path(target)
        self._open = True
        self.source = source(self.path)
        if all_observers:
            from ctk.ask.observers import AllObservers

            self.source = AllObservers(self.source)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close; where the block failed over a value in the file, say that it is damaged."""
        self.close()
        for each in self._files():
            if found := damage(each.path, each.source.reader, error):
                raise found from error

    def close(self) -> None:
        """Answer no further question; an answer that is being read may be read to its end."""
        self._open = False

    def flows(
        self,
        filters: Filters | None = None,
        /,
        *,
        after: "Position | None" = None,
        **asked: Unpack[Asked],
    ) -> "Flows":
        """
        Give the flows that fit, oldest first, read as they are asked for.

        With `after`, the `position` of an earlier answer to the same question, only those that
        it did not have: first what was written since for a time before it.
        """
        from ctk.ask.flows import Flows

        self._check()
        return Flows(self._connect, self._filters(filters, asked, "after"), after)

    def follow(
        self,
        filters: Filters | None = None,
        /,
        *,
        after: "Position | None" = None,
        wait: Callable[[float], bool] | None = None,
        **asked: Unpack[Asked],
    ) -> "Follow":
        """
        Give the flows that fit, then those that are written from now on, as they come.

        With `last`, only so many of those before. It has no end, but where `wait`, which is called
        with seconds to wait, returns True.
        """
        from ctk.ask.follow import Follow
        from ctk.store.source import File

        self._check()
        if not isinstance(self.source, File):
            raise UsageError(
                f"{self.path} was merged, or written by an older ctk: nothing is added to it",
                hint="ask without following",
            )
        chosen = self._filters(filters, asked, "after", "wait")
        return Follow(
            lambda filters, after: self.flows(filters, after=after),
            self._state,
            chosen,
            after,
            wait,
        )

    def top(
        self,
        filters: Filters | None = None,
        /,
        *,
        by: str | Iterable[str] = ("source", "destination"),
        sort: str | None = None,
        limit: int | None = 20,
        seen: bool = False,
        side: "RankedSide" = "both",
        counts: Sequence[str] | None = None,
        **asked: Unpack[Asked],
    ) -> "Top":
        """
        Sum up the flows that fit by keys, the largest first.

        `by` names keys of a flow that are neither times nor counts, or `source` and `destination`:
        the two sides by the finest name that is known; or pod, workload, namespace, external_ip,
        endpoint_node or endpoint_zone of the `side` that is asked for, "from", "to" or "both"; or
        a preset of keys (`ctk.ask.presets`), such as "services". `sort` is a count (bytes, packets,
        connections, events, failed, bytes_out, bytes_in, refused, unreplied), or first_seen or
        last_seen, the latest first; by default it is bytes, and connections where no bytes were
        measured. With `seen`, rows tell when they were first and last seen. With `counts`, no more
        of them are read than these and the one to sort by, which is faster: others are None.
        """
        from ctk.ask.sums import keys_of
        from ctk.ask.top import top

        self._check()
        keys = keys_of(by)
        chosen = self._filters(filters, asked, "by", "sort", "limit", "seen", "side", "counts")
        if not keys:
            raise UsageError("by is empty", hint='by="src_workload,service"')
        with self._connect() as conn:
            return top(conn, chosen, keys, sort, limit, seen=seen, side=side, counts=counts)

    def series(
        self,
        filters: Filters | None = None,
        /,
        *,
        by: str | Iterable[str] = (),
        step: str | int | None = "1m",
        sort: str | None = None,
        limit: int | None = None,
        most_steps: int | None = None,
        side: "RankedSide" = "both",
        among: "Sequence[tuple[Value, ...]] | None" = None,
        **asked: Unpack[Asked],
    ) -> "Series":
        """
        Sum up the flows that fit by steps of time, and by keys as `top` does; steps have no holes.

        `step` is an age ("5m", "1d") or nanoseconds, in whole minutes, or 10s, 20s or 30s; steps
        begin at multiples of it since 1970, UTC. None chooses one, by `most_steps` where that is
        given. The sums over all steps are those of `top`. `limit` leaves the groups with the
        largest `sort`, `among` those groups; `side` is as of `top`.
        """
        from ctk.ask.series import parse_step, series
        from ctk.ask.sums import keys_of

        self._check()
        keys = keys_of(by)
        chosen = self._filters(
            filters, asked, "by", "step", "sort", "limit", "most_steps", "side", "among"
        )
        step_ns = None if step is None else parse_step(step)
        with self._connect() as conn:
            return series(
                conn,
                chosen,
                keys,
                step_ns,
                sort,
                limit,
                most_steps=most_steps,
                side=side,
                among=among,
            )

    def balance(self, filters: Filters | None = None, /, **asked: Unpack[Asked]) -> "Balance":
        """Say how evenly the connections and bytes of services go to their backends."""
        from ctk.ask.balance import BY, balance

        self._check()
        chosen = self._filters(filters, asked)
        return balance(self.top(chosen, by=BY, sort="connections", limit=None))

    def graph(
        self,
        filters: Filters | None = None,
        /,
        *,
        series_of: int = 50,
        step: str | int | None = None,
        at: "At | None" = None,
        **asked: Unpack[Asked],
    ) -> "Graph":
        """
        Sum up the flows that fit by who stands at both ends, what fails first.

        `series_of` edges have sums by steps of time of their own; `step` is an age or nanoseconds,
        by default what cuts the span into some hundred. `at` is called with what part is done,
        and what comes next.
        """
        from ctk.ask.graph import graph

        self._check()
        chosen = self._filters(filters, asked, "series_of", "step", "at")
        step_ns = parse_age(step) if isinstance(step, str) else step
        told = at or (lambda part, doing: None)
        with self._connect() as conn:
            return graph(conn, chosen, series_of=series_of, step_ns=step_ns, at=told)

    def sql(
        self,
        text: str,
        params: "Mapping[str, SqlValue] | None" = None,
        filters: Filters | None = None,
        /,
        *,
        since: Moment | None = None,
        until: Moment | None = None,
        limit_s: float = 30.0,
        memory_bytes: int | None = None,
        explain: bool = False,
        attach: "Mapping[str, str | os.PathLike[str]] | None" = None,
        **named: "SqlValue",
    ) -> "SqlAnswer":
        """
        Ask in SQL, of the views: one statement that only reads, for at most `limit_s` seconds.

        A `:name` in it is bound to the argument of that name, or to that of `params`; `:since_ns`
        and `:until_ns` to `since` and `until`, or to the ends of time. `ago('1h')` and
        `ns('2024-11-25T18:47Z')` are nanoseconds, like started_ns. `memory_bytes` limits SQLite
        in this whole process, and cannot be raised again. With `explain`, give the plan instead.
        The tables of files to `attach` are there by their name: `teams.owner`.
        """
        from ctk.ask.attached import attaching
        from ctk.ask.sql import SqlAnswer, SqlTerms

        self._check()
        asked = {"since": since, "until": until}
        given = {name: value for name, value in asked.items() if value is not None}
        span = self._filters(filters, given)
        terms = SqlTerms(
            limit_s=limit_s,
            memory_bytes=memory_bytes,
            reference=self.reference,
            span=span,
            caveats=self._of_files(),
            explain=explain,
        )
        connect = self.sql_connection(text)
        if attach:
            connect = attaching(connect, attach)
        return SqlAnswer(connect, text, {**(params or {}), **named}, terms)

    def schema(self) -> "tuple[ViewColumn, ...]":
        """Say what may be asked in SQL: the views of the file, their columns, what each means."""
        from ctk.ask.schema import schema_of

        self._check()
        with self._connect() as conn:
            return schema_of(conn)

    def gaps(self, *, since: Moment | None = None, until: Moment | None = None) -> "Gaps":
        """Give the gaps that touch a span, oldest first."""
        from ctk.ask.gaps import gaps

        self._check()
        span = self._span(since, until)
        with self._connect() as conn:
            return gaps(conn, span)

    def describe(self, *, sizes: bool = True) -> "Description":
        """Say what the file holds: its span, nodes, recordings, gaps; by `sizes` its tables too."""
        from ctk.ask.describe import describe

        self._check()
        with self._connect() as conn:
            return describe(conn, sizes=sizes)

    def committed(self) -> tuple[int, int]:
        """Give up to when the newest recording is written, and the width of its windows, in ns."""
        from orjson import loads

        self._check()
        with self._connect() as conn:
            sql = "SELECT committed_ns, settings FROM recording ORDER BY committed_ns DESC LIMIT 1"
            found = conn.execute(sql).fetchone()
        if found is None:
            return 0, 0
        return int(found[0]), int(loads(found[1]).get("window_ns", 0))

    def runs(self) -> set[tuple[object, ...]]:
        """Give what tells each recording in the file from all others: cluster, node and start."""
        self._check()
        with self._connect() as conn:
            return set(conn.execute("SELECT cluster_uid, node, started_ns FROM recordings"))

    def sql_connection(self, text: str) -> Connect:
        """Give what opens a connection for SQL."""
        return self._connect

    def names(self, field: Field) -> list[str]:
        """Give the names in the file that a filter may ask for; none where it asks for no name."""
        from ctk.ask.names import names_of

        self._check()
        with self._connect() as conn:
            return names_of(conn, field)

    def identity(self) -> str:
        """Give what tells this file, and every copy of it, from others; "" for an empty one."""
        self._check()
        with self._connect() as conn:
            sql = "SELECT node || ' ' || started_at FROM recordings ORDER BY id LIMIT 1"
            found = conn.execute(sql).fetchone()
        return str(found[0]) if found else ""

    def _state(self) -> object:
        """Give what is another when something was written since."""
        beside = (self.path, self.path.with_name(f"{self.path.name}-wal"))
        found = []
        for path in beside:
            try:
                at = path.stat()
            except FileNotFoundError:
                continue
            found.append((at.st_ino, at.st_size, at.st_mtime_ns))
        return found

    def reference(self) -> Reference:
        """Give what ages and clocks count from: now while the file is written, else its end."""
        self._check()
        with self._connect() as conn:
            return reference_of(conn, time.time_ns())

    def _files(self) -> "Sequence[Recording]":
        return (self,)

    def _of_files(self) -> "tuple[Caveat, ...]":
        return ()

    def _connect(self) -> AbstractContextManager[sqlite3.Connection]:
        return self.source.reader()

    def _filters(
        self, filters: Filters | None, asked: Mapping[str, object], *others: str
    ) -> Filters:
        if filters is None:
            now_ns = time.time_ns()
            return filters_of(asked, now_ns=now_ns, reference=self.reference, others=others)
        if asked:
            raise TypeError("give Filters, or keyword arguments, not both")
        return filters

    def _check(self) -> None:
        if not self._open:
            raise UsageError(f"{self.path} was closed", hint="ask before the end of its with block")
