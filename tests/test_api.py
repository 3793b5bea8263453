"""Reading a list while it arrives, whatever arrives."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctk.kube.api import BrokenError, items

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(st.text(max_size=5), values, max_size=4)
lists = st.fixed_dictionaries(
    {
        "kind": st.just("PodList"),
        "metadata": st.fixed_dictionaries(
            {"resourceVersion": st.text(st.characters(codec="ascii"))}
        ),
        "items": st.lists(objects, max_size=6),
    }
)


def chunks(text: bytes, size: int) -> list[bytes]:
    return [text[i : i + size] for i in range(0, len(text), size)]


@given(lists, st.integers(1, 40), st.sampled_from([None, 2]), st.booleans())
def test_a_list_is_the_same_however_it_is_cut(
    raw: dict[str, Any], size: int, indent: int | None, ascii_only: bool
) -> None:
    text = json.dumps(raw, indent=indent, ensure_ascii=ascii_only).encode()
    page: dict[str, Any] = {}
    assert list(items(iter(chunks(text, size)), page)) == raw["items"]
    assert page == {**raw, "items": []}


@given(lists, st.integers(1, 40), st.data())
def test_a_list_that_ends_halfway_is_broken(
    raw: dict[str, Any], size: int, data: st.DataObject
) -> None:
    text = json.dumps(raw).encode()
    cut = data.draw(st.integers(0, len(text) - 1))
    with pytest.raises(BrokenError):
        list(items(iter(chunks(text[:cut], size)), {}))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"7",
        b"<html>",
        b"{}",
        b'{"metadata": 7}',
        b'{"items": [}',
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
def test_what_is_no_list_is_broken(text: bytes) -> None:
    with pytest.raises(BrokenError):
        list(items(iter([text]), {}))


def test_no_items_is_an_empty_list() -> None:
    page: dict[str, Any] = {}
    assert list(items(iter([b'{"kind":"PodList","metadata":{},"items":null}']), page)) == []
    assert page["metadata"] == {}
