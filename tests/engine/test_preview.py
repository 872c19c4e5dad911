"""A preview of two services with five mistakes, by the real Pulumi CLI: all of them at once, and nothing touched."""

import json

import pytest

from pulumi_tandem import check
from tests.engine.conftest import Project

pytestmark = pytest.mark.engine

PROGRAM = """
import pulumi
import pulumi_tandem as tandem
from pulumi_tandem import local

pair = {"prefill": tandem.Pool(gpu="cpu"), "context_tokens": 2048, "engine": tandem.Vllm(version="0.32.0")}
model = tandem.Model(name="SmolLM2-135M-Instruct")
chat = tandem.Service(
    name="chat",
    model=model,
    decode=tandem.Pool(gpu="cpu", kv_dtype="fp8", block_tokens=192),
    **pair,
)
code = tandem.Service(
    name="code",
    model=model,
    decode=tandem.Pool(gpu="cpu", dtype="float16", context_tokens=4096, env={"UCX_TLS": "rc"}),
    **pair,
)
tandem.accept(chat, code)
for service in (chat, code):
    pulumi.export(service.name, local.Inference(service.name, local.InferenceArgs(service=service)).url)
"""
MISTAKES = {
    "TND0012": "chat.decode.kv_dtype",
    "TND0020": "chat.decode.block_tokens",
    "TND0011": "code.decode.dtype",
    "TND0031": "code.decode.context_tokens",
    "TND0050": "code.decode.env.UCX_TLS",
}


def test_one_preview_tells_five_mistakes_in_two_services(project: Project) -> None:
    """Each with its field, code, consequence, fix and source; no traceback, and nothing created."""
    (project.folder / "__main__.py").write_text(PROGRAM)
    project.run("pulumi", "stack", "init", project.stack)

    preview = project.preview()

    # Pulumi puts its own word before the first line of a message.
    told = [line.strip().removeprefix("error: ") for line in preview.stdout.splitlines()]
    assert preview.returncode != 0
    assert "Traceback" not in preview.stdout
    for code, path in MISTAKES.items():
        at = next(number for number, line in enumerate(told) if line.startswith(f"{code} error: "))
        assert path in told[:at]
        assert told[at + 1].startswith("fix: ")
        assert told[at + 2] == f"source: {check.RULES[code].source}"
    assert f"{len(MISTAKES)} errors; `tandem explain TND0011` tells more" in preview.stdout
    state = json.loads(project.run("pulumi", "stack", "export", "--stack", project.stack).stdout)
    assert not (state["deployment"] or {}).get("resources")
    assert not project.state_dir.exists()
