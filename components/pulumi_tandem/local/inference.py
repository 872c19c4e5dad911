"""The component: a service as processes on this machine."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pulumi.dynamic import Resource

import pulumi
from pulumi_tandem.accept import accept
from pulumi_tandem.declare import Service
from pulumi_tandem.finding import DeclarationError
from pulumi_tandem.local.elsewhere import cluster_only
from pulumi_tandem.local.provider import GatewayProvider, ProofProvider, WorkerProvider
from pulumi_tandem.lower import Fleet, lower


@dataclass(frozen=True, kw_only=True)
class InferenceArgs:
    """Where a service runs on this machine; what it is, is the `service`."""

    service: Service
    address: str = "127.0.0.1"
    """The address that the gateway and the engines listen on. Default: loopback, nobody else reaches them."""
    port: int = 0
    """The gateway's port. Default 0: a free one, kept for as long as the stack lives."""
    engine_python: str | None = None
    """The interpreter of the environment that holds the engine. Default: `$TANDEM_ENGINE_PYTHON`."""
    api_keys_file: str | None = None
    """A file with one API key a line, mode 0600. Default: no keys; fit for loopback only."""
    state_dir: str | None = None
    """Where the stack's supervisor keeps its files. Default: `.tandem/STACK` beside Pulumi.yaml."""


class Worker(Resource, module="local", name="Worker"):
    """One engine with its agent."""

    url: pulumi.Output[str]
    agent_url: pulumi.Output[str]


class Gateway(Resource, module="local", name="Gateway"):
    """The front door."""

    url: pulumi.Output[str]


class Proof(Resource, module="local", name="Proof"):
    """The proof of one generation, and its activation."""

    evidence: pulumi.Output[dict[str, Any]]


class Inference(pulumi.ComponentResource):
    """A service as real processes under one supervisor: a gateway, the workers of each pool, the proof."""

    url: pulumi.Output[str]
    """Where the OpenAI API is served."""
    generation: pulumi.Output[str]
    """The generation that serves."""
    evidence: pulumi.Output[dict[str, Any]]
    """What the proof measured: see `pulumi_tandem.prove.evidence.Evidence`."""

    def __init__(self, name: str, args: InferenceArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        """Declare the service's processes.

        Raises:
            pulumi.RunError: the declaration has errors (all of them are in the message), or no engine is installed.
        """
        (resolved,) = accept(args.service)
        if elsewhere := cluster_only(resolved):
            raise pulumi.RunError(str(DeclarationError(elsewhere)))
        try:
            fleet = lower(resolved)
        except DeclarationError as error:
            raise pulumi.RunError(str(error)) from None
        place = _place(args)
        super().__init__("tandem:local:Inference", name, {}, opts)
        own = pulumi.ResourceOptions(parent=self)

        gateway = Gateway(
            GatewayProvider(),
            f"{name}-gateway",
            {
                **place,
                "name": f"{name}-gateway",
                "spec": fleet.gateway.model_dump_json(),
                "port": args.port,
                "api_keys_file": args.api_keys_file or "",
                "url": None,
            },
            opts=own,
        )
        workers = _workers(name, fleet, place, args, own)
        proof = Proof(
            ProofProvider(),
            _generation_name(f"{name}-proof", fleet),
            {
                **place,
                "service": fleet.service,
                "generation": fleet.generation,
                "proof": fleet.proof.model_dump_json(),
                "workers": list(workers),
                "url": gateway.url,
                "model": fleet.gateway.served_names[0],
                "disaggregated": fleet.disaggregated,
                "context_tokens": fleet.gateway.context_tokens_max,
                "evidence": None,
            },
            opts=pulumi.ResourceOptions(parent=self, depends_on=[gateway, *workers.values()]),
        )
        self.url = gateway.url
        self.generation = proof.evidence.apply(lambda evidence: evidence["generation"])
        self.evidence = proof.evidence
        self.register_outputs({"url": self.url, "generation": self.generation, "evidence": self.evidence})


def _workers(
    name: str,
    fleet: Fleet,
    place: dict[str, Any],
    args: InferenceArgs,
    own: pulumi.ResourceOptions,
) -> dict[str, Worker]:
    workers: dict[str, Worker] = {}
    for pool in fleet.pools:
        for index in range(pool.workers):
            worker = f"{_generation_name(f'{name}-{pool.name}', fleet)}-{index}"
            workers[worker] = Worker(
                WorkerProvider(),
                worker,
                {
                    **place,
                    "name": worker,
                    "spec": pool.spec.model_dump_json(),
                    "python": _engine_python(args),
                    "url": None,
                    "agent_url": None,
                },
                opts=own,
            )
    return workers


def _generation_name(name: str, fleet: Fleet) -> str:
    # A generation in the name makes an update new resources and then deletes; without it, a replacement in place.
    return name if fleet.in_place else f"{name}-{fleet.generation}"


def _place(args: InferenceArgs) -> dict[str, Any]:
    folder = args.state_dir or f"{pulumi.get_root_directory() or '.'}/.tandem/{pulumi.get_stack()}"
    return {"state_dir": str(Path(folder).resolve()), "address": args.address}


def _engine_python(args: InferenceArgs) -> str:
    python = args.engine_python or os.environ.get("TANDEM_ENGINE_PYTHON")
    if python and os.access(python, os.X_OK):
        return python
    where = "engine_python" if args.engine_python else "$TANDEM_ENGINE_PYTHON"
    msg = (
        f"no engine to run: {where} is {python or 'not set'}, which is no interpreter; without it no worker can start. "
        f"Run `python tools/bootstrap.py` and use `tools/run pulumi ...`, or pass engine_python"
    )
    raise pulumi.RunError(msg)
