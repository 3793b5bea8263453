"""Shipping files as they are written, for as long as somebody wants."""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ctk.errors import StoreError
from ctk.fleet.clickhouse.apart import OverdueError
from ctk.fleet.clickhouse.client import AwayError, Client, connect
from ctk.fleet.clickhouse.settle import settle
from ctk.fleet.clickhouse.ship import Shipper, ShipReport, shipper_of
from ctk.fleet.clickhouse.target import Target

_RETRY_S, _MOST_RETRY_S = 1.0, 60.0
_START_S = 60.0  # nodes that are started together do not all come in one second
_LOOK_S = 0.2
_SETTLE_S = 3600.0
_LAST_S = 10.0  # that uniting parts takes at the end: who stops a container kills it after 30


class Following:
    """
    Ships files again and again; `say` gets a line whenever something changes.

    One that is not there yet is waited for. While ClickHouse is away nothing is lost: it is asked
    again, less and less often.
    """

    def __init__(
        self,
        dbs: Sequence[Path],
        target: Target,
        stop: Callable[[], bool],
        say: Callable[[str], None],
        *,
        every_s: float,
        folder: Path | None = None,
    ) -> None:
        self._dbs = dbs
        self._target = target
        self._stop = stop
        self._say = say
        self._every_s = every_s
        self._folder = folder
        self._shippers: dict[Path, Shipper] = {}
        self._client: Client | None = None
        self._waiting: set[Path] = set()
        self._settle_at_s = time.monotonic() + _SETTLE_S

    def run(self, show: Callable[[ShipReport], None]) -> ShipReport:
        """Ship until `stop`; `show` gets what was shipped in all, after each round."""
        shipped, retry_s = ShipReport(), 0.0
        with ExitStack() as stack:
            stack.callback(self._hang_up)
            self._wait(random.uniform(0, min(self._every_s, _START_S) / 2))
            while not self._stop():
                self._open(stack)
                try:
                    shipped = shipped.plus(self._round())
                except AwayError as error:
                    self._hang_up()
                    if not retry_s:
                        self._say(f"{error.message}: it is tried again, nothing is lost")
                    retry_s = min(max(2 * retry_s, _RETRY_S), _MOST_RETRY_S)
                    self._wait(retry_s * random.uniform(0.5, 1.0))
                    continue
                except OverdueError as error:  # it is to end
                    self._say(f"{error.message}: it is looked for the next time, nothing is lost")
                    break
                if retry_s:
                    self._say(f"{self._target.said} answers again")
                retry_s = 0.0
                show(shipped)
                if time.monotonic() >= self._settle_at_s:
                    self._settle(stop=self._stop)
                self._wait(self._every_s * random.uniform(0.9, 1.1))
            self._settle(limit_s=_LAST_S)
        return shipped

    @property
    def shippers(self) -> Mapping[Path, Shipper]:
        return self._shippers

    def _open(self, stack: ExitStack) -> None:
        for db in self._dbs:
            if db in self._shippers:
                continue
            try:
                made = shipper_of(db, self._target.said, self._folder) if db.exists() else None
                if made is not None:
                    self._shippers[db] = stack.enter_context(made)
                    continue
            except StoreError as error:
                if db.exists() and "no recording yet" not in error.message:
                    raise
            if db not in self._waiting:
                self._waiting.add(db)
                self._say(f"waiting for {db} to be recorded to")

    def _round(self) -> ShipReport:
        if self._client is None:
            self._client = connect(self._target, stop=self._stop)
        shipped = ShipReport()
        for db, shipper in self._shippers.items():
            shipped = shipped.plus(shipper.ship(self._client, stop=self._stop))
            while shipper.notes:
                self._say(f"{db}: {shipper.notes.pop(0)}")
        return shipped

    def _settle(self, **within: Any) -> None:
        if self._client is not None:
            settle(self._client, self._say, **within)
        self._settle_at_s = time.monotonic() + _SETTLE_S

    def _hang_up(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def _wait(self, seconds: float) -> None:
        until_s = time.monotonic() + seconds
        while not self._stop() and (left_s := until_s - time.monotonic()) > 0:
            time.sleep(min(left_s, _LOOK_S))
