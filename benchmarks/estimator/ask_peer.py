"""Asks aiconfigurator for predictions; runs in its environment, which has nothing of ours.

Standard input: one row of silicon_sample.csv as JSON per line. Standard output: per row its id, what was predicted
and in what time, or why nothing was. The peer is asked as the row states; if that fails, with the quantisation left
to its own judgement; if that fails too, with the database mode HYBRID, which fills gaps in its measurements by rules.
"""

import contextlib
import json
import logging
import os
import sys
import time
import warnings
from typing import Any

warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)

from aiconfigurator.cli.api import cli_estimate  # noqa: E402  # pyright: ignore[reportMissingImports]

MODELS = {
    "meta-llama/Llama-3.1-70B": "meta-llama/Meta-Llama-3.1-70B",
    "meta-llama/Llama-3.1-8B-Instruct": "meta-llama/Meta-Llama-3.1-8B",
    "nvidia/Llama-3.1-8B-Instruct-FP8": "meta-llama/Meta-Llama-3.1-8B",
    "nvidia/DeepSeek-R1-NVFP4": "deepseek-ai/DeepSeek-R1",
    "nvidia/Qwen3-32B-NVFP4": "Qwen/Qwen3-32B",
    "zhipuai/GLM-5": "zai-org/GLM-5",
}
"""Names of the same shapes that it has without the network."""
SIZES = ("tp_size", "pp_size", "attention_dp_size", "moe_tp_size", "moe_ep_size", "batch_size", "num_workers")


def question(row: dict[str, str]) -> dict[str, Any]:
    """Arguments of its `estimate` for a row."""
    asked: dict[str, Any] = {
        "model_path": MODELS.get(row["model_path"], row["model_path"]),
        "system_name": row["system"],
        "mode": row["mode"],
        "backend_name": row["backend"],
        "isl": int(row["isl"]),
        "osl": int(row["osl"]),
    }
    for role in ("",) if row["mode"] == "agg" else ("prefill_", "decode_"):
        for size in SIZES:
            value = int(float(row.get(f"{role}{size}") or 0))
            if value:
                asked[f"{role}{size}"] = value
    for kind in ("gemm_quant_mode", "moe_quant_mode"):
        if row[kind] and not row["model_path"].startswith("openai/"):
            asked[kind] = row[kind]
    return asked


def answer(row: dict[str, str]) -> dict[str, Any]:
    """Prediction of one row, or the reason of the last failure."""
    asked = question(row)
    bare = {key: value for key, value in asked.items() if not key.endswith("_quant_mode")}
    failure = ""
    for attempt in (asked, bare, {**bare, "database_mode": "HYBRID"}):
        started_s = time.perf_counter()
        try:
            found = cli_estimate(**attempt)
        except (Exception, SystemExit) as error:  # noqa: BLE001
            failure = f"{type(error).__name__}: {error}"[:200]
            continue
        took_s = time.perf_counter() - started_s
        mode = attempt.get("database_mode", "SILICON")
        return {"ttft_ms": found.ttft, "tpot_ms": found.tpot, "took_s": took_s, "database": mode}
    return {"failure": failure}


def main() -> None:
    """One answer per line, as soon as there is one; the peer's own chatter goes nowhere."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere:  # noqa: PTH123
        for line in sys.stdin:
            row = json.loads(line)
            with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
                found = answer(row)
            print(json.dumps({"id": row["id"], **found}), flush=True)


if __name__ == "__main__":
    main()
