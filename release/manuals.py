"""
Manual pages and completion scripts, as files where a system looks for them.

    python release/manuals.py FOLDER    # FOLDER/man/man1/ctk.1, FOLDER/bash-completion/...

They are made from the help, so they stand in no repository; the sdist, the wheel and the image
carry them in share/.
"""

import sys
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from ctk.cli import main
from ctk.cli.manual import page

# Where each shell looks, below PREFIX/share.
COMPLETIONS = {
    "bash": "bash-completion/completions/ctk",
    "zsh": "zsh/site-functions/_ctk",
    "fish": "fish/vendor_completions.d/ctk.fish",
}


def write(share: Path) -> None:
    """Write all of them below `share`, the same bytes each time."""
    for shell, place in COMPLETIONS.items():
        script = get_completion_class(shell)
        assert script is not None
        # What `ctk completion SHELL` prints; its `source()` also asks bash for its version.
        made = script(main, {}, "ctk", "_CTK_COMPLETE")
        _write(share / place, made.source_template % made.source_vars())
    top = click.Context(main, info_name="ctk")
    pages = {"ctk": top}
    for name in main.list_commands(top):
        command = main.get_command(top, name)
        assert command is not None
        pages[f"ctk-{name}"] = click.Context(command, top, info_name=name)
    for name, context in pages.items():
        _write(share / "man" / "man1" / f"{name}.1", page(context))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
