"""Notes below an answer, folded between words where a terminal would break them anywhere."""

import re
import sys

# What is typed together stays together: a flag and its value, and `ctk` and its command.
_TYPED = r"(?<!\S)(--?[\w-]+|ctk) (?=\S)"
_HELD = "\0"


def folded(text: str) -> str:
    """Fold a line for the terminal of stderr; for a pipe or a file it stays one line."""
    if not sys.stderr.isatty():
        return text
    import shutil  # 3 ms, for its archives

    columns = shutil.get_terminal_size().columns
    if len(text) <= columns:
        return text
    from textwrap import wrap

    held = re.sub(_TYPED, rf"\1{_HELD}", text)
    lines = wrap(held, columns, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines).replace(_HELD, " ")
