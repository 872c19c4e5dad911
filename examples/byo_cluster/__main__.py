"""A pair of Llama 3.1 8B workers on your own cluster: `pip install 'pulumi-tandem[kubernetes]'` and `pulumi up`."""

import pulumi
import pulumi_tandem as tandem
from pulumi_tandem import kubernetes

config = pulumi.Config()

chat = tandem.Service(
    name="chat",
    model=tandem.Model(name="Llama-3.1-8B-Instruct", path=kubernetes.MODEL_DIR),
    prefill=tandem.Pool(gpu="H100", workers=2),
    decode=tandem.Pool(gpu="H100", workers=2),
    context_tokens=8192,
)
inference = kubernetes.Inference(
    "chat",
    kubernetes.InferenceArgs(
        service=chat,
        images=kubernetes.Images(worker=config.require("worker"), gateway=config.require("gateway")),
        cluster=kubernetes.Access(kubeconfig=config.require_secret("kubeconfig"), identifier="mine"),
        namespace=config.require("namespace"),
        weights=kubernetes.Claim(name=config.require("claim")),
    ),
)

pulumi.export("url", inference.url)
pulumi.export("generation", inference.generation)
pulumi.export("evidence", inference.evidence)
