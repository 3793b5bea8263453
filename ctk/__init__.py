"""
ctk: who talked to whom on this Kubernetes node, when, how much, and what failed.

    with ctk.open("node.db") as recording:
        for flow in recording.flows(since="1h", pod="shop/web-*", failed=True):
            print(flow.src_name, flow.dst, flow.connections)

Importing it costs next to nothing: SQLite and the rest are imported where they are used.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike

    from ctk.ask.recording import Recording
    from ctk.errors import CtkError, UsageError
    from ctk.store.columns import FlowRecord

__all__ = ["CtkError", "FlowRecord", "Recording", "UsageError", "__version__", "open"]

__version__: str

_HOMES = {
    "Recording": "ctk.ask.recording",
    "FlowRecord": "ctk.store.columns",
    "CtkError": "ctk.errors",
    "UsageError": "ctk.errors",
}


def open(
    target: "str | PathLike[str] | Sequence[str | PathLike[str]]", *, all_observers: bool = False
) -> "Recording":
    """
    Open a file that `ctk record` made, or several, to ask: a context manager that only reads.

    Or what `ctk ship` shipped: "clickhouse://user@host:8443/db", "chdb:///folder". Of that, and of
    files that `ctk merge` made, `all_observers` asks for what every node saw, counted for each.
    A UsageError where there is no such file, or it is not a ctk file.
    """
    from os import PathLike

    if isinstance(target, str) and "://" in target:
        # By name: every room may import ctk, and fleet is above most of them.
        from importlib import import_module
        from typing import cast

        if import_module("ctk.fleet.clickhouse.target").is_target(target):
            opener = import_module("ctk.fleet.clickhouse.shipped").Shipped
            return cast("Recording", opener(target, all_observers=all_observers))
    if isinstance(target, str | PathLike):
        from ctk.ask.recording import Recording

        return Recording(target, all_observers=all_observers)
    if len(target) == 1:
        return open(target[0], all_observers=all_observers)
    from ctk.ask.together import Recordings

    return Recordings(target, all_observers=all_observers)


def __dir__() -> list[str]:
    return sorted(["__version__", "open", *_HOMES])


def __getattr__(name: str) -> object:
    if name == "__version__":
        # 10 ms to import, and only `--version` and record ask for it.
        from importlib.metadata import version

        return version("ctk")
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'ctk' has no attribute {name!r}")
