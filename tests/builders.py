"""Declarations to start a test from: each is accepted as it is, and says with keywords what differs."""

from typing import Any

import pulumi_tandem as tandem
from pulumi_tandem.check import check
from pulumi_tandem.finding import Finding
from pulumi_tandem.lower import Fleet, lower
from pulumi_tandem.resolve import resolve

MODEL_PATH = "/models/smollm2"
ONE_H100: dict[str, Any] = {"gpu": "H100"}


def laptop_pair(**changes: Any) -> tandem.Service:
    """SmolLM2 on one CPU prefill and one CPU decode worker."""
    fields: dict[str, Any] = {
        "name": "chat",
        "model": tandem.Model(name="SmolLM2-135M-Instruct", path=MODEL_PATH),
        "engine": tandem.Vllm(version="0.32.0"),
        "prefill": tandem.Pool(gpu="cpu", cpu_cores="0"),
        "decode": tandem.Pool(gpu="cpu", cpu_cores="1"),
        "context_tokens": 2048,
    }
    return tandem.Service(**(fields | changes))


def laptop_single(**changes: Any) -> tandem.Service:
    """SmolLM2 on CPU workers that do both phases."""
    fields: dict[str, Any] = {"prefill": None, "decode": None, "serve": tandem.Pool(gpu="cpu")}
    return laptop_pair(**(fields | changes))


def llama_pair(
    prefill: dict[str, Any] | None = None, decode: dict[str, Any] | None = None, **changes: Any
) -> tandem.Service:
    """Llama 3.1 8B on one H100 for each phase, with further fields for the two pools."""
    fields: dict[str, Any] = {
        "name": "llama",
        "model": tandem.Model(name="Llama-3.1-8B-Instruct", path="/models/llama"),
        "prefill": tandem.Pool(**(ONE_H100 | (prefill or {}))),
        "decode": tandem.Pool(**(ONE_H100 | (decode or {}))),
        "context_tokens": 8192,
    }
    return tandem.Service(**(fields | changes))


def llama_flexible(pool: dict[str, Any] | None = None, **changes: Any) -> tandem.Service:
    """Llama 3.1 8B on four H100 that change between the phases, with further fields for the pool."""
    shape: dict[str, Any] = {"gpu": "H100", "workers": 4}
    fields: dict[str, Any] = {
        "name": "llama",
        "model": tandem.Model(name="Llama-3.1-8B-Instruct", path="/models/llama"),
        "flexible": tandem.Pool(**(shape | (pool or {}))),
        "context_tokens": 8192,
    }
    return tandem.Service(**(fields | changes))


def planned_pair(requests_per_s: float = 8.0, gpus: tuple[str, ...] = ("H100",), **changes: Any) -> tandem.Service:
    """Llama 3.1 8B over EFA, both pools to be planned."""
    fields: dict[str, Any] = {
        "name": "chat",
        "model": tandem.Model(name="Llama-3.1-8B-Instruct"),
        "context_tokens": 8192,
        "prefill": tandem.Auto(gpus=gpus),
        "decode": tandem.Auto(gpus=gpus),
        "workload": tandem.Workload(requests_per_s=requests_per_s, prompt_tokens=3000, output_tokens=150),
        "objectives": tandem.Objectives(ttft_ms=1000, tpot_ms=30),
        "transfer": tandem.Transfer(transport="efa"),
    }
    return tandem.Service(**(fields | changes))


def findings(service: tandem.Service) -> tuple[Finding, ...]:
    """What the rules say of a service."""
    return check(resolve(service))


def codes(service: tandem.Service) -> list[str]:
    """The codes of what the rules say of a service."""
    return [finding.code for finding in findings(service)]


def fleet(service: tandem.Service) -> Fleet:
    """The service lowered, with no rule asked."""
    return lower(resolve(service))


def eks_pair(
    prefill: dict[str, Any] | None = None,
    decode: dict[str, Any] | None = None,
    *,
    nodes: dict[str, Any] | None = None,
    cluster: dict[str, Any] | None = None,
    **changes: Any,
) -> tandem.Service:
    """`llama_pair` over EFA on p5.48xlarge machines of EKS; the dictionaries for pools are fields of their pods."""
    machines = {"instance_type": "p5.48xlarge", "zones": ("us-east-1a",), **(nodes or {})}
    around = {"provider": "eks", "version": "1.34", "fabric": "efa", "node_pools": (tandem.NodePool(**machines),)}
    asked = {"resources": {"vpc.amazonaws.com/efa": 4}, "capabilities": ("IPC_LOCK",)}
    fields: dict[str, Any] = {
        "transfer": tandem.Transfer(transport="efa"),
        "cluster": tandem.Cluster(**(around | (cluster or {}))),
    }
    pods = [{"pod": tandem.Pod(**(asked | (pod or {})))} for pod in (prefill, decode)]
    return llama_pair(*pods, **(fields | changes))
