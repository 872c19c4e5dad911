"""Where autoscalers are to keep the gateways' figures."""

from pulumi_tandem.plan.worthwhile import decodes_max
from pulumi_tandem.resolve import Resolved
from tandem_worker.contract import Scaling

BACKLOG_S = 2.0
"""Seconds of prompts that may wait, where no objective says how soon the first token must come."""
BACKLOG_SHARE_OF_TTFT = 0.5
"""Of the TTFT objective: the rest is prefill itself and the hand-off."""
PREFILL_USAGE = 0.8
"""No more than that, or a pool that has caught up would become smaller, fall behind, and grow again for ever."""
KV_USAGE = 0.8
"""Above it vLLM's scheduler begins to preempt where answers are long."""
SLOT_USAGE = 0.9
"""Places for answers come free one by one, so a pool may be fuller of answers than of KV before anybody waits."""


def scaling(resolved: Resolved) -> Scaling | None:
    """The targets of a service; None where no autoscaler of ours moves any of its pools."""
    if not any(scaler.kind != "other" for pool in resolved.pools for scaler in pool.autoscalers):
        return None
    ttft_ms = resolved.objectives.ttft_ms if resolved.objectives else None
    return Scaling(
        prefill_backlog_s=ttft_ms / 1000 * BACKLOG_SHARE_OF_TTFT if ttft_ms else BACKLOG_S,
        prefill_usage=PREFILL_USAGE,
        decode_kv_usage=KV_USAGE,
        decode_slot_usage=SLOT_USAGE,
        answers_max=decodes_max(resolved, resolved.pools[-1]),
    )
