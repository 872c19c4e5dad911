"""The scorer: what counts as caught, and how much of the corpus is."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

import pulumi_tandem as tandem
from tests.corpus.score import judge, main, score, summary, violated
from tests.corpus.translate import translate

CASES = Path(__file__).with_name("cases.jsonl")
ENGINE_LAYERS = {"engine-compat", "parallelism", "quantisation", "memory"}


def read() -> list[dict[str, Any]]:
    return [json.loads(line) for line in CASES.read_text("utf-8").splitlines()]


def case(**changes: Any) -> dict[str, Any]:
    """A pair of which nothing is wrong, with further keys for both roles or one."""
    role = {
        "image": "registry.example/vllm-worker:0.33.0",
        "kv_connector": "NixlConnector",
        "tensor_parallel": 1,
        "gpus_per_worker": 1,
        "env": {"VLLM_NIXL_SIDE_CHANNEL_HOST": "fieldRef:status.podIP"},
        "gpu": "H100-80GB",
    }
    made: dict[str, Any] = {
        "id": "mine",
        "kind": "allow",
        "layer": "engine-compat",
        "engine": "vllm",
        "engine_version": "0.33.0",
        "prefill": {**role, "kv_role": "kv_producer"},
        "decode": {**role, "kv_role": "kv_consumer"},
        "cluster": {},
        "model": {
            "name": "meta-llama/Llama-3.1-8B-Instruct",
            "params_b": 8.03,
            "layers": 32,
            "attention_heads": 32,
            "kv_heads": 8,
            "head_dim": 128,
            "dtype": "bfloat16",
            "max_position": 131072,
        },
    }
    for key, value in changes.items():
        if key in {"prefill", "decode", "model"}:
            made[key] = {**made[key], **value}
        else:
            made[key] = value
    return made


def write(tmp_path: Path, *cases: dict[str, Any]) -> str:
    file = tmp_path / "cases.jsonl"
    file.write_text("\n".join(json.dumps(each) for each in cases) + "\n", "utf-8")
    return str(file)


def test_a_good_case_passes():
    assert judge(case()).verdict == "passed"


def test_an_error_at_another_part_than_the_cases_is_another_reason():
    wrong = case(kind="reject", decode={"kv_cache_dtype": "fp8"})
    assert judge(wrong).verdict == "caught"
    assert judge({**wrong, "layer": "memory"}).verdict == "other reason"


def test_a_second_rule_with_an_error_is_another_reason():
    assert judge(case(kind="reject", decode={"kv_cache_dtype": "fp8", "block_size": 24})).verdict == "other reason"


def test_a_warning_hits_a_good_case_unless_it_may():
    warned = case(prefill={"kv_role": "kv_both"}, decode={"kv_role": "kv_both"})
    assert judge(warned).verdict == "hit"
    assert judge({**warned, "warn_ok": True}).verdict == "passed"
    assert judge({**warned, "kind": "warn"}).verdict == "caught"
    assert judge({**warned, "kind": "reject"}).verdict == "missed"


def test_a_key_that_nobody_knows_is_told():
    assert judge(case(decode={"warp_drive": 9})).note == "not translated: decode.warp_drive"


def test_a_case_of_another_engine_is_left_out_for_what_it_declares():
    verdict = judge(case(kind="reject", engine="any", decode={"mem_fraction": 0.9}))
    assert (verdict.verdict, verdict.note) == ("left out", "an engine that Tandem does not know: SGLang (mem_fraction)")


def test_a_case_that_cannot_be_said_is_left_out_and_not_crashed_on():
    unknown = judge(case(prefill={"gpu": "ABACUS"}))
    assert (unknown.verdict, unknown.note) == ("left out", "a GPU that the catalog does not have: ABACUS")
    bare = case()
    del bare["model"]["layers"]
    assert (judge(bare).verdict, judge(bare).note) == ("left out", "the case does not say 'layers'")


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("0.2x", "0.29.0"),
        ("0.33", "0.33.0"),
        ("0.41.0", "0.33.0"),
        ("dynamo 1.3.1", "0.23.0"),
        ("lws 0.10", "0.33.0"),
        ("0.9.2", "0.9.2"),
    ],
)
def test_a_release_is_the_nearest_that_is_known(given: str, taken: str):
    service = translate(case(engine_version=given)).service()
    assert service.prefill is not None and isinstance(service.prefill, tandem.Pool)
    assert service.prefill.engine is not None and service.prefill.engine.version == taken


def test_the_name_the_words_and_the_kind_of_a_case_change_no_finding():
    for each in read():
        renamed = deepcopy(each) | {"id": "x", "kind": "allow", "why": "", "symptom": "", "fix": "", "source": ""}
        assert judge(renamed).codes == judge(each).codes


def test_the_part_of_a_case_holds_what_it_declares_unusually_and_nothing_ordinary():
    assert violated(case(decode={"block_size": 24})) == ("block_tokens",)
    assert violated(case()) == ()


def test_the_bounds_decide_the_exit_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    caught, missed = case(kind="reject", decode={"kv_cache_dtype": "fp8"}), case(kind="reject")
    file = write(tmp_path, caught, missed, case())
    assert main([file]) == 0
    assert main([file, "--min-caught", "0.5", "--max-false", "0"]) == 0
    assert main([file, "--min-caught", "0.51"]) == 1
    assert main([write(tmp_path, case(decode={"kv_cache_dtype": "fp8"})), "--max-false", "0"]) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "caught 0/0 reject, 0/0 warn, 0 for another reason; false 1/1 allow"


def test_json_is_one_verdict_a_line_before_the_sum(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    main([write(tmp_path, case()), "--json"])
    first, last = capsys.readouterr().out.splitlines()
    assert json.loads(first)["verdict"] == "passed"
    assert last.startswith("caught 0/0 reject")


def test_every_case_of_the_engines_side_is_caught_and_no_good_one_is_hit():
    verdicts = [each for each in score(read()) if each.layer in ENGINE_LAYERS and each.verdict != "left out"]
    assert [each.id for each in verdicts if each.verdict not in {"caught", "passed"}] == []
    assert summary(verdicts) == "caught 43/43 reject, 7/7 warn, 0 for another reason; false 0/22 allow"
