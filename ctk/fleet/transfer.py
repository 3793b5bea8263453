"""A node's file, from its pod to here: whole, or not at all."""

import hashlib
import os
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ctk.errors import CtkError
from ctk.fleet.cluster import Cluster, path_of_pod
from ctk.fleet.manifests import NAME, file_of
from ctk.kube.api import BrokenError, RefusedError
from ctk.kube.exec import Ended, execute
from ctk.store import connect
from ctk.store.snapshot import snapshot

_TRIES = 3
_DIGEST = re.compile(r"^sha256 ([0-9a-f]{64}), ([0-9]+) bytes$", re.MULTILINE)
_ERROR = re.compile(r"^Error: (.*)$", re.MULTILINE)


class TransferError(Exception):
    """A file that did not arrive, and why."""


def end(cluster: Cluster, namespace: str, node: str) -> None:
    """Have a node's recording end, and wait until it has; what it says against it is not asked."""
    command = ("ctk", "snapshot", file_of(node), "--finish")
    execute(cluster.api, path_of_pod(namespace, node), NAME, command, lambda data: None)


def fetch(
    cluster: Cluster, namespace: str, node: str, out: Path, received: Callable[[int], None]
) -> None:
    """
    Have a node's recording end, and bring its file to `out`; `received` gets the bytes so far.

    What goes through is checked by size and SHA-256, what arrived by SQLite. A transfer that
    breaks is begun anew, three times at most.
    """
    pod = path_of_pod(namespace, node)
    for tries_left in reversed(range(_TRIES)):
        try:
            _try(cluster, pod, node, out, received)
            return
        except BrokenError as error:
            if not tries_left:
                raise TransferError(f"its file did not come whole: {error}") from error
        except RefusedError as error:
            if error.answer.code == 403:
                raise TransferError(f"exec is refused: {error.answer.message}") from error
            if not tries_left:
                raise TransferError(f"exec is refused: {error}") from error
        except OSError as error:
            raise TransferError(f"{out} cannot be written: {error.strerror}") from error
        time.sleep(cluster.retry_s)
        try:
            cluster.get(pod)  # waits until the server is back
        except RefusedError as error:
            raise TransferError("its pod is gone, and its file with it") from error


def _try(cluster: Cluster, pod: str, node: str, out: Path, received: Callable[[int], None]) -> None:
    number, name = tempfile.mkstemp(prefix=f".{out.name}.", suffix=".part", dir=out.parent)
    part, digest, size = Path(name), hashlib.sha256(), 0
    try:
        with os.fdopen(number, "wb") as file:

            def take(data: bytes) -> None:
                nonlocal size
                file.write(data)
                digest.update(data)
                size += len(data)
                received(size)

            command = ("ctk", "snapshot", file_of(node), "-", "--finish", "--digest")
            ended = execute(cluster.api, pod, NAME, command, take)
        _check(ended, digest.hexdigest(), size)
        _keep(part, out)
    finally:
        for each in (part, part.with_name(f"{part.name}-journal")):
            each.unlink(missing_ok=True)


def _check(ended: Ended, digest: str, size: int) -> None:
    if ended.code != 0:
        said = _ERROR.search(ended.errors)
        raise TransferError(said[1] if said else ended.message or ended.errors.strip())
    told = _DIGEST.search(ended.errors)
    if told is None:
        raise BrokenError("the pod did not say what it sent")
    if (told[1], int(told[2])) != (digest, size):
        raise BrokenError(f"{size} of {told[2]} bytes came, or others")


def _keep(part: Path, out: Path) -> None:
    """Check the file, and give it its name: without free pages, and what only a recorder needs."""
    try:
        with connect.reader(part, older=True) as conn, connect.explained(part):
            (found,) = conn.execute("PRAGMA integrity_check(1)").fetchone()
        if found != "ok":
            raise TransferError(f"its file is damaged: {found}")
        snapshot(part, out, lambda done, total: None)
    except CtkError as error:
        raise TransferError(error.message) from error
