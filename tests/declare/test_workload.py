"""Loads and objectives as users write them."""

from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pulumi_tandem as tandem


def test_a_number_means_that_all_are_alike():
    workload = tandem.Workload(requests_per_s=1, prompt_tokens=3000, output_tokens=150)
    assert workload.prompts == tandem.Lengths(mean=3000, variation=0)
    assert workload.prompts.at(0.95) == 3000


@given(p50=st.floats(1, 1e5), ratio=st.floats(1, 50))
def test_lengths_from_percentiles_have_these_percentiles(p50: float, ratio: float):
    lengths = tandem.Lengths.from_percentiles(p50=p50, p95=p50 * ratio)
    assert lengths.at(0.5) == pytest.approx(p50)
    assert lengths.at(0.95) == pytest.approx(p50 * ratio)


@pytest.mark.parametrize(
    ("make", "path", "says"),
    [
        (lambda: tandem.Lengths.from_percentiles(p50=9, p95=4), "Lengths", "p50 is 9 tokens and p95 is 4"),
        (
            lambda: tandem.Workload(requests_per_s=1, prompt_tokens=0, output_tokens=1),
            "Workload.prompt_tokens.mean",
            "0 is out of range",
        ),
        (lambda: tandem.Objectives(ttft_ms=1, tpot_ms=1, quantile=95), "Objectives.quantile", "95 is out of range"),
        (lambda: tandem.Auto(gpus=cast(Any, "H100")), "Auto.gpus", "'H100' (str) is not a tuple"),
    ],
)
def test_what_cannot_be_meant_is_told_in_the_users_words(make, path: str, says: str):
    with pytest.raises(tandem.DeclarationError) as told:
        make()
    assert [finding.path for finding in told.value.findings] == [path]
    assert says in str(told.value)


def test_a_pool_of_a_wrong_type_is_told_at_its_field():
    with pytest.raises(tandem.DeclarationError) as told:
        tandem.Service(name="chat", model=tandem.Model(name="a"), serve=cast(Any, "auto"))
    assert {finding.path for finding in told.value.findings} == {"chat.serve"}
    assert "give tandem.Pool(...) or tandem.Auto(...)" in str(told.value)


def test_a_pool_that_is_to_be_planned_needs_a_load_and_objectives():
    with pytest.raises(tandem.DeclarationError) as told:
        tandem.Service(
            name="chat",
            model=tandem.Model(name="a"),
            serve=tandem.Auto(gpus=("H100",)),
            objectives=tandem.Objectives(ttft_ms=500, tpot_ms=30),
        )
    assert [finding.code for finding in told.value.findings] == ["TND0302"]
    assert "give workload=tandem.Workload(...)" in str(told.value)
