"""The catalog's rows, held against each other and against arithmetic."""

import pytest

import pulumi_tandem as tandem
from pulumi_tandem import catalog, check
from pulumi_tandem.declare.model import GIB
from pulumi_tandem.lower import lower
from tests.builders import llama_pair

VERSIONS = ["0.32.0", "0.33.0"]


@pytest.mark.parametrize("name", catalog.names("gpus"))
def test_a_gpu_is_sane(name: str):
    row = catalog.gpu(name)
    assert row.source
    assert (row.memory_gib > 0) == (row.compute_capability > 0) == (name != "cpu")


@pytest.mark.parametrize("name", catalog.names("gpus"))
def test_a_narrower_type_is_never_slower_in_hardware(name: str):
    row = catalog.gpu(name)
    assert row.fp4_tflops == 0 or row.fp4_tflops > row.fp8_tflops > row.bf16_tflops
    assert (row.fp8_tflops > 0) == (row.compute_capability >= 89)
    assert (row.fp4_tflops > 0) == (row.compute_capability >= 100)
    assert row.fp8_tflops == 0 or 1.9 < row.fp8_tflops / row.bf16_tflops < 2.1  # a sparse figure would show


@pytest.mark.parametrize("name", catalog.names("instances"))
def test_an_instance_is_sane(name: str):
    row = catalog.instance(name)
    assert row.source
    assert catalog.gpu(row.gpu).architecture in {None, row.arch}
    assert row.card0[0] == "interface", "the primary interface is never EFA only"
    assert (row.efa_interfaces > 0) == (row.efa_gbit_per_s > 0)
    assert row.efa_interfaces * row.efa_gbit_per_s == pytest.approx(row.network_gbit_per_s if row.efa_interfaces else 0)
    cards_with_efa = row.network_cards - (0 if "efa" in row.card0 else 1)
    assert row.efa_interfaces in {0, cards_with_efa}
    assert set(row.capacity) <= {"on-demand", "spot", "capacity-block"}


def test_only_the_first_card_of_b300_takes_no_efa():
    without = [name for name in catalog.names("instances") if (row := catalog.instance(name)).efa_interfaces
               and "efa-only" not in row.card0]  # fmt: skip
    assert without == ["p6-b300.48xlarge"]


def test_a_price_has_a_date_and_is_none_where_none_was_found():
    price = catalog.price("p5.48xlarge")
    assert price is not None
    assert (price.usd_per_hour, price.region, price.date) == (55.04, "us-east-1", "2026-01-19")
    assert catalog.price("p5e.48xlarge") is None
    with pytest.raises(catalog.UnknownName):
        catalog.price("p5.96xlarge")


@pytest.mark.parametrize("name", catalog.names("models"))
def test_a_model_is_sane(name: str):
    row = catalog.model(name)
    shape = row.architecture
    assert row.source
    assert shape.attention_heads % shape.kv_heads == 0
    assert shape.sliding_layers < shape.layers
    assert (shape.sliding_layers > 0) == (shape.sliding_window_tokens > 0)


@pytest.mark.parametrize("name", catalog.names("models"))
def test_the_published_count_of_parameters_is_that_of_the_shape(name: str):
    """Llama, Mistral and Mixtral to the last weight; the others have small norms, biases and sinks besides."""
    row = catalog.model(name)
    exact = row.organisation in {"meta-llama", "mistralai", "HuggingFaceTB"}
    assert row.architecture.parameters == pytest.approx(row.parameters, rel=0 if exact else 1.1e-3)


@pytest.mark.parametrize(
    ("name", "billions"),
    [("gpt-oss-20b", 3.61), ("gpt-oss-120b", 5.13), ("DeepSeek-V3", 36.6), ("Qwen3-235B-A22B", 21.6)],
)
def test_the_published_count_of_active_parameters_is_that_of_the_shape(name: str, billions: float):
    """gpt-oss: arXiv 2508.10925, table 1, which counts as we do; the others less their input embedding."""
    assert catalog.model(name).architecture.active_parameters / 1e9 == pytest.approx(billions, rel=2e-3)


@pytest.mark.parametrize(("name", "published_gib"), [("gpt-oss-20b", 12.8), ("gpt-oss-120b", 60.8)])
def test_a_quantised_checkpoint_weighs_what_is_published(name: str, published_gib: float):
    """Source: gpt-oss model card, arXiv 2508.10925, table 1."""
    assert catalog.model(name).architecture.weights_bytes("bfloat16") / GIB == pytest.approx(published_gib, rel=5e-3)


@pytest.mark.parametrize("version", VERSIONS)
def test_an_engine_is_sane(version: str):
    row = catalog.engine("vllm", version)
    assert row.source
    assert set(row.cpu_kv_dtypes) <= set(row.kv_dtypes)
    assert row.cpu_block_multiple == 32


@pytest.mark.parametrize("version", VERSIONS)
def test_a_worker_tells_every_factor_that_its_engine_compares(version: str):
    """And the revision of the weights, which vLLM does not compare."""
    (resolved,) = check.accept(llama_pair(engine=tandem.Vllm(version=version)))
    for pool in lower(resolved).pools:
        assert set(pool.spec.factors) == {*catalog.engine("vllm", version).factors, "revision"}


def test_a_release_between_two_rows_is_checked_as_the_older():
    row = catalog.engine("tensorrt-llm", "1.3.0rc4")
    assert (row.version, row.deployable) == ("1.3.0rc4", False)
    assert "block_tokens" in row.factors
    assert catalog.version("1.0.0rc4") < catalog.version("1.3.0rc4")


def test_two_releases_do_not_shake_hands():
    assert len({catalog.engine("vllm", version).connector_version for version in VERSIONS}) == len(VERSIONS)


def test_a_model_is_found_with_its_organisation_and_not_with_another():
    assert catalog.model("meta-llama/Llama-3.1-8B-Instruct") == catalog.model("Llama-3.1-8B-Instruct")
    with pytest.raises(catalog.UnknownName) as caught:
        catalog.model("mistralai/Llama-3.1-8B-Instruct")
    assert caught.value.nearest == "meta-llama/Llama-3.1-8B-Instruct"


@pytest.mark.parametrize(
    ("asked", "near"),
    [("h100", "H100"), ("A100", "A100-40GB"), ("H100-80GB", "H100"), ("L40", "L40S"), ("toaster", None)],
)
def test_an_unknown_name_gives_the_nearest(asked: str, near: str | None):
    with pytest.raises(catalog.UnknownName) as caught:
        catalog.gpu(asked)
    assert caught.value.nearest == near
