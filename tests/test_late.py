import gettext
import inspect
import subprocess
import sys
import uuid

from hypothesis import given, settings
from hypothesis import strategies as st

from ctk.cli.late import Gettext, Inspect, Uuid


@settings(max_examples=30)
@given(st.text(" \tab\n", max_size=40))
def test_cleandoc_is_that_of_python(doc):
    assert Inspect.cleandoc(doc) == inspect.cleandoc(doc)


def test_what_else_is_asked_of_it_is_there():
    assert Inspect("inspect").isfunction is inspect.isfunction
    assert Uuid("uuid").uuid4 is uuid.uuid4
    assert Gettext("gettext").translation is gettext.translation


@given(st.text(), st.text(), st.integers())
@settings(max_examples=10)
def test_a_text_is_what_gettext_gives_where_nothing_is_translated(one, several, n):
    assert Gettext.gettext(one) == gettext.NullTranslations().gettext(one)
    assert Gettext.ngettext(one, several, n) == gettext.NullTranslations().ngettext(one, several, n)


def test_a_command_does_without_them_and_others_get_them():
    code = (
        "import ctk.cli, sys; names = {'inspect', 'uuid', 'gettext', 'platform', 'locale'};"
        " assert not sys.modules.keys() & names; import inspect, uuid, gettext;"
        " assert type(inspect) is type(uuid) is type(gettext) is type(sys)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
