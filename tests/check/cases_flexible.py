"""Rows for rules of workers that change between the phases: see cases.py."""

import pulumi_tandem as tandem
from pulumi_tandem import Autoscaler, Connector, Ratio, TensorRtLlm
from tests.builders import llama_flexible, llama_pair
from tests.check.cases import Broken

PARALLEL = ("--prefill-context-parallel-size", "2")

BROKEN = [
    Broken(
        "TND0310",
        llama_flexible(engine=TensorRtLlm()),
        ("llama.flexible.engine",),
        "TensorRT-LLM servers are made for one phase",
        also=("TND0104",),
    ),
    Broken(
        "TND0311",
        llama_flexible({"connector": Connector(name="NixlPushConnector")}),
        ("llama.flexible.connector.name",),
        "NixlPushConnector does not let a worker change",
    ),
    Broken(
        "TND0312",
        llama_flexible({"connector": Connector(role="kv_producer")}),
        ("llama.flexible.connector.role",),
        "may lose KV that it fetched",
        also=("TND0063",),
    ),
    Broken(
        "TND0313",
        llama_flexible({"extra_args": PARALLEL}),
        ("llama.flexible.extra_args",),
        "--prefill-context-parallel-size 2 makes a worker one that only reads",
    ),
    Broken("TND0314", llama_flexible({"workers": 2}), ("llama.flexible.workers",), "none changes sides"),
    Broken(
        "TND0315",
        llama_flexible(prefill_per_decode=Ratio(at_least=0.5, at_most=2.0)),
        ("llama.prefill_per_decode",),
        "flexible workers have none for long",
    ),
    Broken("TND0315", llama_flexible(pods="paired"), ("llama.pods",), "no phase of their own"),
]

FINE = [
    ("TND0310", llama_flexible()),
    ("TND0310", llama_pair(engine=TensorRtLlm())),
    ("TND0311", llama_flexible({"connector": Connector(name="NixlPullConnector")})),
    ("TND0311", llama_pair(transfer=tandem.Transfer(connector=Connector(name="NixlPushConnector")))),
    ("TND0312", llama_flexible({"connector": Connector(role="kv_consumer")})),
    ("TND0312", llama_pair({"connector": Connector(role="kv_producer")})),
    ("TND0313", llama_pair({"extra_args": PARALLEL})),
    ("TND0314", llama_flexible({"workers": 3})),
    ("TND0314", llama_flexible({"workers": 2, "autoscalers": (Autoscaler(workers_min=2, workers_max=4),)})),
    ("TND0314", llama_pair()),
    ("TND0315", llama_pair(prefill_per_decode=Ratio(at_least=0.5, at_most=2.0))),
]
