"""Codes 0300 to 0309: what is planned, and what the plan says of a declaration."""

from collections.abc import Iterator

from pulumi_tandem.check.registry import Breach, Rule, register, rule
from pulumi_tandem.resolve import Resolved

register(
    Rule(
        code="TND0300",
        title="a pool that is to be planned has a pinned shape",
        story="""A deployment does what was committed, so its pools are never decided while it runs: `tandem plan
        FILE --write` writes the shape that it chose into FILE's `.plan.json`, which is looked at and committed like any
        other change, and `plan=tandem.plan_of(__file__)` reads it.""",
        source="pulumi_tandem.declare.pinned",
    )
)
register(
    Rule(
        code="TND0301",
        title="a pinned shape was planned for this declaration",
        story="""A pin holds a hash of what planning read: model, engine, context, load, objectives, prices, pools. When
        one of them changes, the shape may be too small or needlessly large, and nobody would notice before the load
        comes. A newer release that plans better does not change the hash: it never changes a deployment by itself.""",
        source="pulumi_tandem.declare.pinned",
    )
)
register(
    Rule(
        code="TND0302",
        title="a pool that is to be planned has a load and objectives",
        story="""How many workers are enough depends on how much is asked and how fast answers must come. Without both
        there is nothing to plan for.""",
        source="pulumi_tandem.declare.service",
    )
)


@rule(
    code="TND0303",
    title="a request of mean length fits into the context",
    story="""A prompt and its answer share the context. Where the mean request is longer, most requests are refused with
    400 or end early with finish_reason 'length', and a plan for them means nothing.""",
    source="vLLM 0.32/0.33: each engine holds a request against its own max_model_len",
)
def workload_fits(resolved: Resolved) -> Iterator[Breach]:
    """Mean prompt and mean answer are within the shortest context of the pools."""
    if resolved.workload is None:
        return
    prompt, output = resolved.workload.prompts.mean, resolved.workload.outputs.mean
    context = min(pool.context_tokens for pool in resolved.pools)
    if prompt + output > context:
        message = (
            f"prompts of {prompt:g} and answers of {output:g} tokens are together more than the context of {context}; "
            "most requests would be refused or cut short"
        )
        yield Breach(path="workload", message=message, fix=f"set context_tokens to at least {prompt + output:.0f}")


register(
    Rule(
        code="TND0304",
        severity="warning",
        title="the declared pools meet the objectives under the declared load",
        story="""The estimate says how long the first token and each further one take under the declared load. It is
        an interval that holds about four of five measurements; this is said when even its favourable end misses an
        objective. `tandem plan FILE` shows the numbers, and the smallest shape that meets the objectives.""",
        source="pulumi_tandem.plan",
    )
)
register(
    Rule(
        code="TND0305",
        severity="warning",
        title="disaggregation is worth it",
        story="""Two pools cost whole workers on both sides and the transfer between them; what they win is that reading
        prompts no longer delays answers. At low load, with short prompts, with small models, that is not worth it. A
        close call is not told: this is said when, by the middle of the estimates, an aggregated service on the same
        kinds of GPU meets the same objectives with at least 15 % less (of cost, or of GPUs where a price is not
        known).""",
        source="pulumi_tandem.plan",
    )
)
register(
    Rule(
        code="TND0306",
        title="what is planned has a known speed and, if costs are compared, a known price",
        story="""A plan is computed from what a GPU can do and what it costs. The catalog does not say how fast `cpu`
        is, as machines differ, and prices differ by contract and region: what it does not know must be declared.""",
        source="pulumi_tandem.plan",
    )
)
