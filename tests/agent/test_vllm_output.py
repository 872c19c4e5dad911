"""What vLLM says on its output."""

import pytest

from tandem_worker.dialects.vllm_output import has_one_core, says_work_is_done


def test_hears_that_the_work_is_done() -> None:
    """The line of vLLM 0.32, with its prefix; the lines around it are something else."""
    prefix = "(EngineCore pid=12639) INFO 11-23 16:29:50 "

    assert says_work_is_done(
        f"{prefix}[core.py:1666] [shutdown] EngineCore: request processing complete; starting resource teardown"
    )
    assert not says_work_is_done(f"{prefix}[core.py:1635] [shutdown] EngineCore: start mode=drain timeout=60s")


@pytest.mark.parametrize(
    ("argv", "one"),
    [
        (["python", "-m", "vllm", "--tensor-parallel-size", "2"], True),
        (["--data-parallel-size", "2"], False),
        (["--data-parallel-size=2"], False),
        (["-dp", "2"], False),
    ],
)
def test_believes_one_core_only_where_there_is_one(argv: list[str], *, one: bool) -> None:
    """With data parallelism the first core to finish does not speak for the others."""
    assert has_one_core(argv) is one
