"""`ctk doctor` as a command: its rights at the API server, its errors and its exit codes."""

import json
from pathlib import Path

import pytest
from apiserver import ApiServer, Fault
from click.testing import CliRunner

from ctk.cli import main
from ctk.kube.watch import refusals

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
