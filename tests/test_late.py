import inspect
import platform
import subprocess
import sys

from hypothesis import given, settings
from hypothesis import strategies as st

from ctk.cli.late import Inspect, Platform


@settings(max_examples=30)
@given(st.text(" \tab\n", max_size=40))
def test_cleandoc_is_that_of_python(doc):
    assert Inspect.cleandoc(doc) == inspect.cleandoc(doc)


def test_what_else_is_asked_of_it_is_there():
    assert Inspect("inspect").isfunction is inspect.isfunction
    assert Platform("platform").uname() == platform.uname()


def test_system_is_that_of_python():
    assert Platform.system() == platform.system()


def test_a_command_does_without_them_and_others_get_them():
    code = (
        "import ctk.cli, sys; assert not sys.modules.keys() & {'inspect', 'platform'};"
        " import inspect, platform; assert type(inspect) is type(platform) is type(sys)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
