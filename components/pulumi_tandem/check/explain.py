"""The story of a rule, for a terminal."""

from textwrap import fill

from pulumi_tandem.check.registry import REGISTERED
from pulumi_tandem.finding import nearest

_WIDTH = 100


def explain(code: str) -> str:
    """What a code means, what it does to users, and where it comes from. Raises KeyError for an unknown code."""
    rule = REGISTERED.get(code.upper())
    if rule is None:
        near = nearest(code, REGISTERED)
        raise KeyError(f"there is no rule {code!r}" + (f"; did you mean {near}?" if near else ""))
    heading = f"{rule.code} {rule.severity}: {rule.title}"
    return "\n".join([heading, "", fill(rule.story, _WIDTH), "", f"source: {rule.source}"])
