"""The register of rules and how a rule speaks."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from pulumi_tandem.finding import Finding, Severity
from pulumi_tandem.resolve import Resolved


@dataclass(frozen=True, slots=True, kw_only=True)
class Breach:
    """One place where a rule does not hold; the rule adds its code, severity and source."""

    path: str
    """Below the service's name: `decode.block_tokens`."""
    message: str
    fix: str


Judge = Callable[[Resolved], Iterator[Breach]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One thing that must hold, and its story."""

    code: str
    title: str
    """What must hold, as a sentence."""
    severity: Severity = "error"
    story: str
    """What the engine does, what users see when the rule is broken unnoticed, and why."""
    source: str
    judge: Judge | None = None
    """None: the rule is held where values are made (declare, resolve) or over several services."""

    def findings(self, resolved: Resolved) -> Iterator[Finding]:
        """The breaches of this rule in one service."""
        for breach in self.judge(resolved) if self.judge else ():
            yield self.finding(resolved, breach)

    def finding(self, resolved: Resolved, breach: Breach, *, source: str | None = None) -> Finding:
        """One breach of it in a service; `source`: who holds the rule there, when it is not the rule's own."""
        return Finding(
            code=self.code,
            severity=self.severity,
            path=f"{resolved.name}.{breach.path}" if breach.path else resolved.name,
            message=breach.message,
            fix=breach.fix,
            source=source or self.source,
        )


REGISTERED: dict[str, Rule] = {}
"""Every rule by its code, in the order in which modules were imported."""


def rule(*, code: str, title: str, story: str, source: str, severity: Severity = "error") -> Callable[[Judge], Judge]:
    """Registers a judge under a code that no other rule has."""

    def add(judge: Judge) -> Judge:
        register(Rule(code=code, title=title, severity=severity, story=story, source=source, judge=judge))
        return judge

    return add


def register(rule: Rule) -> None:
    """Adds a rule; one without a judge is held elsewhere, and is here so that `explain` knows it."""
    assert rule.code not in REGISTERED, f"two rules are called {rule.code}"
    REGISTERED[rule.code] = replace(rule, story=" ".join(rule.story.split()))
