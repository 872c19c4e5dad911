"""The catalog's rows, held against each other and against arithmetic."""

import pytest

from pulumi_tandem import catalog
from pulumi_tandem.declare.model import GIB

VERSIONS = ["0.32.0", "0.33.0"]


@pytest.mark.parametrize("name", catalog.names("gpus"))
def test_a_gpu_is_sane(name: str):
    row = catalog.gpu(name)
    assert row.source
    assert (row.memory_gib > 0) == (row.compute_capability > 0) == (name != "cpu")


@pytest.mark.parametrize("name", catalog.names("models"))
def test_a_model_is_sane(name: str):
    row = catalog.model(name)
    shape = row.architecture
    assert row.source
    assert shape.attention_heads % shape.kv_heads == 0
    assert shape.sliding_layers <= shape.layers
    assert (shape.sliding_layers > 0) == (shape.sliding_window_tokens > 0)
    assert (row.parameters is None) != (row.weights_gib is None)


@pytest.mark.parametrize("name", [name for name in catalog.names("models") if catalog.model(name).parameters])
def test_the_published_count_of_parameters_is_that_of_the_shape(name: str):
    row = catalog.model(name)
    assert row.architecture.parameters == row.parameters


def test_a_quantised_checkpoint_weighs_less_than_its_shape_at_two_bytes():
    row = catalog.model("gpt-oss-120b")
    assert row.weights_gib is not None
    assert 0.2 < row.weights_gib * GIB / (row.architecture.parameters * 2) < 0.35


@pytest.mark.parametrize("version", VERSIONS)
def test_an_engine_is_sane(version: str):
    row = catalog.engine("vllm", version)
    assert row.source
    assert set(row.cpu_kv_dtypes) <= set(row.kv_dtypes)
    assert row.cpu_block_multiple == 32


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
