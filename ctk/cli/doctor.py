"""`ctk doctor`: what keeps ctk from recording here."""

import sys
from pathlib import Path

import click

from ctk.cli.options import (
    cluster_options,
    output_options,
    paths_of_variable,
    refuse_two_clusters,
)
from ctk.render.tables import Output


@click.command()
@click.argument("db", type=click.Path(path_type=Path, readable=False), required=False)
@cluster_options
@click.option("--no-kube", is_flag=True, help="Ask no API server.")
@click.option(
    "--listen",
    type=click.FloatRange(min=0, max=3600),
    default=6.0,  # a meter that zeroes counters every 5 s is seen
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for events.",
)
@output_options
@click.pass_context
def doctor(
    ctx: click.Context,
    db: Path | None,
    kubeconfig: Path | None,
    context: str | None,
    no_kube: bool,
    listen: float,
    output: Output,
) -> None:
    """
    Find what keeps ctk from recording here, and what it would not see.

    DB is where the file would be, for its disk: by default $CTK_DB, or here where one may write.
    What could not be looked at is unknown. Nothing is changed. Exits with 1 on a problem.
    """
    from ctk.doctor import readings
    from ctk.doctor.findings import judge
    from ctk.render import tables as render

    refuse_two_clusters(context, kubeconfig=kubeconfig, no_kube=no_kube)

    seen = readings.read(
        disk=db or next(iter(paths_of_variable()), Path.cwd()),
        disk_named=db is not None,
        kubeconfig=kubeconfig,
        context=context,
        kube=not no_kube,
        listen_s=listen,
    )
    findings = list(judge(seen))
    render.findings(findings, output, sys.stdout.buffer)
    if any(finding.status == "problem" for finding in findings):
        ctx.exit(1)
