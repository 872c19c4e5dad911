"""One prefill and one decode engine on this machine's CPU, with KV moved between them by NIXL."""

import os

import pulumi
import pulumi_tandem as tandem
from pulumi_tandem import local

# Half of the machine each: engines that share cores wait for one another.
half = max(1, (os.cpu_count() or 2) // 2)

chat = tandem.Service(
    name="chat",
    model=tandem.Model(name="SmolLM2-135M-Instruct", path=os.environ.get("TANDEM_MODEL_DIR")),
    engine=tandem.Vllm(version="0.32.0"),
    prefill=tandem.Pool(gpu="cpu", workers=1, cpu_cores=f"0-{half - 1}"),
    decode=tandem.Pool(gpu="cpu", workers=1, cpu_cores=f"{half}-{2 * half - 1}"),
    context_tokens=2048,
)

inference = local.Inference("chat", local.InferenceArgs(service=chat))

pulumi.export("url", inference.url)
pulumi.export("generation", inference.generation)
pulumi.export("evidence", inference.evidence)
