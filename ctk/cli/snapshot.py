"""`ctk snapshot`: a copy that is safe to take while the file is written."""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from ctk.cli.options import db_and_out_arguments, remark
from ctk.errors import UsageError

_CHUNK_BYTES = 1 << 20


@click.command(short_help="Copy DB safely while it is being written.")
@db_and_out_arguments
@click.option("--finish", is_flag=True, help="End its recording first, as Ctrl-C does.")
@click.option("--digest", is_flag=True, help="Say the copy's SHA-256 and size on stderr.")
def snapshot(db: Path, out: Path | None, finish: bool, digest: bool) -> None:
    """
    Copy DB to OUT, as of one moment, while a recorder goes on writing it.

    OUT is one file, whole or not there, and must not be there yet; - is standard output, so that
    it can go on through a pipe. With --finish, OUT has all that was recorded, and - needs no room
    for a copy beside DB; without OUT the recording ends, and nothing is copied.

    \b
    ctk snapshot node.db - | gzip > node.db.gz
    ctk snapshot node.db --finish
    """
    from ctk.store import connect
    from ctk.store.lock import end_recorder
    from ctk.store.snapshot import snapshot as copy
    from ctk.store.snapshot import stream

    progress = _progress if sys.stderr.isatty() else lambda done, total: None
    to_stdout = str(out) == "-"
    if to_stdout and sys.stdout.isatty():
        raise UsageError("a terminal cannot show a file of SQLite", hint="ctk snapshot DB - > OUT")
    if out is None:
        if digest:
            raise UsageError("--digest is of a copy", hint="ctk snapshot DB OUT --digest")
        with connect.reader(db, older=True):
            pass  # it is a file of ctk
    if finish:
        end_recorder(db)
    if out is None:
        return
    if not to_stdout:
        copy(db, out, progress)
        if digest:
            with out.open("rb") as file:
                remark(_digest(iter(lambda: file.read(_CHUNK_BYTES), b"")))
        return
    said = _digest(_written(stream(db, progress, ended=finish)))
    if digest:
        remark(said)


def _written(chunks: Iterable[bytes]) -> Iterator[bytes]:
    for chunk in chunks:
        sys.stdout.buffer.write(chunk)
        yield chunk


def _digest(chunks: Iterable[bytes]) -> str:
    """Give the digest and size of a file in a line."""
    import hashlib

    digest, size = hashlib.sha256(), 0
    for chunk in chunks:
        digest.update(chunk)
        size += len(chunk)
    return f"sha256 {digest.hexdigest()}, {size} bytes"


def _progress(done: int, total: int) -> None:
    percent = 100 * done // (total or 1)
    click.echo(f"\rcopied {percent} %", err=True, nl=done >= total)
