"""A service in the test cluster, which tests change between updates: `TANDEM_TEST_DECLARATION` holds the changes."""

import json
import os
from typing import Any

import pulumi
import pulumi_tandem as tandem
from pulumi_tandem import kubernetes
from pulumi_tandem.manifest import Transform, Weights

OPEN_PORTS = (8000, 8001)
"""What a policy that was written by hand may know of: the engine's and the agent's, but not those that KV takes."""


def without_kv_ports(policy: dict[str, Any]) -> dict[str, Any]:
    """A policy that lets every caller of a worker in, but to the ports above alone."""
    for rule in policy["spec"]["ingress"]:
        rule["ports"] = [{"protocol": "TCP", "port": port} for port in OPEN_PORTS]
    return policy


def alone(manifest: dict[str, Any]) -> dict[str, Any]:
    """Prefill workers that tell others to fetch KV from an address where nobody else reaches them."""
    spec = json.loads(manifest["data"]["worker.json"])
    spec["env"]["VLLM_NIXL_SIDE_CHANNEL_HOST"] = "127.0.0.1"
    return {**manifest, "data": {"worker.json": json.dumps(spec)}}


def impatient(manifest: dict[str, Any]) -> dict[str, Any]:
    """An autoscaler that makes a pool smaller after one quiet minute and not five; KEDA's looks every second."""
    at_once = {"stabilizationWindowSeconds": 0, "policies": [{"type": "Pods", "value": 1, "periodSeconds": 5}]}
    behavior = {"behavior": {"scaleUp": at_once, "scaleDown": at_once | {"stabilizationWindowSeconds": 60}}}
    of_keda = {"pollingInterval": 1, "advanced": {"horizontalPodAutoscalerConfig": behavior}}
    changed = of_keda if manifest["kind"] == "ScaledObject" else behavior
    return {**manifest, "spec": manifest["spec"] | changed}


FAULTS: dict[str, dict[str, Transform]] = {
    "alone": {"prefill-spec": alone},
    "kv ports closed": {"worker-network": without_kv_ports},
}

changes = json.loads(os.environ.get("TANDEM_TEST_DECLARATION", "{}"))
pool = {"gpu": "cpu", "sequences": 8, "host_memory_gib": 0.25, "pod": {"resources": {"nvidia.com/gpu": 1}}}
pool |= changes.get("pool", {})
chat = tandem.Service(
    name="chat",
    model=tandem.Model(name="SmolLM2-135M-Instruct", **changes.get("model", {})),
    engine=tandem.TensorRtLlm() if changes.get("tensorrt_llm") else tandem.Vllm(version="0.32.0"),
    **{name: tandem.Pool(**pool | changes.get(name, {})) for name in changes.get("pools", ("prefill", "decode"))},
    context_tokens=2048,
    transfer=tandem.Transfer(lease_s=6, **changes.get("transfer", {})),
    **{"grace": tandem.Grace(start_timeout_s=60, drain_timeout_s=30), **changes.get("service", {})},
)


def weights() -> Weights | None:
    """A folder of the machine, or a download into a claim."""
    given = changes.get("weights")
    if isinstance(given, dict):
        download: dict[str, Any] = dict(given)
        claim = kubernetes.Claim(name=download.pop("into"))
        return kubernetes.Download(into=claim, **download)
    return kubernetes.HostPath(path=given) if given else None


cluster = kubernetes.Access(kubeconfig=os.environ["TANDEM_CLUSTER_KUBECONFIG"], identifier="test")
images = kubernetes.Images(
    worker=f"tandem.local/{changes.get('worker', 'worker-fake')}:test", gateway="tandem.local/gateway:test"
)
inference = kubernetes.Inference(
    "chat",
    kubernetes.InferenceArgs(
        service=chat,
        images=images,
        gateway=kubernetes.Gateway(keys_secret=changes.get("keys_secret"), **changes.get("gateway", {})),
        weights=weights(),
        cluster=cluster,
        namespace=os.environ["TANDEM_TEST_NAMESPACE"],
        transforms={
            **FAULTS.get(changes.get("fault", ""), {}),
            **{f"{name}-scaling": impatient for name in changes.get("impatient", ())},
        },
    ),
)

if second := changes.get("second") or changes.get("front"):
    # A service like the first, under the names that the test wants, and one door for both where it is asked for.
    names = tuple(second["served_names"])
    code = kubernetes.Inference(
        "code",
        kubernetes.InferenceArgs(
            service=chat.model_copy(update={"name": "code", "served_names": names}),
            images=images,
            weights=weights(),
            cluster=cluster,
            namespace=os.environ["TANDEM_TEST_NAMESPACE"],
        ),
    )
    if "front" in changes:
        kubernetes.Front("models", kubernetes.FrontArgs(services=(inference, code), images=images, cluster=cluster))

pulumi.export("url", inference.url)
pulumi.export("generation", inference.generation)
pulumi.export("evidence", inference.evidence)
