"""`ctk doctor` as a command: its rights at the API server, its errors and its exit codes."""

import json
from pathlib import Path

import pytest
from apiserver import ApiServer, Fault
from click.testing import CliRunner

from ctk.cli import main
from ctk.kube.watch import nodes, refusals

KUBE = Path(__file__).parent.parent / "fixtures" / "kube"


@pytest.fixture
def api():
    with ApiServer() as server:
        yield server


def test_each_right_that_is_missing_is_named(api, tmp_path):
    kubeconfig = api.kubeconfig(tmp_path / "config")
    api.fail(Fault(status=403), "nodes", watching=False)
    api.fail(Fault(status=403), "endpointslices", watching=True)
    rule = "forbidden: needs get, list and watch on"
    assert refusals(kubeconfig, None) == {
        "pods": None,
        "services": None,
        "endpointslices": f'{rule} endpointslices of apiGroup "discovery.k8s.io"',
        "nodes": f'{rule} nodes of apiGroup ""',
    }


def test_nodes_are_told_one_by_one_or_by_name(api, tmp_path):
    api.load([KUBE / "nodes.json"])
    kubeconfig = api.kubeconfig(tmp_path / "config")
    assert [each.name for each in nodes(kubeconfig, None)] == ["kl-control-plane"]
    named = nodes(kubeconfig, None, "kl-control-plane")
    assert [each.addresses for each in named] == [("172.18.0.2", "fc00:f853::2")]
    api.fail(Fault(status=403), "nodes", watching=False)
    assert list(nodes(kubeconfig, None)) == []


@pytest.mark.parametrize("named", [True, False])
def test_a_place_where_one_may_not_write_is_a_problem_only_where_it_was_named(
    tmp_path, monkeypatch, named
):
    monkeypatch.setenv("CTK_DB", str(tmp_path / "no" / "node.db"))
    words = ["doctor", *([str(tmp_path / "no" / "node.db")] if named else ())]
    result = CliRunner().invoke(main, [*words, "--no-kube", "--listen", "0", "-o", "json"])
    [disk] = [one for one in json.loads(result.stdout) if one["check"] == "disk"]
    assert disk["status"] == ("problem" if named else "unknown")
    assert str(tmp_path / "no" / "node.db") in disk["found"]


def test_a_problem_is_exit_code_1(tmp_path):
    result = CliRunner().invoke(
        main,
        ["doctor", str(tmp_path / "no" / "node.db"), "--no-kube", "--listen", "0", "-o", "json"],
    )
    assert [one["status"] for one in json.loads(result.stdout) if one["check"] == "disk"] == [
        "problem"
    ]
    assert result.exit_code == 1


def test_a_kubeconfig_that_is_none_is_one_error(tmp_path):
    result = CliRunner().invoke(
        main, ["doctor", "--kubeconfig", str(tmp_path / "none"), "--listen", "0"]
    )
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: ")
    assert "Traceback" not in result.stderr


def test_a_context_without_its_kubeconfig_is_asked_wrongly():
    result = CliRunner().invoke(main, ["doctor", "--context", "kind", "--listen", "0"])
    assert (result.exit_code, result.stdout, result.stderr) == (
        2,
        "",
        "Error: --context needs --kubeconfig\nTry: --kubeconfig ~/.kube/config\n",
    )
