"""Live tests run where a node can be played; elsewhere they are skipped, and say why."""

import os
from collections.abc import Iterator
from functools import cache

import pytest
from playednode import PlayedNode, inside, unplayable


@cache
def reason() -> str | None:
    return unplayable()


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("live") and (why := reason()):
        refuse = pytest.fail if os.environ.get("CTK_LIVE") == "required" else pytest.skip
        refuse(f"no node can be played here: {why}")


@pytest.fixture
def play() -> Iterator[PlayedNode]:
    """Play a node of its own for the test."""
    with PlayedNode() as played:
        yield played


@pytest.fixture
def on_node() -> Iterator[PlayedNode]:
    """
    Play a node, with this test's own thread in its namespace.

    Timeouts are the kernel's own: no connection ends for a while.
    """
    with PlayedNode(timeouts={}) as played, inside(played.node):
        yield played
