"""The cluster's side of the corpus: what is caught, what is not, and what platforms do when nothing is said."""

import json
from pathlib import Path
from typing import Any

import pulumi_tandem as tandem
from tests.corpus.score import score
from tests.corpus.translate_cluster import cluster_parts, left_out, pod_parts

CASES = Path(__file__).with_name("cases.jsonl")
LAYERS = {"network", "aws", "kubernetes", "autoscaling", "rollout", "gateway", "security", "observability"}
NOT_CAUGHT_ALONE = {
    # Its pods ask for 32 EFA devices; a p5en.48xlarge has 16 (EC2 DescribeInstanceTypes), so that two things are wrong.
    "eks-version-out-of-support": ("TND0203", "TND0234"),
}


def test_everything_around_the_engines_is_caught_for_its_reason_and_nothing_else_is():
    cases = [json.loads(line) for line in CASES.read_text("utf-8").splitlines()]
    verdicts = score(case for case in cases if case["layer"] in LAYERS)
    wrong = {each.id: each.codes for each in verdicts if each.verdict not in {"caught", "passed", "left out"}}
    assert wrong == NOT_CAUGHT_ALONE


def pods(**role: Any) -> tandem.Pod:
    pod = pod_parts({"prefill": role}, "prefill")["pod"]
    assert isinstance(pod, tandem.Pod)
    return pod


def test_a_drain_without_a_grace_period_has_kubernetes_thirty_seconds():
    assert pods(shutdown_timeout_s=60).termination_grace_s == 30
    assert pods(shutdown_timeout_s=60, termination_grace_s=90).termination_grace_s == 90
    assert pods().termination_grace_s is None


def test_nothing_ties_pods_to_a_zone_where_a_pool_has_two():
    case = {"prefill": {}, "cluster": {"zones": ["a", "b"]}}
    pod = pod_parts(case, "prefill")["pod"]
    assert isinstance(pod, tandem.Pod)
    assert pod.same_zone is False


def test_quantities_are_read_in_their_units():
    assert (pods(shm="20Gi").shm_gib, pods(shm="512Mi").shm_gib, pods(shm=None).shm_gib, pods().shm_gib) == (
        20,
        0.5,
        0,
        None,
    )


def test_a_deployment_surges_by_a_quarter_when_nothing_else_is_said():
    update = pods(strategy="RollingUpdate", replicas=4).rolling_update
    assert update == tandem.RollingUpdate(max_surge=1, max_unavailable=1)


def test_roles_in_groups_of_their_own_have_node_pools_of_their_own():
    case = {"prefill": {"subnet": "a"}, "decode": {"subnet": "b"}, "cluster": {"instance_type": "p5.48xlarge"}}
    cluster = cluster_parts(case)["cluster"]
    assert isinstance(cluster, tandem.Cluster)
    assert [(pool.name, pool.subnets) for pool in cluster.node_pools] == [("prefill", ("a",)), ("decode", ("b",))]


def test_cases_of_a_sidecar_are_left_out_by_what_they_declare():
    assert left_out({"decode": {"sidecar": {"prefill_port": 8000}}})
    assert left_out({"decode": {"ports": {"sidecar": 8000}}}) is None
