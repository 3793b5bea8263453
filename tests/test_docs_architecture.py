"""Each name on the page about the architecture is one of the code, and the page stays short."""

import re
from importlib import import_module
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[1] / "docs" / "architecture.md").read_text("utf-8")
NAMES = sorted(set(re.findall(r"`(ctk(?:\.\w+)*(?::[\w.]+)?)`", PAGE)))
CALLED = sorted(set(re.findall(r"`([A-Z]\w+\.\w+)`", PAGE)))  # after its module was named


@pytest.mark.parametrize("name", NAMES)
def test_a_name_on_the_page_is_one_of_the_code(name: str) -> None:
    module, _, inside = name.partition(":")
    found: object = import_module(module)
    for attribute in inside.split(".") if inside else ():
        found = getattr(found, attribute)


@pytest.mark.parametrize("name", CALLED)
def test_a_method_without_its_module_is_of_a_class_that_the_page_names(name: str) -> None:
    class_name, method = name.split(".")
    [module] = {name.partition(":")[0] for name in NAMES if f":{class_name}" in name}
    assert hasattr(getattr(import_module(module), class_name), method)


def test_the_page_is_two_screens_at_most() -> None:
    assert len(NAMES) > 40
    assert len(PAGE.splitlines()) <= 100
