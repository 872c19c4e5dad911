"""Findings as text, JSON, SARIF and annotations of GitHub."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pulumi_tandem.check import RULES, report
from pulumi_tandem.finding import Finding

SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


class Format(StrEnum):
    """How `tandem check` prints."""

    TEXT = "text"
    JSON = "json"
    SARIF = "sarif"
    GITHUB = "github"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """One file and what is wrong with it."""

    file: Path
    findings: tuple[Finding, ...]


def written(checked: Sequence[Checked], form: Format) -> str:
    """All files' findings in the form asked for."""
    return _WRITERS[form](checked)


def _text(checked: Sequence[Checked]) -> str:
    """A report for each file, under the file's name where there are several."""
    parts: list[str] = []
    for one in checked:
        told = report(one.findings)
        if not told:
            parts.append(f"{one.file}: no findings")
        elif len(checked) == 1:
            parts.append(told)
        else:
            parts.append(f"{one.file}:\n{told}")
    return "\n\n".join(parts)


def _json(checked: Sequence[Checked]) -> str:
    """One list; the file of each finding stands with it."""
    rows = [{**dataclasses.asdict(finding), "file": str(one.file)} for one in checked for finding in one.findings]
    return json.dumps(rows, indent=2)


def _github(checked: Sequence[Checked]) -> str:
    """Workflow commands, which GitHub shows at the line that declares the service.

    Source: GitHub Docs, workflow commands for GitHub Actions; property values also escape colons and commas.
    """
    lines: list[str] = []
    for one in checked:
        for finding in one.findings:
            title = _escaped(f"{finding.code} {finding.path}", more=True)
            place = f"file={_escaped(str(one.file), more=True)},line={_line(one.file, finding)},title={title}"
            lines.append(f"::{finding.severity} {place}::{_escaped(_words(finding))}")
    return "\n".join(lines)


def _sarif(checked: Sequence[Checked]) -> str:
    """A log of the Static Analysis Results Interchange Format. Source: OASIS, SARIF 2.1.0."""
    codes = sorted({finding.code for one in checked for finding in one.findings})
    driver = {
        "name": "tandem",
        "version": version("pulumi-tandem"),
        "rules": [_sarif_rule(code) for code in codes],
    }
    results = [_sarif_result(one.file, finding, codes) for one in checked for finding in one.findings]
    run = {"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}
    return json.dumps({"$schema": SARIF_SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2)


def _sarif_rule(code: str) -> dict[str, Any]:
    rule = RULES[code]
    return {
        "id": code,
        "shortDescription": {"text": rule.title},
        "fullDescription": {"text": rule.story},
        "help": {"text": f"Source: {rule.source}"},
        "defaultConfiguration": {"level": rule.severity},
    }


def _sarif_result(file: Path, finding: Finding, codes: list[str]) -> dict[str, Any]:
    place = {
        "physicalLocation": {
            "artifactLocation": {"uri": file.as_posix()},
            "region": {"startLine": _line(file, finding)},
        },
        "logicalLocations": [{"fullyQualifiedName": finding.path}],
    }
    return {
        "ruleId": finding.code,
        "ruleIndex": codes.index(finding.code),
        "level": finding.severity,
        "message": {"text": f"{finding.path}: {_words(finding)}"},
        "locations": [place],
    }


def _words(finding: Finding) -> str:
    return f"{finding.message}. Fix: {finding.fix}. Source: {finding.source}"


def _line(file: Path, finding: Finding) -> int:
    """The first line where the service's name stands in quotes; 1 where none does, as when it is computed."""
    name = finding.path.partition(".")[0]
    lines = file.read_text("utf-8").splitlines() if file.exists() else []
    return next((number for number, line in enumerate(lines, 1) if f'"{name}"' in line or f"'{name}'" in line), 1)


def _escaped(text: str, *, more: bool = False) -> str:
    pairs = [("%", "%25"), ("\r", "%0D"), ("\n", "%0A"), *([(":", "%3A"), (",", "%2C")] if more else [])]
    for mark, code in pairs:
        text = text.replace(mark, code)
    return text


_WRITERS: dict[Format, Callable[[Sequence[Checked]], str]] = {
    Format.TEXT: _text,
    Format.JSON: _json,
    Format.SARIF: _sarif,
    Format.GITHUB: _github,
}
