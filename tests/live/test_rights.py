"""The recorder with CAP_NET_ADMIN as its only capability, as another user id."""

import os
import subprocess
import time
from pathlib import Path

import pytest
from playednode import CLIENT, CLIENT_1, PODS, PlayedNode, inside, udp, until
from recording import CTK, listening, rows

pytestmark = pytest.mark.live

NOBODY = 65534
CAPABILITIES = ("bounding-set", "inh-caps", "ambient-caps")
ALONE = "-all,+net_admin"
ENVIRONMENT = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}


def as_nobody(capabilities: str) -> list[str]:
    become = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    return [*become, *(f"--{kind}={capabilities}" for kind in CAPABILITIES)]


def enabled(play: PlayedNode) -> bool:
    with inside(play.node):
        return Path("/proc/sys/net/netfilter/nf_conntrack_acct").read_text() == "1\n"


def nobodys(tmp_path: Path) -> Path:
    """Make a folder that this user can write to."""
    folder = tmp_path / "nobodys"
    folder.mkdir()
    os.chown(folder, NOBODY, NOBODY)
    tmp_path.chmod(0o711)
    return folder


@pytest.mark.parametrize("options", [(), ("--protocol", "tcp"), ("--buffer-size", "64MiB")])
def test_without_rights_there_is_one_error_and_nothing_before_it(tmp_path, options):
    db = nobodys(tmp_path) / "node.db"
    with PlayedNode(accounting=False) as play:
        command = [*as_nobody("-all"), *CTK, "record", str(db), "--no-kube", *options]
        done = subprocess.run(
            play.command(*command), capture_output=True, text=True, env=ENVIRONMENT, check=False
        )
    assert (done.returncode, done.stderr, db.exists()) == (
        1,
        "Error: listening to conntrack events needs CAP_NET_ADMIN\n"
        "Try: run it as root, or give a container the capability NET_ADMIN\n",
        False,
    )


def test_net_admin_alone_records(tmp_path):
    db = nobodys(tmp_path) / "node.db"
    with PlayedNode(accounting=False) as play:
        command = [*as_nobody(ALONE), *CTK, "record", str(db), "--no-kube", "--enable-accounting"]
        with (
            (tmp_path / "said").open("w") as said,
            listening(play, *command, stderr=said, env=ENVIRONMENT) as process,
        ):
            until(lambda: enabled(play), "the counters")
            with udp(play.pods[CLIENT], PODS[CLIENT][0], 0) as sock:
                sock.sendto(bytes(100), (PODS[CLIENT_1][0], 80))
            time.sleep(0.5)
    text = Path(said.name).read_text(encoding="utf-8")
    assert (process.returncode, "net.netfilter.nf_conntrack_acct=1 is set now" in text) == (0, True)
    counted = "SELECT sum(connections), sum(bytes_out) FROM flows WHERE dst_port = 80"
    assert rows(db, counted) == [(1, 128)]
    assert (db.stat().st_uid, db.stat().st_mode & 0o777) == (NOBODY, 0o600)
