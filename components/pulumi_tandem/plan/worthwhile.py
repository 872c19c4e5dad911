"""From which prompt on a hand-off pays, and how many answers a worker can write at once."""

from collections.abc import Callable

from pulumi_tandem.estimate import EngineSetup, transfer_s
from pulumi_tandem.estimate.forward import pass_time
from pulumi_tandem.estimate.work import Batch
from pulumi_tandem.plan.candidate import setup_of
from pulumi_tandem.plan.machine import fabric, machine
from pulumi_tandem.resolve import Resolved, ResolvedPool

CONTEXT_SHARE = 0.25
"""Of the longest context: what running answers look back at where no workload says more."""


def hand_off_tokens_min(resolved: Resolved) -> int:
    """Tokens to read from which on a hand-off pays; 0 where every prompt is handed off.

    As declared. Else a prompt that is read by the worker that will answer it makes one step longer for all answers
    that are under way there; a hand-off makes its own client wait for the transfer. It pays from the prompt on that
    lengthens the step by more than its transfer takes, and at the latest from the one that doubles the step. The worker
    is taken as half full. A CPU's speed no table knows, and TensorRT-LLM hands off whatever it is given.
    """
    if resolved.hand_off_tokens_min is not None:
        return resolved.hand_off_tokens_min
    reader, writer = resolved.pools[0], resolved.pools[-1]
    if not resolved.disaggregated or any(pool.on_cpu or pool.vllm is None for pool in (reader, writer)):
        return 0
    transport = resolved.transfer.transport
    ends = [
        (setup := setup_of(resolved, pool), machine({}, pool.gpu.name, gpus=setup.gpus, transport=transport))
        for pool in (reader, writer)
    ]
    line, setup = fabric(transport, *ends), ends[1][0]
    sequences, context_tokens = max(1, decodes_max(resolved, writer) // 2), _context_tokens(resolved)
    step_s = _step_s(setup, sequences, context_tokens)

    def pays(tokens: int) -> bool:
        longer_s = _step_s(setup, sequences, context_tokens, prompt_tokens=tokens) - step_s
        return longer_s > min(step_s, transfer_s(ends[0][0], setup, line, prompt_tokens=tokens).mid)

    return _first(pays, writer.context_tokens)


def decodes_max(resolved: Resolved, pool: ResolvedPool) -> int:
    """Answers that one worker can write at once: what it admits, and no more than keep the declared time per token."""
    admitted = pool.sequences * pool.data_parallel
    if resolved.objectives is None or pool.on_cpu or pool.vllm is None:
        return admitted
    tpot_s, context_tokens = resolved.objectives.tpot_ms / 1e3, _context_tokens(resolved)
    setup = setup_of(resolved, pool)
    too_many = _first(lambda sequences: _step_s(setup, sequences, context_tokens) > tpot_s, admitted + 1)
    return max(1, too_many - 1)


def _step_s(setup: EngineSetup, sequences: int, context_tokens: float, *, prompt_tokens: int = 0) -> float:
    """A step for so many answers, with a prompt in it."""
    batch = Batch(
        prompt_tokens=prompt_tokens,
        prompt_context_tokens=(prompt_tokens + 1) / 2,
        sequences=sequences,
        context_tokens=context_tokens,
    )
    return pass_time(setup, batch).total_s


def _context_tokens(resolved: Resolved) -> float:
    """What a running answer looks back at, on average."""
    load = resolved.workload
    if load is None:
        return CONTEXT_SHARE * min(pool.context_tokens for pool in resolved.pools)
    return load.prompts.mean + load.outputs.mean / 2


def _first(holds: Callable[[int], bool], most: int) -> int:
    """The smallest number from 1 on for which it holds, and then for all above; `most` where it does for none below."""
    low, high = 1, most
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low
