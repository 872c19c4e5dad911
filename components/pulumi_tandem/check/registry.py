"""The register of rules and how a rule speaks."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

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
    severity: Severity
    story: str
    """What the engine does, what users see when the rule is broken unnoticed, and why."""
    source: str
    judge: Judge | None
    """None: the rule is held where values are made (declare, resolve) or over several services."""

    def findings(self, resolved: Resolved) -> Iterator[Finding]:
        """The breaches of this rule in one service."""
        for breach in self.judge(resolved) if self.judge else ():
            yield Finding(
                code=self.code,
                severity=self.severity,
                path=f"{resolved.name}.{breach.path}" if breach.path else resolved.name,
                message=breach.message,
                fix=breach.fix,
                source=self.source,
            )


RULES: dict[str, Rule] = {}
"""Every rule by its code, in the order of the codes."""


def rule(*, code: str, title: str, story: str, source: str, severity: Severity = "error") -> Callable[[Judge], Judge]:
    """Registers a judge under a code that no other rule has."""

    def register(judge: Judge) -> Judge:
        note(code=code, title=title, story=story, source=source, severity=severity, judge=judge)
        return judge

    return register


def note(
    *, code: str, title: str, story: str, source: str, severity: Severity = "error", judge: Judge | None = None
) -> None:
    """Registers a rule; without a judge, one that is held elsewhere, so that `explain` knows it."""
    assert code not in RULES, f"two rules are called {code}"
    RULES[code] = Rule(
        code=code, title=title, severity=severity, story=" ".join(story.split()), source=source, judge=judge
    )
