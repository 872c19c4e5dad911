"""A service in the test cluster, which tests change between updates: `TANDEM_TEST_DECLARATION` holds the changes."""

import json
import os
from typing import Any

import pulumi
import pulumi_tandem as tandem
from pulumi_tandem import kubernetes

OPEN_PORTS = (8000, 8001)
"""What a policy that was written by hand may know of: the engine's and the agent's, but not those that KV takes."""


def without_kv_ports(policy: dict[str, Any]) -> dict[str, Any]:
    for rule in policy["spec"]["ingress"]:
        rule["ports"] = [{"protocol": "TCP", "port": port} for port in OPEN_PORTS]
    return policy


changes = json.loads(os.environ.get("TANDEM_TEST_DECLARATION", "{}"))
pool = {"gpu": "cpu", "sequences": 8, "host_memory_gib": 0.25, "pod": {"resources": {"nvidia.com/gpu": 1}}}
pool |= changes.get("pool", {})
chat = tandem.Service(
    name="chat",
    model=tandem.Model(name="SmolLM2-135M-Instruct"),
    engine=tandem.Vllm(version="0.32.0"),
    prefill=tandem.Pool(**pool | changes.get("prefill", {})),
    decode=tandem.Pool(**pool | changes.get("decode", {})),
    context_tokens=2048,
    transfer=tandem.Transfer(lease_s=6, **changes.get("transfer", {})),
    **{"grace": tandem.Grace(start_timeout_s=60, drain_timeout_s=30), **changes.get("service", {})},
)
inference = kubernetes.Inference(
    "chat",
    kubernetes.InferenceArgs(
        service=chat,
        images=kubernetes.Images(worker="tandem.local/worker-fake:test", gateway="tandem.local/gateway:test"),
        cluster=kubernetes.Access(kubeconfig=os.environ["TANDEM_CLUSTER_KUBECONFIG"], identifier="test"),
        namespace=os.environ["TANDEM_TEST_NAMESPACE"],
        transforms={"worker-network": without_kv_ports} if changes.get("kv_ports") == "closed" else {},
    ),
)

pulumi.export("url", inference.url)
pulumi.export("generation", inference.generation)
pulumi.export("evidence", inference.evidence)
