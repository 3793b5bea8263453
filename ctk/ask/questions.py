"""The questions whose answers are more than sums: what failed, changed, is new, idle."""

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING, Unpack

from ctk.ask.keywords import Asked
from ctk.ask.moments import AskedSpan, Moment
from ctk.errors import UsageError
from ctk.model import Filters

if TYPE_CHECKING:
    from ctk.ask.diff import Diff
    from ctk.ask.failures import Failures
    from ctk.ask.idle import Idle
    from ctk.ask.new import New
    from ctk.ask.pressure import Pressure


class Questions(ABC):
    """What `Recording` answers of one file; the filters are keyword arguments: see `Asked`."""

    def failures(
        self,
        filters: Filters | None = None,
        /,
        *,
        limit: int | None = None,
        **asked: Unpack[Asked],
    ) -> "Failures":
        """Say what failed, by client workload, service, backend and port: most failures first."""
        from ctk.ask.failures import failures

        self._check()
        chosen = self._filters(filters, asked, "limit")
        with self._connect() as conn:
            return failures(conn, chosen, limit)

    def diff(
        self,
        filters: Filters | None = None,
        /,
        *,
        before: AskedSpan | None = None,
        after: AskedSpan | None = None,
        other: "Questions | None" = None,
        by: str | Iterable[str] | None = None,
        sort: str | None = None,
        limit: int | None = None,
        **asked: Unpack[Asked],
    ) -> "Diff":
        """
        Say what changed from one span to another, or from this file to the `other`.

        A span is "2h..1h", with either end left out, or a pair of times. Of one file's two one may
        be left out: it is as long as the other, beside it. `limit` is of rows of each state.
        """
        from ctk.ask.diff import BY, SPANS_HINT, diff, two_spans
        from ctk.ask.sums import keys_of, refuse_cut

        self._check()
        keys = BY if by is None else keys_of(by)
        chosen = self._filters(filters, asked, "before", "after", "other", "by", "sort", "limit")
        refuse_cut(chosen, "groups")
        later = other or self
        with ExitStack() as stack:
            conn = stack.enter_context(self._connect())
            later_conn = conn if other is None else stack.enter_context(later._connect())
            spans = two_spans(conn, before, after, other is not None, self._span, later._span)
            one, two = (span._replace(terms=chosen.terms) for span in spans)
            if (chosen.since_ns, chosen.until_ns) != (None, None):
                raise UsageError("since and until are of one span", hint=SPANS_HINT)
            return diff((conn, one), (later_conn, two), keys, sort, limit)

    def new(self, filters: Filters | None = None, /, **asked: Unpack[Asked]) -> "New":
        """List who talked to whom for the first time in a span: see `ctk.ask.new`."""
        from ctk.ask.new import new

        self._check()
        chosen = self._filters(filters, asked)
        with self._connect() as conn:
            return new(conn, chosen)

    def idle(
        self,
        filters: Filters | None = None,
        /,
        *,
        min_idle: str | int = "5m",
        **asked: Unpack[Asked],
    ) -> "Idle":
        """List the live connections that move nothing, as a recorder last saw: `ctk.ask.idle`."""
        from ctk.ask.idle import idle
        from ctk.timespan import parse_age

        self._check()
        chosen = self._filters(filters, asked, "min_idle")
        least_ns = parse_age(min_idle) if isinstance(min_idle, str) else min_idle
        with self._connect() as conn:
            return idle(conn, chosen, least_ns)

    def pressure(
        self,
        filters: Filters | None = None,
        /,
        *,
        by: str | Iterable[str] = ("client", "service", "state"),
        since: Moment | None = None,
        until: Moment | None = None,
    ) -> "Pressure":
        """Say how full the kernel's table was, and who held it: see `ctk.ask.pressure`."""
        from ctk.ask.pressure import pressure

        self._check()
        keys = [key.strip() for key in by.split(",")] if isinstance(by, str) else list(by)
        with self._connect() as conn:
            return pressure(conn, filters or self._span(since, until), keys)

    def _span(self, since: Moment | None, until: Moment | None) -> Filters:
        return self._filters(None, {"since": since, "until": until})

    @abstractmethod
    def _connect(self) -> AbstractContextManager[sqlite3.Connection]: ...

    @abstractmethod
    def _filters(
        self, filters: Filters | None, asked: Mapping[str, object], *others: str
    ) -> Filters: ...

    @abstractmethod
    def _check(self) -> None: ...
