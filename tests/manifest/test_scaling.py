"""Autoscalers of a service: what they read, and how far they may go beside each other."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pulumi_tandem as tandem
from pulumi_tandem.lower import lower
from pulumi_tandem.manifest import Images, Manifests, Setting, manifests
from pulumi_tandem.manifest.ceiling import workers_max
from pulumi_tandem.resolve import resolve
from tests.builders import laptop_pair, llama_flexible, llama_pair


def machines(gpus_max: int) -> tandem.Cluster:
    return tandem.Cluster(node_pools=(tandem.NodePool(gpu="H100", gpus_max=gpus_max),))


def scaled(most: int | None = None, least: int = 1, kind: Any = "ScaledObject", **more: Any) -> dict[str, Any]:
    return {"autoscalers": (tandem.Autoscaler(kind=kind, workers_min=least, workers_max=most),), **more}


def made(service: tandem.Service) -> Manifests:
    resolved = resolve(service)
    setting = Setting(images=Images(worker="worker:1", gateway="gateway:1"), namespace="llm")
    return manifests(resolved, lower(resolved), setting)


def triggers(of: Manifests, key: str) -> dict[str, tuple[str, float]]:
    """Figures that an object follows, each with the kind and value of its target."""
    found = of.child(key).manifest["spec"]["triggers"]
    return {
        one["metadata"]["valueLocation"]: (one["metricType"], float(one["metadata"]["targetValue"])) for one in found
    }


@pytest.mark.parametrize(
    ("gpus", "prefill", "decode", "most"),
    [
        (8, scaled(20), scaled(20), (4, 4)),
        (8, scaled(20), scaled(4), (5, 3)),
        (8, scaled(20, tensor_parallel=2), scaled(20), (2, 4)),
        (8, scaled(3), scaled(3), (3, 3)),
        (8, scaled(20), {"workers": 3}, (5, 3)),
        (8, scaled(), scaled(2), (6, 2)),
        (8, scaled(20, least=6), scaled(20), (6, 2)),
    ],
    ids=["alike", "in proportion", "by size", "enough", "one of them", "whatever is left", "minima first"],
)
def test_pools_share_what_the_machines_hold(
    gpus: int, prefill: dict[str, Any], decode: dict[str, Any], most: tuple[int, int]
) -> None:
    found = workers_max(resolve(llama_pair(prefill, decode, cluster=machines(gpus))))
    assert (found["prefill"], found["decode"]) == most


@given(
    gpus=st.integers(2, 64),
    most=st.tuples(st.integers(1, 40) | st.none(), st.integers(1, 40) | st.none()),
    size=st.sampled_from([1, 2, 4]),
    ratio=st.tuples(st.floats(0.1, 4), st.floats(1, 4)) | st.none(),
)
def test_no_two_pools_exceed_the_machines_at_their_most(
    gpus: int, most: tuple[int | None, int | None], size: int, ratio: tuple[float, float] | None
) -> None:
    bounds = tandem.Ratio(at_least=ratio[0], at_most=ratio[0] * ratio[1]) if ratio else None
    prefill, decode = scaled(most[0]), scaled(most[1], tensor_parallel=size)
    cluster = machines(max(gpus, 1 + size))
    found = workers_max(resolve(llama_pair(prefill, decode, cluster=cluster, prefill_per_decode=bounds)))
    assert found["prefill"] is not None
    assert found["decode"] is not None
    assert found["prefill"] + size * found["decode"] <= max(gpus, 1 + size)
    for count, declared in zip((found["prefill"], found["decode"]), most, strict=True):
        assert 1 <= count <= (declared or gpus)


def test_a_pool_never_grows_to_where_the_ratio_has_no_use_for_it() -> None:
    ratio = tandem.Ratio(at_least=0.5, at_most=2)
    found = workers_max(resolve(llama_pair(scaled(20), scaled(3), prefill_per_decode=ratio)))
    assert found == {"prefill": 6, "decode": 3}


def test_where_nobody_knows_a_bound_the_declared_workers_are_it() -> None:
    resolved = resolve(llama_pair(scaled(workers=3), scaled(kind="other", workers=3)))
    assert workers_max(resolved) == {"prefill": 3, "decode": None}


def test_each_pool_follows_its_own_phase_and_with_a_ratio_the_other_pool_too() -> None:
    of = made(llama_pair(scaled(4), scaled(4), prefill_per_decode=tandem.Ratio(at_least=0.5, at_most=4)))
    assert triggers(of, "prefill-scaling") == {
        "services.llama.prefill_backlog_s": ("Value", 2.0),
        "services.llama.prefill_usage": ("Value", 0.8),
        "services.llama.prefill_workers_min": ("AverageValue", 1.0),
    }
    assert triggers(of, "decode-scaling") == {
        "services.llama.decode_kv_usage": ("Value", 0.8),
        "services.llama.decode_slot_usage": ("Value", 0.9),
        "services.llama.decode_workers_min": ("AverageValue", 1.0),
    }
    assert "services.llama.decode_workers_min" not in triggers(made(llama_pair(scaled(4), scaled(4))), "decode-scaling")


def test_half_of_the_time_to_the_first_token_may_be_spent_waiting() -> None:
    objectives = tandem.Objectives(ttft_ms=800, tpot_ms=50)
    of = made(llama_pair(scaled(4), objectives=objectives))
    assert triggers(of, "prefill-scaling")["services.llama.prefill_backlog_s"] == ("Value", 0.4)


def test_a_flexible_pool_is_one_object_on_all_that_waits() -> None:
    of = made(llama_flexible(scaled(6)))
    assert [child.key for child in of.children if child.key.endswith("-scaling")] == ["flexible-scaling"]
    assert [name.rpartition(".")[2] for name in triggers(of, "flexible-scaling")] == [
        "backlog_s",
        "decode_kv_usage",
        "decode_slot_usage",
    ]


def test_pairs_in_one_pod_are_one_object_and_count_the_gpus_of_both() -> None:
    pair = llama_pair(
        scaled(20, tensor_parallel=4),
        scaled(20, tensor_parallel=4),
        pods="paired",
        transfer=tandem.Transfer(transport="cuda_ipc"),
        cluster=machines(24),
    )
    of = made(pair)
    assert of.child("pair-scaling").manifest["spec"]["maxReplicaCount"] == 3


def test_the_plain_autoscaler_follows_the_same_figures_in_the_words_of_the_api_server() -> None:
    ratio = tandem.Ratio(at_least=0.5, at_most=4)
    plain = scaled(4, kind="HorizontalPodAutoscaler")
    metrics = (
        made(llama_pair(plain, plain, prefill_per_decode=ratio)).child("prefill-scaling").manifest["spec"]["metrics"]
    )
    assert [one["external"]["metric"]["selector"]["matchLabels"]["figure"] for one in metrics] == [
        "prefill_backlog_s",
        "prefill_usage",
        "prefill_workers_min",
    ]
    assert [one["external"]["target"] for one in metrics] == [
        {"type": "Value", "value": "2"},
        {"type": "Value", "value": "800m"},
        {"type": "AverageValue", "averageValue": "1"},
    ]


def test_figures_are_served_to_autoscalers_and_gateways_only_and_only_where_somebody_follows_them() -> None:
    of = made(llama_pair(scaled(4)))
    url = of.child("prefill-scaling").manifest["spec"]["triggers"][0]["metadata"]["url"]
    service = of.child("scale-service").manifest
    assert url == f"http://{service['metadata']['name']}.llm.svc:{service['spec']['ports'][0]['port']}/scale"
    args = of.child("gateway").manifest["spec"]["template"]["spec"]["containers"][0]["args"]
    assert "--scale-listen" in args
    ingress = of.child("gateway-network").manifest["spec"]["ingress"]
    (door,) = [rule for rule in ingress if rule["ports"][0]["port"] == service["spec"]["ports"][0]["port"]]
    *pods, others = door["from"]
    assert [peer["podSelector"]["matchLabels"] for peer in pods] == [
        service["spec"]["selector"],
        {"tandem.serving/fronts.llama": "true"},
    ]
    assert list(others) == ["namespaceSelector"]
    plain = made(laptop_pair())
    assert "scale-service" not in {child.key for child in plain.children}
    assert "--scale-listen" not in plain.child("gateway").manifest["spec"]["template"]["spec"]["containers"][0]["args"]


@pytest.mark.parametrize(("owns", "left"), [(True, ("spec.replicas",)), (False, ())])
def test_the_number_of_workers_is_left_to_the_autoscaler_that_owns_it(owns: bool, left: tuple[str, ...]) -> None:
    scaler = tandem.Autoscaler(workers_max=4, owns_workers=owns)
    assert made(llama_pair({"autoscalers": (scaler,)})).child("prefill").ignored == left
