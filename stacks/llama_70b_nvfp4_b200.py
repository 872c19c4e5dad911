"""Llama 3.3 70B in NVFP4 on a machine of eight B200: two pairs of one GPU each, and as many free for a roll-out.

Not run on hardware. Needs a namespace `llama-fp4` with a claim `llama-70b-nvfp4` that holds the weights, and images by
digest: `pulumi config set images:worker registry/worker@sha256:...`, and `images:gateway` likewise.
"""

import pulumi
import pulumi_tandem as tandem
from pulumi_tandem import kubernetes

one_gpu = tandem.Pool(gpu="B200", workers=2)

llama = tandem.Service(
    name="llama-fp4",
    model=tandem.Model(name="Llama-3.3-70B-Instruct-NVFP4", path=kubernetes.MODEL_DIR),
    context_tokens=16_384,
    prefill=one_gpu,
    decode=one_gpu,
    pods="paired",
    transfer=tandem.Transfer(transport="cuda_ipc"),
    cluster=tandem.Cluster(
        node_pools=(tandem.NodePool(name="b200", instance_type="p6-b200.48xlarge", nodes=1),),
        pod_security="restricted",
    ),
)

images = pulumi.Config("images")
inference = kubernetes.Inference(
    "llama-fp4",
    kubernetes.InferenceArgs(
        service=llama,
        images=kubernetes.Images(worker=images.require("worker"), gateway=images.require("gateway")),
        namespace="llama-fp4",
        weights=kubernetes.Claim(name="llama-70b-nvfp4"),
    ),
)

pulumi.export("url", inference.url)
pulumi.export("generation", inference.generation)
pulumi.export("evidence", inference.evidence)
