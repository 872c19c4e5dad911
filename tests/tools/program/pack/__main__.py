"""Forbids one word."""

from collections.abc import Callable

from pulumi_policy import (
    EnforcementLevel,
    PolicyPack,
    ResourceValidationArgs,
    ResourceValidationPolicy,
)


def forbidden(args: ResourceValidationArgs, report_violation: Callable[[str], None]) -> None:
    if args.props.get("word") == "forbidden":
        report_violation("the word is forbidden")


PolicyPack(
    name="words",
    enforcement_level=EnforcementLevel.MANDATORY,
    policies=[ResourceValidationPolicy(name="no-forbidden", description="no forbidden word", validate=forbidden)],
)
