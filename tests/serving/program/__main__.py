"""A service whose declaration the tests change between updates: `TANDEM_TEST_DECLARATION` holds the changes as JSON."""

import json
import os

import pulumi
import pulumi_tandem as tandem
from pulumi_tandem import local

changes = json.loads(os.environ.get("TANDEM_TEST_DECLARATION", "{}"))
pool = {
    "gpu": "cpu",
    "sequences": 8,
    **changes.get("pool", {}),
}
# a core each: two engines whose threads wait for each other on the same cores stand still
pools = {
    "prefill": tandem.Pool(cpu_cores="0", **pool, **changes.get("prefill", {})),
    "decode": tandem.Pool(cpu_cores="1", **pool, **changes.get("decode", {})),
}
if "flexible" in changes:
    pools = {"flexible": tandem.Pool(**{**pool, **changes["flexible"]})}
chat = tandem.Service(
    name="chat",
    # float32: a resumed stream then equals the unbroken one token for token; in bf16 the kernels' numerics differ
    model=tandem.Model(
        name="SmolLM2-135M-Instruct",
        path=os.environ["TANDEM_MODEL_DIR"],
        dtype="float32",
    ),
    engine=tandem.Vllm(version="0.32.0", tool_call_parser="hermes"),
    **pools,
    context_tokens=2048,
    transfer=tandem.Transfer(lease_s=6, **changes.get("transfer", {})),
    **{
        "limits": tandem.Limits(stall_timeout_s=15),
        "grace": tandem.Grace(drain_timeout_s=60),
        **changes.get("service", {}),
    },
)

inference = local.Inference("chat", local.InferenceArgs(service=chat))

pulumi.export("url", inference.url)
pulumi.export("generation", inference.generation)
pulumi.export("evidence", inference.evidence)
