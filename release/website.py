"""
What the documentation's site has besides docs/, made when it is built, from where each fact stands:
README.md, CHANGELOG.md, the help of every command, the schema.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import click
from click.testing import CliRunner
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from ctk.cli import main

ROOT = Path(__file__).parent.parent


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made (a hook of mkdocs)."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    pages = {
        "index.md": readme,
        "limits.md": "# Limits\n" + section(readme, "What it cannot see"),
        "changelog.md": (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
        "license.md": "# Licence\n\n```text\n" + (ROOT / "LICENSE").read_text() + "```\n",
        "reference/commands.md": "\n".join(commands()),
        "reference/schema.md": schema(),
    }
    for name, text in pages.items():
        files.append(File.generated(config, name, content=from_docs(text)))
    return files


def section(text: str, title: str) -> str:
    """Give what stands below a heading, up to the next of its level."""
    _, _, after = text.partition(f"\n## {title}\n")
    return after.partition("\n## ")[0]


def from_docs(text: str) -> str:
    """Write links as from docs/: README.md's begin there."""
    text = re.sub(r"\]\(docs/", "](", text)
    text = re.sub(r"\]\(CHANGELOG\.md", "](changelog.md", text)
    return re.sub(r"\]\(LICENSE", "](license.md", text)


def commands() -> Iterator[str]:
    """Write the help of ctk and of each command, as it stands in a terminal."""
    top = click.Context(main, info_name="ctk", terminal_width=80)
    yield f"# Commands\n\n```text\n{top.get_help()}\n```\n"
    for name in main.list_commands(top):
        command = main.get_command(top, name)
        assert command is not None
        context = click.Context(command, top, info_name=name, terminal_width=80)
        yield f"## ctk {name}\n\n```text\n{context.get_help()}\n```\n"


def schema() -> str:
    """Write what `ctk schema` says."""
    said = CliRunner().invoke(main, ["schema", "--no-pager"], prog_name="ctk")
    assert said.exit_code == 0, said.output
    return f"# Schema\n\n```text\n{said.stdout}```\n"
