"""Lowered flags, read by the parser of the engine that is installed; no engine is started."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.builders import MODEL_PATH, fleet
from tests.lower.test_lower import SERVICES

PARSE = Path(__file__).with_name("parse_flags.py")


@pytest.fixture(scope="module")
def parsed() -> dict[str, list[dict[str, Any]]]:
    """What vLLM understood, by the declaration's name and in the order of its pools."""
    workers = [
        (name, [word.replace("$(TANDEM_PORT_HTTP)", "8000") for word in pool.spec.argv[3:]])
        for name, service in SERVICES.items()
        for pool in fleet(service).pools
    ]
    run = subprocess.run(
        [os.environ["TANDEM_ENGINE_PYTHON"], str(PARSE)],
        input=json.dumps([words for _, words in workers]),
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    understood: dict[str, list[dict[str, Any]]] = {}
    for (name, _), values in zip(workers, json.loads(run.stdout), strict=True):
        understood.setdefault(name, []).append(values)
    return understood


def test_the_engine_understands_every_flag(parsed: dict[str, list[dict[str, Any]]]):
    assert set(parsed) == set(SERVICES)


def test_the_engine_understands_a_pair_as_it_was_declared(parsed: dict[str, list[dict[str, Any]]]):
    prefill, decode = parsed["laptop-pair"]
    assert prefill == {
        "model": MODEL_PATH,
        "served": ["SmolLM2-135M-Instruct"],
        "sequences": 8,
        "batch": 2048,
        "block": 128,
        "kv_bytes": 1024**3,
        "stop_s": 10,
        "role": "kv_producer",
        "lease_s": 30,
    }
    assert decode == {**prefill, "role": "kv_consumer"}


def test_an_aggregated_engine_is_told_nothing_of_transfer(parsed: dict[str, list[dict[str, Any]]]):
    (only,) = parsed["laptop-single"]
    assert (only["role"], only["served"]) == (None, ["smol", "chat"])
