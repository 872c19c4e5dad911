"""Runs in the engine's environment: reads a JSON list of argument lists and parses each as vLLM's server would."""

# pyright: reportMissingImports=false, reportUnknownVariableType=false
# vLLM is in the engine's environment, and the type checker in the library's.

import json
import sys

from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.utils.argparse_utils import FlexibleArgumentParser

parsed: list[dict[str, object]] = []
for words in json.load(sys.stdin):
    arguments = make_arg_parser(FlexibleArgumentParser()).parse_args(words)
    validate_parsed_serve_args(arguments)
    transfer = arguments.kv_transfer_config
    parsed.append(
        {
            "model": arguments.model,
            "served": arguments.served_model_name,
            "sequences": arguments.max_num_seqs,
            "batch": arguments.max_num_batched_tokens,
            "block": arguments.block_size,
            "kv_bytes": arguments.kv_cache_memory_bytes,
            "stop_s": arguments.shutdown_timeout,
            "role": transfer and transfer.kv_role,
            "lease_s": transfer and transfer.kv_connector_extra_config["kv_lease_duration"],
        }
    )
json.dump(parsed, sys.stdout)
