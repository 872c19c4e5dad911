"""What the provider says without any API server, through the real CLI."""

from pathlib import Path

import pytest

from tests.standin.conftest import Stack, failed, settings, succeeded

NOWHERE = """
apiVersion: v1
kind: Config
current-context: c
contexts: [{name: c, context: {cluster: c}}]
clusters: [{name: c, cluster: {server: "http://127.0.0.1:1"}}]
"""


@pytest.fixture
def stack(project: Path) -> Stack:
    return Stack(project, settings(project), NOWHERE, "")


def test_a_preview_needs_no_cluster_and_an_update_says_that_it_does(stack: Stack) -> None:
    stack.declare("map", "core/v1:ConfigMap", {"data": {"a": "1"}})
    assert "map create" in succeeded(stack.run("preview"))
    assert "configured Kubernetes cluster is unreachable" in stack.fail()


def test_lists_are_refused_at_preview(stack: Stack) -> None:
    stack.declare("maps", "core/v1:ConfigMapList", {"items": []})
    printed = failed(stack.run("preview"))
    assert "list resources exist for compatibility with YAML manifests and Helm charts" in printed


def test_a_wait_that_cannot_be_read_is_refused_at_preview(stack: Stack) -> None:
    stack.declare("map", "core/v1:ConfigMap", {"metadata": {"annotations": {"pulumi.com/waitFor": "Ready"}}})
    assert 'expected a "jsonpath=" or "condition=" prefix, got "Ready"' in failed(stack.run("preview"))


def test_functions_are_refused_by_name(stack: Stack) -> None:
    manifest = "{kind: ConfigMap, apiVersion: v1}"
    program = f"import pulumi_kubernetes\npulumi_kubernetes.yaml.ConfigGroup('g', yaml=['{manifest}'])\n"
    (stack.folder / "__main__.py").write_text(program)
    assert "kubernetes:yaml:decode: the stand-in for the Kubernetes provider has no functions" in failed(
        stack.run("preview")
    )
