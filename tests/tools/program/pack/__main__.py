"""Forbids one word."""

from pulumi_policy import (
    EnforcementLevel,
    PolicyPack,
    ReportViolation,
    ResourceValidationArgs,
    ResourceValidationPolicy,
)


def forbidden(args: ResourceValidationArgs, report_violation: ReportViolation) -> None:
    if args.props.get("word") == "forbidden":
        report_violation("the word is forbidden", None)


PolicyPack(
    name="words",
    enforcement_level=EnforcementLevel.MANDATORY,
    policies=[ResourceValidationPolicy(name="no-forbidden", description="no forbidden word", validate=forbidden)],
)
