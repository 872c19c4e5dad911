"""Looked-up pass times are those of the estimate."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pulumi_tandem import catalog
from pulumi_tandem.estimate import EngineSetup
from pulumi_tandem.estimate.forward import pass_time
from pulumi_tandem.estimate.work import Batch
from pulumi_tandem.simulate.declared import pass_times

SETUPS = [
    EngineSetup(gpu=catalog.gpu("H100"), shape=catalog.model(name).architecture)
    for name in ("Llama-3.1-8B-Instruct", "gpt-oss-120b")
]
TABLES = [pass_times(setup) for setup in SETUPS]


@settings(max_examples=100, deadline=None)
@given(
    which=st.integers(0, 1),
    prompt=st.one_of(st.just(0), st.integers(1, 16_384)),
    before=st.integers(0, 30_000),
    sequences=st.integers(0, 256),
    context=st.integers(1, 30_000),
)
def test_a_looked_up_time_is_within_three_percent(which: int, prompt: int, before: int, sequences: int, context: int):
    if not prompt and not sequences:
        return
    size = (prompt, before + prompt / 2 if prompt else 0.0, sequences, context if sequences else 0.0)
    batch = Batch(prompt_tokens=size[0], prompt_context_tokens=size[1], sequences=size[2], context_tokens=size[3])
    assert TABLES[which](*size) == pytest.approx(pass_time(SETUPS[which], batch).total_s, rel=0.03)
