"""What is checked and not deployed is refused when it is lowered, and not before."""

from typing import Any

import pytest

import pulumi_tandem as tandem
from pulumi_tandem.lower import lower
from pulumi_tandem.resolve import resolve
from tests.builders import codes, llama_pair
from tests.check.cases_tensorrt import servers, trt

REFUSED: dict[str, tuple[tandem.Service, tuple[str, ...]]] = {
    "a candidate of another engine": (
        servers(trt(version="1.3.0rc4"), trt(version="1.3.0rc4")),
        ("llama.prefill.engine.version", "llama.decode.engine.version"),
    ),
    "a transceiver that is given up": (
        servers(trt(transceiver="MPI"), trt(transceiver="MPI")),
        ("llama.prefill.engine.transceiver", "llama.decode.engine.transceiver"),
    ),
    "ranks of TensorRT-LLM that share experts": (servers({"data_parallel": 2}, {}), ("llama.prefill.data_parallel",)),
    "an argument that a shell would take apart": (
        servers({"tensor_parallel": 8, "nodes_per_worker": 2, "extra_args": ("--chat-template", "{{ messages }}")}, {}),
        ("llama.prefill.extra_args",),
    ),
    "an old release": (
        llama_pair(engine=tandem.Vllm(version="0.31.0")),
        ("llama.prefill.engine.version", "llama.decode.engine.version"),
    ),
    "another protocol": (
        llama_pair(transfer=tandem.Transfer(connector=tandem.Connector(name="NixlPushConnector"))),
        ("llama.prefill.connector.name", "llama.decode.connector.name"),
    ),
    "ranks over two nodes": (
        llama_pair({"data_parallel": 3, "tensor_parallel": 2, "nodes_per_worker": 2}),
        ("llama.prefill.data_parallel",),
    ),
    "an image of one's own": (llama_pair(decode={"image": "here/engine:1"}), ("llama.decode.image",)),
    "a slice": (llama_pair({"gpu": "A100-80GB", "mig": "3g.40gb"}, {"gpu": "A100-80GB"}), ("llama.prefill.mig",)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_deployed_is_checked_and_refused_when_it_is_lowered(name: str):
    service, paths = REFUSED[name]
    assert "TND0006" not in codes(service)
    with pytest.raises(tandem.DeclarationError) as caught:
        lower(resolve(service))
    assert [(finding.code, finding.path) for finding in caught.value.findings] == [("TND0006", path) for path in paths]


def test_the_refusal_says_what_to_do():
    with pytest.raises(tandem.DeclarationError) as caught:
        lower(resolve(llama_pair(decode={"image": "here/engine:1"})))
    (finding,) = caught.value.findings
    assert finding.message == "image is 'here/engine:1', which this version of Tandem checks and does not deploy"
    assert finding.fix == "drop image"


def test_what_is_deployed_is_not_refused():
    fields: dict[str, Any] = {"pipeline_parallel": 2}
    assert lower(resolve(llama_pair(fields))).pool("prefill").spec.gpus == 2
