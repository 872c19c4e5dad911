"""Plain HorizontalPodAutoscalers move both pools by what Prometheus' adapter tells of the gateways, and no request is
lost; one of them moves the gateways themselves by what metrics-server tells.

Prometheus and its adapter are the real ones, with the configuration that docs/kubernetes.md shows.
"""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from steps.programs import HPA, PROMETHEUS
from tests.cluster.api import until
from tests.cluster.bringup import added, built
from tests.cluster.scaling import ASKED, CLIENTS, LARGE, QUIET_WAIT_S, SMALL, answers, scaled, sizes, unchanged
from tests.cluster.service import InCluster, Stacks
from tests.serving.load import steady

AUTOSCALING, FIGURES = "apis/autoscaling/v2", "apis/external.metrics.k8s.io/v1beta1"
SCALED: dict[str, Any] = {**scaled("HorizontalPodAutoscaler"), "gateway": {"replicas_max": 3}}


@pytest.fixture(scope="module")
def service(stacks: Stacks) -> Iterator[InCluster]:
    built(PROMETHEUS.name, HPA.name)
    with added("hpa"), stacks(**SCALED) as made:
        yield made


def test_both_pools_grow_under_load_and_shrink_when_it_is_quiet(service: InCluster) -> None:
    assert sizes(service) == SMALL
    expected = answers(service)

    async def run() -> None:
        async with steady(service.url, expected, clients=CLIENTS, asked=ASKED):
            await asyncio.to_thread(until, lambda: sizes(service) == LARGE)
            await unchanged(service, SCALED)
        async with steady(service.url, expected, clients=1, asked=ASKED) as load:
            await asyncio.to_thread(until, lambda: sizes(service) == SMALL, QUIET_WAIT_S)
            await load.answered(3)

    asyncio.run(run())


def test_a_figure_that_two_gateways_tell_is_there_once(service: InCluster) -> None:
    selector = "labelSelector=tandem_service%3Dchat,figure%3Dprefill_usage"
    (found,) = service.namespace.get(FIGURES, f"tandem_gateway_scale?{selector}")["items"]
    assert found["metricLabels"] == {"tandem_service": "chat", "figure": "prefill_usage"}


def test_the_autoscaler_of_the_gateways_reads_their_use_of_cpu(service: InCluster) -> None:
    def percent() -> int | None:
        status = service.namespace.get(AUTOSCALING, "horizontalpodautoscalers/chat-gateway")["status"]
        conditions = {one["type"]: one["status"] for one in status.get("conditions") or ()}
        if conditions.get("ScalingActive") != "True":
            return None
        (metric,) = status["currentMetrics"]
        return metric["resource"]["current"]["averageUtilization"]

    assert until(percent)
