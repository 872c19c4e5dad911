"""Codes 0001 to 0009: what is held where values are made, and over several services."""

from collections.abc import Iterable, Iterator

from pulumi_tandem.check.registry import REGISTERED, Rule, register
from pulumi_tandem.declare import Service
from pulumi_tandem.finding import Finding

register(
    Rule(
        code="TND0001",
        title="a declared value has the fields that are known, and no others",
        story="""A field that nobody reads is a setting that does not happen: the service runs with the default, and
        the typo is found in production or never. So an unknown field is refused, with the nearest known name.""",
        source="pulumi_tandem.declare",
    )
)
register(
    Rule(
        code="TND0002",
        title="a field holds a value of its type and in its range",
        story="""Wrong types and numbers out of range are refused when the value is made, with what was given and what
        is wanted, all of them at once.""",
        source="pulumi_tandem.declare",
    )
)
register(
    Rule(
        code="TND0003",
        title="a service is disaggregated (prefill and decode) or aggregated (serve)",
        story="""Prompts are read and answers written either by two pools, with the KV moved between them, or by one
        pool that does both. Half a pair serves nobody, and a third pool would get no requests.""",
        source="pulumi_tandem.declare.service",
    )
)
register(
    Rule(
        code="TND0004",
        title="names of models, GPUs and engine releases are in the catalog",
        story="""Memory, compatibility and bandwidth are computed from the catalog's facts. For a name that is not in it
        nothing could be checked, and a guess would be worse than an error. A model that the catalog does not have is
        declared with its architecture, as its config.json states it.""",
        source="pulumi_tandem.catalog",
    )
)
register(
    Rule(
        code="TND0005",
        title="services of one stack have names of their own",
        story="""Resources, worker names and the fleet's folder are named after the service. Two services of one name
        would take each other's workers.""",
        source="pulumi_tandem.check",
    )
)
register(
    Rule(
        code="TND0006",
        title="what is deployed is among what this version can deploy",
        story="""More can be said and checked than this version of Tandem can start: other engines, older releases,
        other connectors, workers spread over several machines. Such a declaration is judged by all rules, and refused
        by the target that would have to deploy it.""",
        source="pulumi_tandem.lower",
    )
)
register(
    Rule(
        code="TND0007",
        title="a config.json is one of a model whose memory can be computed",
        story="""Model.from_config reads the shape of a model from the config.json that comes with its weights. A key
        that is missing, contradicts another or names a mechanism that has no formula here would make weights, KV and
        time wrong without anybody noticing, so all of them are told and nothing is guessed.""",
        source="transformers' configuration classes",
    )
)


def same_names(services: Iterable[Service]) -> Iterator[Finding]:
    """Services whose name an earlier one has (TND0005)."""
    seen: set[str] = set()
    for service in services:
        if service.name in seen:
            yield Finding(
                code="TND0005",
                severity="error",
                path=f"{service.name}.name",
                message=f"two services of this stack are called {service.name!r}; each would take the other's workers",
                fix="give one of them another name",
                source=REGISTERED["TND0005"].source,
            )
        seen.add(service.name)
