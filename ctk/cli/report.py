"""`ctk report`: one span of a file, as a page to attach or as the document it is made of."""

import sys
import time
from pathlib import Path

import click

from ctk.ask.keywords import filters_of
from ctk.ask.moments import ends_of
from ctk.ask.recording import Recording
from ctk.cli.bar import Stages
from ctk.cli.filters import FilterCommand, filter_options
from ctk.cli.options import refuse_one_file_twice, remark, target_argument
from ctk.model import Filters


@click.command(cls=FilterCommand, cuts=False)
@target_argument
@filter_options
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Where to; by default beside you, by DB's name, or to a pipe.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["html", "json"]),
    default="html",
    help="A page that needs no network, or the document that it shows.",
)
@click.option(
    "--before",
    metavar="SINCE..UNTIL",
    help="The span to compare with; by default the one before --since, as long.",
)
@click.option("--no-labels", is_flag=True, help="Leave the pods' labels out.")
@click.option("--redact", is_flag=True, help="Put words for names and addresses.")
def report(
    db: Path | str,
    filters: Filters,
    output: Path | None,
    form: str,
    before: str | None,
    no_labels: bool,
    redact: bool,
) -> None:
    """
    Make one HTML file of DB, to attach and to look at.

    It opens from a disk, without a network, and holds names and addresses: it is readable by you
    alone until you give it away.

    \b
    ctk report node.db -o node.html
    ctk report node.db --since 1h --namespace shop -o shop.html
    ctk report node.db --redact -o share.html
    """
    refuse_one_file_twice(db, {"--output": output if str(output) != "-" else None})
    import ctk
    from ctk.render.place import write_private
    from ctk.report.document import document
    from ctk.report.redact import Words

    with ctk.open(db) as recording, Stages() as stages:
        made = document(
            recording,
            filters,
            before=None if before is None else _span(before, recording),
            labels=not no_labels,
            words=Words() if redact else None,
            at=stages.at,
        )
        stages.at(0.9, "the page")
        if form == "json":
            from orjson import OPT_INDENT_2, dumps

            from ctk.render.encode import harmless

            text = harmless(dumps(made, option=OPT_INDENT_2)) + b"\n"
        else:
            from ctk.report.page import report as page

            text = page(made)
    if output is None and form == "html" and sys.stdout.isatty():
        output = Path(f"{Path(db).stem}.html")
    if output is None or str(output) == "-":
        sys.stdout.buffer.write(text)
        return
    replaced = write_private(output, text)
    click.echo(output)
    if replaced:
        remark(replaced)


def _span(text: str, recording: Recording) -> tuple[int | None, int | None]:
    """Turn "2h..1h" into a span in ns."""
    ends = zip(("since", "until"), ends_of(text), strict=True)
    span = filters_of(
        {name: end for name, end in ends if end is not None},
        now_ns=time.time_ns(),
        reference=recording.reference,
        spelled="--before {}".format,
    )
    return span.since_ns, span.until_ns
