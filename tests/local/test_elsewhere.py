"""What is for a cluster is refused on one machine, and not passed over."""

import pytest

import pulumi
import pulumi_tandem as tandem
from pulumi_tandem.local.elsewhere import cluster_only
from pulumi_tandem.resolve import resolve
from tests.builders import laptop_pair, laptop_single, llama_pair

SCALED = tandem.Pool(
    gpu="cpu", nodes_per_worker=2, data_parallel=2, autoscalers=(tandem.Autoscaler(),), pod=tandem.Pod(shm_gib=1)
)
FOR_A_CLUSTER = laptop_single(serve=SCALED, cluster=tandem.Cluster(), token_secret=tandem.TokenSecret(name="hub"))


def test_every_field_that_would_do_nothing_is_told():
    findings = cluster_only(resolve(FOR_A_CLUSTER))
    assert [finding.path for finding in findings] == [
        "chat.cluster",
        "chat.token_secret",
        "chat.serve.pod",
        "chat.serve.nodes_per_worker",
        "chat.serve.autoscalers",
    ]
    assert findings[0].message == "cluster is for Kubernetes; on this machine it would do nothing"


@pytest.mark.parametrize("service", [laptop_pair(), laptop_single(), llama_pair()])
def test_services_without_a_cluster_run_here(service: tandem.Service):
    assert cluster_only(resolve(service)) == ()


def test_the_component_refuses_before_its_first_resource():
    with pytest.raises(pulumi.RunError, match=r"chat\.cluster"):
        tandem.local.Inference("chat", tandem.local.InferenceArgs(service=FOR_A_CLUSTER))
