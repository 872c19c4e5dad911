"""What findings and stories look like on a terminal."""

import re

import pytest

from pulumi_tandem.check import RULES, accept, explain, render_finding, report
from pulumi_tandem.finding import DeclarationError, Finding, nearest
from tests.builders import laptop_pair, llama_pair

FIRST = Finding(code="TND0026", severity="warning", path="a.b", message="m1", fix="f1", source="s1")
SECOND = Finding(code="TND0021", severity="error", path="a.c", message="m2", fix="f2", source="s2")
THIRD = Finding(code="TND0033", severity="error", path="a.b", message="m3", fix="f3", source="s3")


def test_a_report_is_grouped_by_path_with_errors_first():
    assert (
        report([FIRST, SECOND, THIRD])
        == """a.b
  TND0033 error: m3
    fix: f3
    source: s3
  TND0026 warning: m1
    fix: f1
    source: s1
a.c
  TND0021 error: m2
    fix: f2
    source: s2
2 errors, 1 warning; `tandem explain TND0021` tells more"""
    )


def test_nothing_to_say_is_an_empty_report():
    assert report([]) == ""


def test_one_finding_is_rendered_with_its_path():
    assert render_finding(FIRST) == "a.b\n  TND0026 warning: m1\n    fix: f1\n    source: s1"


def test_an_error_says_all_that_it_carries():
    error = DeclarationError([FIRST, SECOND])
    assert str(error) == report([FIRST, SECOND])
    assert isinstance(error, ValueError)


def test_the_report_of_a_stack_holds_both_values_consequence_fix_and_source():
    with pytest.raises(DeclarationError) as caught:
        accept(llama_pair({"block_tokens": 64}, {"block_tokens": 32}), laptop_pair(context_tokens=9000))
    text = str(caught.value)
    assert "a block is 32 tokens on decode and 64 on prefill" in text
    assert "the first hand-off would fail" in text
    assert "fix: set block_tokens=64 on both" in text
    assert "3 errors; `tandem explain TND0020` tells more" in text


@pytest.mark.parametrize("code", sorted(RULES))
def test_every_rule_tells_its_story(code: str):
    rule = RULES[code]
    text = explain(code)
    assert text.startswith(f"{code} {rule.severity}: {rule.title}\n")
    assert text.endswith(f"source: {rule.source}")
    assert len(rule.story) > 80
    assert rule.title[0].islower() and not rule.title.endswith(".")
    assert max(len(line) for line in text.splitlines()[1:-1]) <= 100


def test_explain_takes_small_letters_and_knows_the_nearest_code():
    assert explain("tnd0001") == explain("TND0001")
    with pytest.raises(KeyError, match="did you mean TND0010"):
        explain("TND00100")


def test_codes_are_in_the_order_of_their_numbers_and_of_one_form():
    assert list(RULES) == sorted(RULES)
    assert all(re.fullmatch(r"TND\d{4}", code) for code in RULES)


@pytest.mark.parametrize(("name", "found"), [("vllmm", "vllm"), ("VLLM", "vllm"), ("", None), ("xyz", None)])
def test_the_nearest_name(name: str, found: str | None):
    assert nearest(name, ["vllm", "trtllm"]) == found
