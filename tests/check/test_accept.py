"""The gate of a stack, in Pulumi's words."""

import pytest

import pulumi
import pulumi_tandem as tandem
from tests.builders import laptop_pair, llama_pair


@pytest.fixture
def warned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    told: list[str] = []
    monkeypatch.setattr(pulumi.log, "warn", told.append)
    return told


def test_a_stack_is_refused_with_everything_at_once(warned: list[str]):
    with pytest.raises(pulumi.RunError) as caught:
        tandem.accept(laptop_pair(context_tokens=9000), llama_pair({"dtype": "float16"}))
    text = str(caught.value)
    assert [code for code in ("TND0011", "TND0030") if code in text] == ["TND0011", "TND0030"]
    assert "Traceback" not in text
    assert warned == []


def test_an_accepted_stack_is_told_of_its_warnings(warned: list[str]):
    (resolved,) = tandem.accept(llama_pair({"gpus_per_worker": 2, "tensor_parallel": 1}))
    assert resolved.name == "llama"
    assert ["TND0026" in text for text in warned] == [True]


def test_a_clean_stack_is_told_nothing(warned: list[str]):
    tandem.accept(laptop_pair())
    assert warned == []
