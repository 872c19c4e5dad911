"""Declares what the test wrote into declaration.json: the provider's settings and a list of objects."""

import json
from pathlib import Path
from typing import Any

import pulumi_kubernetes

import pulumi

DECLARED = json.loads(Path("declaration.json").read_text())
PROVIDER = pulumi_kubernetes.Provider("cluster", **DECLARED["provider"])
SO_FAR: dict[str, pulumi.CustomResource] = {}


def resolved(value: Any) -> Any:
    """The inputs, with `{"$of": NAME, "field": FIELD}` as the output of a resource declared before."""
    if isinstance(value, dict) and "$of" in value:
        outputs: Any = SO_FAR[value["$of"]]
        return outputs.metadata[value["field"]]
    if isinstance(value, dict) and "$secret" in value:
        return pulumi.Output.secret(value["$secret"])
    if isinstance(value, dict):
        return {key: resolved(member) for key, member in value.items()}
    return [resolved(member) for member in value] if isinstance(value, list) else value


for name, declared in DECLARED["objects"].items():
    options = declared.get("options", {})
    SO_FAR[name] = pulumi.CustomResource(
        declared["type"],
        name,
        {"status": None, **resolved(declared["inputs"])},
        pulumi.ResourceOptions(
            provider=PROVIDER,
            depends_on=[SO_FAR[other] for other in options.get("depends_on", ())],
            id=options.get("id"),
            ignore_changes=options.get("ignore_changes"),
            custom_timeouts=pulumi.CustomTimeouts(**options.get("timeouts", {})),
        ),
    )
    pulumi.export(name, getattr(SO_FAR[name], "metadata", None))
