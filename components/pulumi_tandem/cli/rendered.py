"""`tandem render`: what a file's services become, as processes or as the objects of a cluster."""

import json
import re
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer
import yaml

from pulumi_tandem import check as checks
from pulumi_tandem.cli.program import File, services_of
from pulumi_tandem.cli.refusal import Refusal
from pulumi_tandem.cli.screen import AsJson
from pulumi_tandem.finding import DeclarationError
from pulumi_tandem.kubernetes.refused import not_served
from pulumi_tandem.lower import Fleet, lower
from pulumi_tandem.manifest import Images, Manifest, Setting, manifests
from pulumi_tandem.resolve import Resolved


class Target(StrEnum):
    """What a service is rendered as."""

    PROCESSES = "processes"
    KUBERNETES = "kubernetes"


Of = Annotated[Target, typer.Option(help="Processes with their flags, or the objects of a cluster as YAML.")]
WorkerImage = Annotated[str | None, typer.Option("--image-worker", help="kubernetes: image of engine and agent.")]
GatewayImage = Annotated[str | None, typer.Option("--image-gateway", help="kubernetes: image of gateway and prover.")]
Namespace = Annotated[str, typer.Option(help="kubernetes: where the objects are.")]


def render(
    file: File,
    target: Of = Target.PROCESSES,
    image_worker: WorkerImage = None,
    image_gateway: GatewayImage = None,
    namespace: Namespace = "default",
    as_json: AsJson = False,
) -> None:
    """Print what FILE's services become: exact processes (argv, environment, ports), or the objects of a cluster.

    $(TANDEM_...) stands for what a worker is told where it starts: its address and ports. Objects are those of
    `kubernetes.Inference` without weights, route and transforms, which its arguments say and a service does not; the
    generation differs with them. A service with errors is not rendered; `tandem check` tells them.
    """
    if target is Target.PROCESSES:
        typer.echo(_processes(file, as_json=as_json))
        return
    if image_worker is None or image_gateway is None:
        missing = "--image-worker" if image_worker is None else "--image-gateway"
        raise typer.BadParameter("an object of a cluster names its image", param_hint=missing)
    setting = Setting(images=Images(worker=image_worker, gateway=image_gateway), namespace=namespace)
    objects = _objects(file, setting)
    typer.echo(json.dumps(_list(objects), indent=2) if as_json else _yaml(objects), nl=as_json)


# --- parts ----------------------------------------------------------------------------------------


def _lowered(file: File) -> list[tuple[Resolved, Fleet]]:
    try:
        return [(resolved, lower(resolved)) for resolved in checks.accept(*services_of(file))]
    except DeclarationError as error:
        raise Refusal(str(error)) from None


def _processes(file: File, *, as_json: bool) -> str:
    fleets = [fleet for _, fleet in _lowered(file)]
    if as_json:
        return json.dumps([fleet.model_dump(mode="json") for fleet in fleets], indent=2)
    return "\n".join(_rendered(fleet) for fleet in fleets)


def _objects(file: File, setting: Setting) -> list[Manifest]:
    """Every object of every service, each after what it needs."""
    services = _lowered(file)
    if refused := [finding for resolved, _ in services for finding in not_served(resolved)]:
        raise Refusal(str(DeclarationError(refused)))
    return [child.manifest for service in services for child in manifests(*service, setting).children]


def _list(objects: Sequence[Manifest]) -> Manifest:
    return {"apiVersion": "v1", "kind": "List", "items": list(objects)}


class _Documents(yaml.SafeDumper):
    """YAML that kubectl reads as it was meant: no anchors, and no string that looks like something else."""

    def ignore_aliases(self, data: Any) -> bool:
        """Objects that share labels are written out each."""
        del data
        return True


_WORD = re.compile(r"[A-Za-z/].+", re.DOTALL)
"""What may stand without quotes where YAML allows it. PyYAML would leave a generation such as 1234567e8 and a name
such as y bare, and Go's parsers take them for a number and a truth value."""


def _string(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None if _WORD.fullmatch(text) else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Documents.add_representer(str, _string)


def _yaml(objects: Sequence[Manifest]) -> str:
    return yaml.dump_all(objects, Dumper=_Documents, sort_keys=False, explicit_start=True, width=10_000)


def _rendered(fleet: Fleet) -> str:
    """A fleet as a person reads it: each process with its flags one below the other."""
    lines = [f"{fleet.service}: generation {fleet.generation}"]
    for pool in fleet.pools:
        spec = pool.spec
        lines += ["", f"{pool.name}: {pool.workers} x {spec.engine}, {spec.gpus * spec.nodes} GPUs each"]
        lines += [f"  {name}={value}" for name, value in spec.env.items()]
        lines += [f"  {line}" for line in _flags(spec.argv)]
    gateway = fleet.gateway.model_dump(mode="json", exclude_defaults=True)
    lines += ["", "gateway", *(f"  {name}: {value}" for name, value in gateway.items())]
    return "\n".join(lines)


def _flags(argv: Sequence[str]) -> list[str]:
    """One flag a line, with its values."""
    lines: list[str] = []
    for word in argv:
        if word.startswith("--") and lines:
            lines.append(f"  {word}")
        elif lines:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return [f"{line} \\" for line in lines[:-1]] + lines[-1:]
