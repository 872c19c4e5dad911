"""What a user may write, and what is said of what may not be written."""

import subprocess
import sys
from typing import Any

import pytest

import pulumi_tandem as tandem
from tests.builders import laptop_pair


def refused(make: Any, **fields: Any) -> dict[str, tandem.Finding]:
    """The findings of a refused value, by path."""
    with pytest.raises(tandem.DeclarationError) as caught:
        make(**fields)
    return {finding.path: finding for finding in caught.value.findings}


def test_equal_declarations_are_equal_values():
    assert laptop_pair() == laptop_pair()
    assert laptop_pair() != laptop_pair(context_tokens=1024)


def test_a_declared_value_cannot_be_changed():
    with pytest.raises(Exception, match="frozen"):
        laptop_pair().prefill.workers = 2  # type: ignore[misc,union-attr]


def test_a_typo_is_told_with_the_nearest_field():
    found = refused(tandem.Pool, gpu="H100", blok_tokens=64)
    assert found["Pool.blok_tokens"].code == "TND0001"
    assert found["Pool.blok_tokens"].message == "Pool has no field 'blok_tokens'"
    assert found["Pool.blok_tokens"].fix == "write 'block_tokens'"


def test_a_field_like_no_other_is_told_with_all_fields():
    found = refused(tandem.Vllm, zzz=1)
    assert found["Vllm.zzz"].fix.startswith("use one of: attention_backend, ")


def test_everything_that_is_wrong_comes_out_at_once_with_its_path():
    found = refused(
        tandem.Service,
        name="chat",
        model={"nam": "x"},
        engine="vllm",
        prefill={"gpu": "H100", "workers": 0},
        decode={"gpu": 1},
        rollout="generation",
        contekst_tokens=1,
    )
    assert {path: finding.code for path, finding in found.items()} == {
        "chat.model.name": "TND0002",
        "chat.model.nam": "TND0001",
        "chat.engine": "TND0002",
        "chat.prefill.workers": "TND0002",
        "chat.decode.gpu": "TND0002",
        "chat.rollout": "TND0002",
        "chat.contekst_tokens": "TND0001",
    }
    assert found["chat.rollout"].fix == "write 'generations'"


@pytest.mark.parametrize(
    ("noun", "fields", "path", "message", "fix"),
    [
        (tandem.Pool, {}, "Pool.gpu", "Pool needs 'gpu'", "give it a value"),
        (tandem.Pool, {"gpu": "cpu", "workers": 0}, "Pool.workers", "0 is out of range", "give at least 1"),
        (
            tandem.Pool,
            {"gpu": "cpu", "memory_fraction": 1.5},
            "Pool.memory_fraction",
            "1.5 is out of range",
            "give at most 1",
        ),
        (tandem.Pool, {"gpu": "cpu", "kv_cache_gib": 0}, "Pool.kv_cache_gib", "0 is out of range", "give more than 0"),
        (
            tandem.Pool,
            {"gpu": "cpu", "sequences": "x"},
            "Pool.sequences",
            "'x' (str) is not a whole number",
            "give a whole number",
        ),
        (
            tandem.Pool,
            {"gpu": "cpu", "sequences": 1.5},
            "Pool.sequences",
            "1.5 is not a whole number",
            "give a whole number",
        ),
        (tandem.Pool, {"gpu": "cpu", "extra_args": 1}, "Pool.extra_args", "1 (int) is not a tuple", "give a tuple"),
        (tandem.Pool, {"gpu": "cpu", "env": {"A": 1}}, "Pool.env.A", "1 (int) is not text", "give text"),
        (
            tandem.Pool,
            {"gpu": "cpu", "engine": 1},
            "Pool.engine",
            "1 (int) is not tandem.Vllm(...) or tandem.TensorRtLlm(...)",
            "give tandem.Vllm(...) or tandem.TensorRtLlm(...)",
        ),
        (
            tandem.Transfer,
            {"transport": "rmda"},
            "Transfer.transport",
            "'rmda' is none of the known values",
            "write 'rdma'",
        ),
        (tandem.Model, {"name": ""}, "Model.name", "'' is empty", "give at least one character"),
    ],
)
def test_words_are_the_users(noun: Any, fields: dict[str, Any], path: str, message: str, fix: str):
    finding = refused(noun, **fields)[path]
    assert (finding.message, finding.fix) == (message, fix)


@pytest.mark.parametrize("name", ["Chat", "chat_1", "1chat", "chat-", "", "c" * 41])
def test_a_service_name_must_do_for_every_platform(name: str):
    with pytest.raises(tandem.DeclarationError):
        laptop_pair(name=name)


def test_no_word_of_pydantic_reaches_the_user():
    with pytest.raises(tandem.DeclarationError) as caught:
        tandem.Service(name="chat", model=3, prefill={"gpu": None, "env": []}, transfer={"lease_s": "soon"})  # type: ignore[arg-type]
    text = str(caught.value).lower()
    assert not [
        word
        for word in ("pydantic", "validation error", "http", "input should", "extra inputs", "value_error")
        if word in text
    ]


POOL = tandem.Pool(gpu="cpu")


@pytest.mark.parametrize(
    ("pools", "message"),
    [
        ({}, "no pool is given"),
        ({"prefill": POOL}, "prefill is given without decode"),
        ({"decode": POOL}, "decode is given without prefill"),
        ({"serve": POOL, "decode": POOL}, "serve is given together with decode; a service has one way of serving"),
        (
            {"serve": POOL, "prefill": POOL, "decode": POOL},
            "serve is given together with prefill and decode; a service has one way of serving",
        ),
    ],
)
def test_a_service_has_one_way_of_serving(pools: dict[str, Any], message: str):
    found = refused(tandem.Service, name="chat", model=tandem.Model(name="x"), **pools)
    assert (found["chat"].code, found["chat"].message) == ("TND0003", message)


def test_the_package_loads_without_pulumi():
    program = "import sys, pulumi_tandem; sys.exit('pulumi' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_accept_is_a_function_whoever_imports_its_module_first():
    program = "import pulumi_tandem as t; from pulumi_tandem.accept import accept; assert t.accept is accept"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_everything_exported_is_there():
    assert all(getattr(tandem, name) is not None for name in tandem.__all__)
    assert set(dir(tandem)) == set(tandem.__all__)
