"""The service of stacks/local.py as pods: prefill and decode engines on the test cluster that `make cluster` starts.

Its engines compute on CPUs; each asks for one of the node's eight fake GPUs, so the scheduler places them as it would
on a machine that has them.
"""

import os

import pulumi_kubernetes as k8s

import pulumi
import pulumi_tandem as tandem
from pulumi_tandem import kubernetes

settings = pulumi.Config("cluster")
one_gpu = tandem.Pod(resources={"nvidia.com/gpu": 1}, same_zone=True)

chat = tandem.Service(
    name="chat",
    model=tandem.Model(name="SmolLM2-135M-Instruct", path=kubernetes.MODEL_DIR),
    engine=tandem.Vllm(version="0.32.0"),
    prefill=tandem.Pool(gpu="cpu", workers=1, cpu_cores="0", pod=one_gpu),
    decode=tandem.Pool(gpu="cpu", workers=1, cpu_cores="1", pod=one_gpu),
    transfer=tandem.Transfer(net_devices="eth0"),
    context_tokens=2048,
)
(_,) = tandem.accept(chat)

access = k8s.Provider("cluster", kubeconfig=settings.get("kubeconfig") or os.environ.get("TANDEM_CLUSTER_KUBECONFIG"))
namespace = k8s.core.v1.Namespace("chat", opts=pulumi.ResourceOptions(provider=access))
inference = kubernetes.Inference(
    "chat",
    kubernetes.InferenceArgs(
        service=chat,
        images=kubernetes.Images(worker="tandem.local/worker-cpu:test", gateway="tandem.local/gateway:test"),
        namespace=namespace.metadata.name,
        weights=kubernetes.HostPath(path=os.environ["TANDEM_MODEL_DIR"]),
    ),
    pulumi.ResourceOptions(providers=[access]),
)

pulumi.export("url", inference.url)
pulumi.export("namespace", namespace.metadata.name)
pulumi.export("generation", inference.generation)
pulumi.export("evidence", inference.evidence)
