"""What is wrong with a declaration, as a value; the same type wherever something is judged.

This module imports nothing of ours, so that every room can speak it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Literal

PART_LEAST = 3
"""Shortest name that is taken for the beginning of another."""

Severity = Literal["error", "warning"]
"""`error` stops a preview; `warning` is shown and lets it go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong with one place of a declaration."""

    code: str
    """`TND0021`; the code never changes its meaning, `explain` tells its story."""
    severity: Severity
    path: str
    """The field in the user's words: `chat.decode.block_tokens`."""
    message: str
    """What is wrong, with the values, and what users see when it goes unnoticed."""
    fix: str
    """What to change."""
    source: str
    """Where the rule comes from: engine file and version, RFC, issue."""

    def below(self, prefix: str) -> "Finding":
        """The same finding as seen from a value that holds this one under `prefix`."""
        path = f"{prefix}.{self.path}" if prefix and self.path else prefix or self.path
        return replace(self, path=path)


class DeclarationError(ValueError):
    """A declaration that cannot be accepted; carries every finding, `str()` is the whole report."""

    def __init__(self, findings: Iterable[Finding]) -> None:
        self.findings = tuple(findings)
        super().__init__(report(self.findings))


def report(findings: Iterable[Finding]) -> str:
    """Findings as plain text: grouped by path, errors first within a path, then a line that counts.

    Returns the empty string when there is nothing to say.
    """
    groups: dict[str, list[Finding]] = {}
    for finding in findings:
        groups.setdefault(finding.path, []).append(finding)
    if not groups:
        return ""
    lines: list[str] = []
    for path, group in groups.items():
        lines.append(path)
        for finding in sorted(group, key=lambda each: each.severity == "warning"):
            lines += [f"  {line}" for line in _body(finding)]
    lines.append(_count([finding for group in groups.values() for finding in group]))
    return "\n".join(lines)


def render_finding(finding: Finding) -> str:
    """One finding as plain text, its path first."""
    return "\n".join([finding.path, *(f"  {line}" for line in _body(finding))])


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` most likely stands for; None when nothing is near.

    A name that only says more or less than a known one (`H100-80GB` for `H100`) goes before one that is spelt
    alike (`A100-80GB`).
    """
    by_lower = {each.lower(): each for each in known}
    given = name.lower()
    part = [each for each in by_lower if min(len(each), len(given)) >= PART_LEAST and _is_part(each, given)]
    found = sorted(part, key=lambda each: (given.startswith(each), abs(len(each) - len(given))))[
        :1
    ] or get_close_matches(given, by_lower, n=1, cutoff=0.6)
    return by_lower[found[0]] if found else None


def _body(finding: Finding) -> list[str]:
    return [
        f"{finding.code} {finding.severity}: {finding.message}",
        f"  fix: {finding.fix}",
        f"  source: {finding.source}",
    ]


def _is_part(one: str, other: str) -> bool:
    return one.startswith(other) or other.startswith(one)


def _count(findings: list[Finding]) -> str:
    errors = sum(finding.severity == "error" for finding in findings)
    warnings = len(findings) - errors
    parts = [
        f"{number} {word}{'s' if number != 1 else ''}"
        for number, word in ((errors, "error"), (warnings, "warning"))
        if number
    ]
    codes = sorted({finding.code for finding in findings})
    return f"{', '.join(parts)}; `tandem explain {codes[0]}` tells more"
