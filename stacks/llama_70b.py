"""Llama 3.3 70B on H100: on one machine as a pair of four GPUs each, or on two machines of eight with EFA between.

`pulumi config set llama:two-machines true` chooses the second.

Not run on hardware. Needs a namespace `llama` with a claim `llama-70b` that holds the weights, and images by
digest: `pulumi config set images:worker registry/worker@sha256:...`, and `images:gateway` likewise.
"""

import pulumi
import pulumi_tandem as tandem
from pulumi_tandem import kubernetes

two_machines = pulumi.Config("llama").get_bool("two-machines")

meant = tandem.Pod(disruption_min_available=0)
efa = tandem.Pod(resources={"vpc.amazonaws.com/efa": 32}, capabilities=("IPC_LOCK",), disruption_min_available=0)
one = {
    "prefill": tandem.Pool(gpu="H100", tensor_parallel=4, pod=meant),
    "decode": tandem.Pool(gpu="H100", tensor_parallel=4, pod=meant),
    "pods": "paired",
    "transfer": tandem.Transfer(transport="cuda_ipc"),
    "cluster": tandem.Cluster(
        node_pools=(tandem.NodePool(name="h100", instance_type="p5.48xlarge", nodes=1),), pod_security="restricted"
    ),
}
two = {
    "prefill": tandem.Pool(gpu="H100", tensor_parallel=8, pod=efa),
    "decode": tandem.Pool(gpu="H100", tensor_parallel=8, pod=efa),
    "transfer": tandem.Transfer(transport="efa"),
    "cluster": tandem.Cluster(
        provider="eks",
        version="1.34",
        fabric="efa",
        node_pools=(tandem.NodePool(name="h100", instance_type="p5.48xlarge", nodes=2, zones=("us-east-1a",)),),
        pod_security="privileged",  # EFA locks memory: IPC_LOCK, which neither `restricted` nor `baseline` admits
    ),
}
llama = tandem.Service(
    name="llama",
    model=tandem.Model(name="Llama-3.3-70B-Instruct", path=kubernetes.MODEL_DIR),
    context_tokens=16_384,
    rollout="in_place",
    **(two if two_machines else one),
)

images = pulumi.Config("images")
inference = kubernetes.Inference(
    "llama",
    kubernetes.InferenceArgs(
        service=llama,
        images=kubernetes.Images(worker=images.require("worker"), gateway=images.require("gateway")),
        namespace="llama",
        weights=kubernetes.Claim(name="llama-70b"),
    ),
)

pulumi.export("url", inference.url)
pulumi.export("generation", inference.generation)
pulumi.export("evidence", inference.evidence)
