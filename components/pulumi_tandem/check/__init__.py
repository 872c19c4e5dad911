"""Judges a resolved service: every rule runs, every finding is reported together.

Input: `Resolved`. Output: findings, in the order of the rules' codes. A rule is a small pure function
registered with a code; rules of a kind share a module.
"""

from pulumi_tandem.check import (
    capacity,
    connector,
    declared,
    devices,
    fabric,
    flexible,
    front,
    handover,
    hardware,
    hybrid,
    machines,
    network,
    pair,
    placement,
    planned,
    pods,
    process,
    ranks,
    router,
    scaling,
    shape,
    tensorrt,
)
from pulumi_tandem.check.explain import explain
from pulumi_tandem.check.registry import REGISTERED, Rule
from pulumi_tandem.declare import Service
from pulumi_tandem.finding import DeclarationError, Finding, render_finding, report
from pulumi_tandem.resolve import Resolved, resolve

__all__ = ["MODULES", "RULES", "Rule", "accept", "check", "explain", "render_finding", "report"]

MODULES = (
    declared,
    pair,
    shape,
    capacity,
    process,
    connector,
    hybrid,
    ranks,
    hardware,
    tensorrt,
    handover,
    planned,
    fabric,
    machines,
    network,
    placement,
    pods,
    scaling,
    front,
    devices,
    router,
    flexible,
)
"""Modules that register rules when they are imported."""

RULES: dict[str, Rule] = dict(sorted(REGISTERED.items()))
"""Every rule by its code, in the order of the codes."""


def check(resolved: Resolved) -> tuple[Finding, ...]:
    """All findings of one service, errors and warnings, in the order of their codes."""
    judged = flexible.as_pair(resolved)
    findings = (finding for rule in RULES.values() for finding in rule.findings(judged))
    return tuple(flexible.of_one_pool(findings, resolved))


def accept(*services: Service) -> tuple[Resolved, ...]:
    """The services resolved, when no rule has an error for any of them.

    Raises DeclarationError with every finding of all services, warnings too.
    """
    accepted: list[Resolved] = []
    findings = list(declared.same_names(services))
    for service in services:
        try:
            resolved = resolve(service)
        except DeclarationError as error:
            findings.extend(error.findings)
            continue
        accepted.append(resolved)
        findings.extend(check(resolved))
    if any(finding.severity == "error" for finding in findings):
        raise DeclarationError(findings)
    return tuple(accepted)
