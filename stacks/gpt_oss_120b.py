"""gpt-oss-120b on one machine of eight H100: four GPUs read, four write, in one pod so that KV goes over NVLink.

Not run on hardware. Needs a namespace `gpt-oss` with a claim `gpt-oss-120b` that holds the weights, and images by
digest: `pulumi config set images:worker registry/worker@sha256:...`, and `images:gateway` likewise.
"""

import pulumi
import pulumi_tandem as tandem
from pulumi_tandem import kubernetes

# One pair fills the machine, so its budget lets it go and a roll-out stops the old pair first.
four = tandem.Pool(gpu="H100", tensor_parallel=4, pod=tandem.Pod(disruption_min_available=0))

gpt_oss = tandem.Service(
    name="gpt-oss",
    model=tandem.Model(name="gpt-oss-120b", path=kubernetes.MODEL_DIR),
    context_tokens=16_384,
    prefill=four,
    decode=four,
    pods="paired",
    transfer=tandem.Transfer(transport="cuda_ipc"),
    rollout="in_place",
    cluster=tandem.Cluster(
        node_pools=(tandem.NodePool(name="h100", instance_type="p5.48xlarge", nodes=1),),
        pod_security="restricted",
    ),
)

images = pulumi.Config("images")
inference = kubernetes.Inference(
    "gpt-oss",
    kubernetes.InferenceArgs(
        service=gpt_oss,
        images=kubernetes.Images(worker=images.require("worker"), gateway=images.require("gateway")),
        namespace="gpt-oss",
        weights=kubernetes.Claim(name="gpt-oss-120b"),
    ),
)

pulumi.export("url", inference.url)
pulumi.export("generation", inference.generation)
pulumi.export("evidence", inference.evidence)
