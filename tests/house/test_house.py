"""The house's rules, held over the whole repository; a breach is told by file and line."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.house import rules
from tests.house.rules import Source

SHIPPED = ("components", "worker", "tools", "stacks", "policies")
EVERYTHING = (*SHIPPED, "tests", "benchmarks")

HELD = [
    (rules.too_long, EVERYTHING),
    (rules.badly_named, EVERYTHING),
    (rules.unfinished, EVERYTHING),
    (rules.impure, SHIPPED),
    (rules.opens_files, SHIPPED),
    (rules.against_the_way, SHIPPED),
    (rules.undocumented, SHIPPED),
]

Rule = Callable[[Source], Iterator[str]]


@pytest.mark.parametrize(("rule", "folders"), HELD, ids=[rule.__name__ for rule, _ in HELD])
def test_the_house_is_in_order(rule: Rule, folders: tuple[str, ...]):
    breaches = [breach for source in rules.sources(*folders) for breach in rule(source)]
    assert not breaches, "\n" + "\n".join(breaches)


def test_the_rules_see_the_repository():
    seen = {source.path for source in rules.sources(*EVERYTHING)}
    assert {Path("components/pulumi_tandem/lower/vllm.py"), Path("worker/tandem_worker/contract.py")} <= seen


CORE = "components/pulumi_tandem"


@pytest.mark.parametrize(
    ("rule", "path", "text", "told"),
    [
        (rules.impure, f"{CORE}/check/x.py", "def f():\n    import time", ":2: the pure room 'check' imports time"),
        (
            rules.impure,
            f"{CORE}/resolve.py",
            "from os import environ",
            ":1: the pure room 'resolve' imports os.environ",
        ),
        (rules.opens_files, f"{CORE}/catalog/x.py", "open('a')", ":1: the pure room 'catalog' opens a file"),
        (rules.against_the_way, f"{CORE}/declare/x.py", "import pulumi_tandem.lower", "which comes after it"),
        (rules.against_the_way, f"{CORE}/check/x.py", "from pulumi_tandem import lower", "which comes after it"),
        (rules.against_the_way, f"{CORE}/check/x.py", "from ..lower import vllm", "which comes after it"),
        (rules.against_the_way, f"{CORE}/aws/x.py", "from pulumi_tandem.local import paths", "which comes after it"),
        (rules.against_the_way, f"{CORE}/lower/x.py", "from tandem_worker.agent import spec", "the contract only"),
        (rules.against_the_way, f"{CORE}/check/x.py", "import tandem_worker.contract", "only lower knows"),
        (rules.against_the_way, "worker/tandem_worker/x.py", "import pulumi", "a distribution of its own"),
        (rules.against_the_way, "worker/tandem_worker/contract.py", "import tandem_worker.tree", "nothing of ours"),
        (rules.against_the_way, "policies/x.py", "from pulumi_tandem import lower", "a second path"),
        (rules.badly_named, "tools/utils/x.py", "", "says nothing"),
        (rules.badly_named, "worker/tandem_worker/_helpers.py", "", "says nothing"),
        (rules.too_long, "tools/x.py", "x = 1\n" * 501, "501 lines"),
        (rules.too_long, "tools/x.py", "def f():\n" + "    x = 1\n" * 60, "f has 61 lines"),
        (rules.undocumented, f"{CORE}/declare/x.py", '"""Doc."""\nclass X:\n    pass', ":2: X has no docstring"),
        (rules.undocumented, f"{CORE}/declare/x.py", "", "the module has no docstring"),
        (rules.unfinished, "tools/x.py", "x = 1  # TO" + "DO later", ":1: "),
    ],
)
def test_a_breach_is_seen(rule: Rule, path: str, text: str, told: str):
    (breach,) = rule(Source(Path(path), text))
    assert breach.startswith(path)
    assert told in breach


@pytest.mark.parametrize(
    ("rule", "path", "text"),
    [
        (rules.impure, f"{CORE}/local/x.py", "import os"),
        (rules.impure, f"{CORE}/lower/x.py", "from tandem_worker.contract import Port"),
        (rules.against_the_way, f"{CORE}/lower/x.py", "from tandem_worker.contract import Port"),
        (rules.against_the_way, f"{CORE}/lower/x.py", "from pulumi_tandem.lower.vllm import worker"),
        (rules.against_the_way, f"{CORE}/__init__.py", "from pulumi_tandem import lower"),
        (rules.against_the_way, f"{CORE}/cli/x.py", "from pulumi_tandem.local import paths"),
        (rules.against_the_way, "policies/x.py", "from pulumi_tandem.catalog import gpu"),
        (rules.badly_named, "tools/based.py", ""),
        (rules.too_long, "tools/x.py", "x = 1\n" * 500),
        (rules.undocumented, f"{CORE}/declare/x.py", '"""Doc."""\ndef _f():\n    def g(): ...'),
        (rules.undocumented, f"{CORE}/local/x.py", "def f(): ..."),
    ],
)
def test_a_look_alike_is_left_alone(rule: Rule, path: str, text: str):
    assert list(rule(Source(Path(path), text))) == []
