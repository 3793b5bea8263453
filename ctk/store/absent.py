"""What to do where there is no such file."""

import re

MAKES = "`ctk record` makes one"
_VIEW = r"flows(_1[mhd])?|pods|services|endpoints|nodes|gaps|recordings"


def instead_of(word: str) -> str:
    """Say what to do where there is no file of that name: SQL, or a view, may have been meant."""
    if re.match(r"\s*(select|with)\s", word, re.IGNORECASE):
        return 'ctk query DB "select ..." -o csv takes SQL'
    if re.fullmatch(_VIEW, word):
        return f'ctk schema DB has all views, ctk query DB "select * from {word}" what is in one'
    return MAKES
