"""`ctk serve`: the page of a file, for this user's browser."""

import sys
from pathlib import Path

import click

from ctk.cli.options import db_argument, remark
from ctk.errors import CtkError, UsageError


@click.command()
@db_argument
@click.option("--port", type=click.IntRange(0, 65535), default=8765, show_default=True)
@click.option(
    "--bind",
    default="127.0.0.1",
    metavar="ADDRESS",
    show_default=True,
    help="Listen there: whoever can reach it and has the token can read DB.",
)
@click.option("--open", "opens", is_flag=True, help="Open it in your browser.")
def serve(db: Path, port: int, bind: str, opens: bool) -> None:
    """
    Show DB as a page, while it is being written or afterwards.

    The page answers only this machine, and only who has the address that is printed. Ctrl-C ends
    it.

    \b
    ctk serve node.db
    ctk serve node.db --port 0 --open
    """
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise CtkError(
            "the page's server is not installed", hint="pip install 'ctk[serve]'"
        ) from error
    import socket

    import ctk
    from ctk.report.serve import Page, is_everywhere, names_of
    from ctk.report.serve import serve as run

    with ctk.open(db) as recording:
        try:
            names = names_of(bind)
        except ValueError as error:
            raise UsageError(
                f"{bind!r} is not an address", hint="--bind 127.0.0.1, or one of this host's own"
            ) from error
        family = socket.AF_INET6 if ":" in bind else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as listening:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listening.bind((bind, port))
                listening.listen(32)
            except OSError as error:
                raise CtkError(
                    f"{bind}:{port} cannot be listened on: {error.strerror}",
                    hint=f"--port {port + 1}" if port < 65535 else "--port 8765",
                ) from error
            port = listening.getsockname()[1]
            page = Page(recording, names, port, everywhere=is_everywhere(bind))
            address = f"http://{names[0]}:{port}/?token={page.token}"
            click.echo(address)
            sys.stdout.flush()
            if names[0] not in names_of("127.0.0.1"):
                remark(
                    f"whoever gets hold of that can read {db}: it goes over the network as it is"
                )
            if opens:
                import webbrowser

                webbrowser.open(address)
            run(page, listening)
