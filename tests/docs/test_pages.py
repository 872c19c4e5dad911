"""What the documentation says of the code, held against the code."""

import json
import re
from pathlib import Path

import msgspec
import pytest

from bootstrap import STEPS
from ladder import RUNGS
from pulumi_tandem.lower import ProofSpec
from pulumi_tandem.prove.judge import Answer, KvCounters, Measurement, judge
from pulumi_tandem.prove.plan import Candidate, Probe
from tandem_worker.agent.decide import Exit
from tandem_worker.dialects import vllm
from tandem_worker.gateway import resume
from tandem_worker.gateway.pair import Route
from tandem_worker.gateway.request import GENERATING, ClientRequest
from tandem_worker.gateway.resume import Role
from tests.docs import pages
from tests.docs.pages import ASKED, CONDITIONS, ERRORS, EXIT_WORDS, FOUND, ROOT, documents, refusals
from tests.docs.snippets import blocks


def asked(path: str, **fields: object) -> ClientRequest:
    body = msgspec.json.decode(json.dumps(fields), type=dict[str, msgspec.Raw])
    return ClientRequest(GENERATING[path], body, stream=True)


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_made_from_the_code_is_up_to_date(path: Path):
    assert path.read_text("utf-8") == pages.as_made(path), "run: tools/run python -m tests.docs.pages"


def test_every_block_has_its_place():
    marked = {found["name"] for path in documents() for found in pages.MARK.finditer(path.read_text("utf-8"))}
    assert marked == set(pages.BLOCKS)


@pytest.mark.parametrize("name", CONDITIONS)
def test_the_allow_list_takes_what_the_page_says(name: str):
    condition, rule = CONDITIONS[name], resume.RULES[name]
    assert rule.allows(None) or name in ("messages", "prompt")
    assert rule.allows(condition.allowed)
    assert not rule.allows(condition.refused)


def test_every_other_field_is_allowed_at_any_value():
    for name, rule in resume.RULES.items():
        if name not in CONDITIONS:
            assert all(rule.allows(sample) for sample in (None, False, 0, 7, "a", ["a"], {"a": 1})), name


def test_every_role_is_told():
    assert set(pages.WHAT_BECOMES) == set(Role)


@pytest.mark.parametrize(
    ("why", "fields"),
    [
        ("", {"tools": [{"type": "function"}], "tool_choice": "none"}),
        ("tools", {"tools": [{"type": "function"}]}),
        ("", {"seed": 1, "temperature": 0}),
        ("seed", {"seed": 1}),
        ("thinking_token_budget", {"thinking_token_budget": 5}),
    ],
)
def test_what_depends_on_another_field(why: str, fields: dict[str, object]):
    assert resume.why_not(asked("/v1/chat/completions", **fields), 2048) == why


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages"])
def test_other_forms_are_not_resumed(path: str):
    assert resume.why_not(asked(path), 2048) != ""


@pytest.mark.parametrize("reason", ASKED)
def test_reasons_that_the_client_gives(reason: str):
    _, path, fields = ASKED[reason]
    assert vllm.why_whole(asked(path, **fields)) == reason


def test_reasons_are_complete():
    gateway = ROOT / "worker/tandem_worker"
    source = "\n".join(file.read_text("utf-8") for file in (gateway / "gateway").glob("*.py"))
    dialect = (gateway / "dialects/vllm.py").read_text("utf-8")
    given = re.search(r"def why_whole.*?(?=\ndef )", dialect, re.DOTALL)
    assert given
    split_up = {reason for _, _, reason in vllm._SPLITS_UP}
    assert split_up | set(re.findall(r'return "([a-z_-]+)"', given[0])) == set(ASKED)
    for reason in FOUND:
        template = reason.replace("prefill", "{phase}").replace("decode", "{phase}")
        assert f'"{reason}"' in source or f'"{template}"' in source, reason
    assert Route("a").reason == ""


def test_errors_are_complete():
    told = {(status, kind, code) for code, (status, kind, _) in ERRORS.items()}
    for status, kind, code in refusals():
        assert (status, kind, code) in told or any(status == "..." and each[1:] == (kind, code) for each in told), code
    assert {code for _, _, code in refusals()} == set(ERRORS)


def test_exit_codes_are_complete():
    assert set(EXIT_WORDS) == set(Exit)


def test_the_ladder_is_told():
    rows = re.findall(r"^\| (\w+) \| (\d+) s \|", (ROOT / "CONTRIBUTING.md").read_text("utf-8"), re.MULTILINE)
    assert rows == [(rung.name, str(rung.budget_s)) for rung in RUNGS]


def test_the_steps_are_told():
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    rows = re.findall(r"^\| (\w+) \|[^|]+\|[^|]*\|$", text, re.MULTILINE)
    assert [step.name for step in STEPS] == [row for row in rows if row != "step"]


def test_a_failed_proof_reads_as_shown():
    prefill = Candidate("chat-prefill-5fbfbf0d-0", "prefill", ("prefill",), "")
    decode = Candidate("chat-decode-5fbfbf0d-0", "decode", ("decode",), "")
    answer = Answer("Paris", ("Paris",), (1.0,), 40, 1.0, 1.0, "disaggregated", prefill.name, decode.name)
    spec = ProofSpec(transport="tcp", kv_gb_per_s_min=0.0, keep_failed=False, divergence_gap_nats_max=0.5)
    still = Measurement(Probe(prefill, decode, "?", "s", "question"), answer, answer, KvCounters(), "tcp")
    evidence, reasons = judge("chat", "5fbfbf0d", (still,), spec)
    assert evidence is None
    (shown,) = blocks("text", "failed proof")
    assert reasons[0] in shown.text
