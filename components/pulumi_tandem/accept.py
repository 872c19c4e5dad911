"""The gate before the first resource: a declaration with errors never gets as far as Pulumi."""

import pulumi
from pulumi_tandem import check, plan
from pulumi_tandem.declare import Service
from pulumi_tandem.finding import DeclarationError
from pulumi_tandem.resolve import Resolved


def accept(*services: Service) -> tuple[Resolved, ...]:
    """Check every service of a stack; call it before the stack's first resource.

    Warnings go to Pulumi's diagnostics.

    Raises:
        pulumi.RunError: with every finding of every service, as one message.
    """
    try:
        resolved = check.accept(*services)
    except DeclarationError as error:
        raise pulumi.RunError(str(error)) from None
    warnings = [finding for one in resolved for finding in check.check(one)]
    for finding in (*warnings, *(finding for service in services for finding in plan.judge(service))):
        pulumi.log.warn(check.render_finding(finding))
    return resolved
